"""Atomic files: text, JSON and CSV tables are written under a temporary name and then renamed."""

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from darkroom.pipeline.stage import StageError


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, and rename it to `path` if the block raises no exception."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_bytes(path: Path, content: bytes) -> None:
    with whole_file(path) as partial:
        partial.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode())


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV file with a header line, "\\n" line endings, and floats in their shortest exact form."""
    write_text(path, "".join(map(format_row, [columns, *rows])))


def format_row(row: Sequence[object]) -> str:
    # Before Python 3.13 the writer quotes a carriage return only if its own line terminator has one.
    line = io.StringIO(newline="")
    csv.writer(line, lineterminator="\r\n").writerow(row)
    return line.getvalue().removesuffix("\r\n") + "\n"


def read_table(path: Path, columns: Sequence[str] | None = None) -> list[dict[str, str]]:
    """Read a CSV file that `write_table` wrote.

    Raises:
        StageError: the file is missing, a row has too few or too many cells, or the columns differ from `columns`,
            if given.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            names = list(reader.fieldnames or [])
            if columns is not None and names != list(columns):
                raise StageError(
                    f"{path}: expected the columns {', '.join(columns)}, got {', '.join(names)}; {written_again(path)}"
                )
            rows = list(reader)
    except FileNotFoundError:
        raise StageError(f"{path} is missing; {written_again(path)}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise StageError(f"{path}: cannot be read as a table ({error}); {written_again(path)}") from None
    for number, row in enumerate(rows, 1):
        if None in row or None in row.values():
            raise StageError(f"{path}: row {number} does not have {len(names)} cells; {written_again(path)}")
    return rows


def written_again(path: Path) -> str:
    """Advice for a file of the pipeline that is missing or damaged: the command that writes it again."""
    stage = path.parts[1] if path.parts[0] == "data" else path.parts[1].removesuffix(".json")
    return f"`dvc repro --force --single-item {stage}` writes it again"
