"""Files that are whole or absent: text, JSON and CSV tables, written under a temporary name and then renamed."""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stages.lib.stage import StageError


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; what was written there takes the name `path` when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    with whole_file(path) as partial:
        partial.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode())


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV file with a header line, "\\n" line ends and floats in their shortest exact form."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    write_text(path, text.getvalue())


def read_table(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Read a CSV file that `write_table` wrote.

    Raises:
        StageError: the file is missing or its columns are not `columns`.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if list(reader.fieldnames or []) != list(columns):
                raise StageError(
                    f"{path}: expected the columns {', '.join(columns)}, got {', '.join(reader.fieldnames or [])}; "
                    f"{written_again(path)}"
                )
            return list(reader)
    except FileNotFoundError:
        raise StageError(f"{path} is missing; {written_again(path)}") from None


def written_again(path: Path) -> str:
    """The advice for a file of the pipeline that is missing or is not what its stage wrote."""
    stage = path.parts[1] if path.parts[0] == "data" else path.parts[1].removesuffix(".json")
    return f"`dvc repro --force --single-item {stage}` writes it anew"
