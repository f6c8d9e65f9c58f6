"""Read YAML files that people and Git edit; what is wrong with one is an error of one line that names the line."""

import re
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent, NodeEvent

from darkroom.pipeline.stage import StageError

CONFLICT = re.compile("^([<>]{7})( .*)?$", re.MULTILINE)
# The parser itself would crash on some thousand levels, and aliases of aliases can stand for billions of values.
MOST_LEVELS, MOST_VALUES = 100, 1_000_000


def load_yaml(path: Path) -> Any:
    """Load a file as YAML 1.2, like DVC (`1e-3` is a number).

    Raises:
        FileNotFoundError: there is no such file.
        StageError: it is not UTF-8, has conflict markers, is not valid YAML, or is too deep or too large to use.
    """
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise StageError(
            f"{path} is not valid YAML: line {line} has the byte 0x{content[error.start]:02x}, which is not UTF-8; "
            "save the file as UTF-8"
        ) from None
    marker = CONFLICT.search(text)
    if marker is not None:
        raise StageError(
            f"{path}: line {count_lines(text, marker.start())} is a conflict marker of Git ({marker[0]}); edit the "
            f"file, or take one side with `git checkout --ours {path}` or `--theirs`, then run this again"
        )
    try:
        check_extent(path, text)
        return YAML(typ="safe").load(text)
    except MarkedYAMLError as error:
        raise StageError(f"{path} is not valid YAML: {describe_syntax_error(error, text)}") from None
    except (YAMLError, ValueError) as error:
        raise StageError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None


def count_lines(text: str, end: int) -> int:
    """The number of the line that the character `end` is in."""
    return text.count("\n", 0, end) + 1


def describe_syntax_error(error: MarkedYAMLError, text: str) -> str:
    """Describe an error with its line, without the file's name and the advice for programmers."""
    problem = " ".join(str(error.problem or error.context).split())
    mark = error.problem_mark or error.context_mark
    if mark is None:
        return problem
    line = text.splitlines()[mark.line] if mark.line < len(text.splitlines()) else ""
    advice = "; indent with spaces, not with tabs" if line.strip() and "\t" in line[: -len(line.lstrip())] else ""
    return f"line {mark.line + 1}: {problem}{advice}"


def check_extent(path: Path, text: str) -> None:
    """Check how deep the values are nested, and how many there are with aliases replaced by what they stand for.

    Raises:
        StageError: there are too many, or an alias stands for a value that contains it.
    """
    opened: list[str | None] = []  # the anchors of the collections around an event
    counts = [0]  # the values so far in each of them, and in the file
    values: dict[str, int] = {}  # by anchor
    for event in YAML(typ="safe").parse(text):
        line = event.start_mark.line + 1
        if isinstance(event, CollectionStartEvent):
            opened.append(event.anchor)
            counts.append(0)
        elif isinstance(event, CollectionEndEvent):
            count = counts.pop() + 1
            values[opened.pop() or ""] = count
            counts[-1] += count
        elif isinstance(event, AliasEvent):
            if event.anchor in opened:
                raise StageError(f"{path}: line {line}: the alias *{event.anchor} stands for a value that contains it")
            counts[-1] += values.get(event.anchor, 1)
        elif isinstance(event, NodeEvent):
            counts[-1] += 1
        if len(opened) > MOST_LEVELS:
            raise StageError(f"{path}: line {line} is nested deeper than {MOST_LEVELS} levels; use fewer levels")
        if counts[-1] > MOST_VALUES:
            raise StageError(f"{path}: line {line}: aliases make more than {MOST_VALUES:,} values; use fewer of them")
