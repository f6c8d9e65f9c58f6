"""Write params.yaml from a recipe: recipes/base.yaml, with the values of recipes/<name>.yaml.

Reads   recipes/       base.yaml and the recipe
        Git            whether params.yaml has uncommitted changes
Writes  params.yaml    all params, each with its comment
Run as  darkroom recipe [NAME] [--set train.epochs=5 ...] [--force]
"""

import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from darkroom.params.recipes import describe_recipe, find_section, list_recipes, write_recipe
from darkroom.params.section import read_document
from darkroom.params.sections import list_file_errors
from darkroom.pipeline.files import write_text
from darkroom.pipeline.paths import PARAMS
from darkroom.pipeline.stage import StageError

MISSING = object()


def parse_changes(settings: Iterable[str]) -> dict[str, Any]:
    """Parse settings such as "train.epochs=5", whose values are YAML, into values by dotted name.

    Raises:
        StageError: a setting has no name or no value, or its value is not valid YAML.
    """
    changes: dict[str, Any] = {}
    for setting in settings:
        name, separator, value = setting.partition("=")
        if not (name and separator):
            raise StageError(f"--set {setting}: expected PARAM=VALUE, such as --set train.epochs=5")
        try:
            changes[name.strip()] = YAML(typ="safe").load(value)
        except (YAMLError, ValueError):
            raise StageError(f"--set {setting}: expected YAML after the =, got {value!r}") from None
    return changes


def check_file(text: str, name: str) -> None:
    """Validate the content of a params.yaml.

    Raises:
        StageError: it is not valid; the message lists all errors.
    """
    with TemporaryDirectory(prefix="darkroom-recipe-") as folder:
        file = Path(folder, PARAMS.name)
        file.write_text(text, encoding="utf-8")
        errors = [error.removeprefix(f"{file}: ") for error in list_file_errors(file, "acquire")]
    if errors:
        raise StageError("\n".join([f"{name} with these values is not valid; nothing was written. Errors:", *errors]))


def list_values(params: Mapping[str, Any], keys: Sequence[str] = ()) -> Iterator[tuple[str, Any]]:
    """The dotted name and the value of each param."""
    for key, value in params.items():
        if isinstance(value, Mapping) and find_section([*keys, str(key)]) is not None:
            yield from list_values(value, [*keys, str(key)])
        else:
            yield ".".join([*keys, str(key)]), value


def list_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """The params that differ between two params files, a line each."""
    old, new = dict(list_values(before)), dict(list_values(after))
    return [
        f"{name}: {format_value(old.get(name, MISSING))} -> {format_value(new.get(name, MISSING))}"
        for name in dict.fromkeys([*new, *old])
        if old.get(name, MISSING) != new.get(name, MISSING)
    ]


def format_value(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case _:
            return "(none)" if value is MISSING else str(value)


def is_replaceable(text: str) -> bool:
    """Whether this content of params.yaml can be recovered once it is overwritten: from a recipe, or from Git."""
    with suppress(OSError):  # Git is not installed
        committed = subprocess.run(["git", "show", f"HEAD:./{PARAMS}"], capture_output=True, check=False)
        if committed.returncode == 0 and committed.stdout == text.encode(errors="surrogateescape"):
            return True
    return any(text == write_recipe(name, {}) for name in list_recipes())


def main(name: str | None, settings: Sequence[str], force: bool) -> None:
    if not list_recipes():
        raise StageError(f"there are no recipes in {Path.cwd()}; run this in the project's folder")
    if name is None:
        for recipe in list_recipes():
            print(f"{recipe:<{max(map(len, list_recipes()))}}  {' '.join(describe_recipe(recipe)).partition('. ')[0]}")
        return
    text = write_recipe(name, parse_changes(settings))
    check_file(text, name)
    before: Mapping[str, Any] = {}
    if PARAMS.exists():
        current = PARAMS.read_text(encoding="utf-8", errors="surrogateescape")
        if current != text and not force and not is_replaceable(current):
            raise StageError(
                f"{PARAMS} has uncommitted changes; commit them first (`git commit {PARAMS}`), or overwrite them with "
                "--force"
            )
        with suppress(StageError):  # an invalid file has no values to compare
            before = read_document(PARAMS)
    write_text(PARAMS, text)
    changes = list_changes(before, read_document(PARAMS))
    print("\n".join([*describe_recipe(name), *([""] if changes else []), *changes]))
    print(f"recipe: {name} -> {PARAMS}, values changed: {len(changes)}; run `dvc repro` to use it")
