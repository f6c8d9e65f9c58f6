"""A table of labels: a CSV file in a folder of photos that says which class each photo has."""

import csv
import io
import os
import posixpath
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from darkroom.acquisition.sources.folder_files import leaves_folder, strip_extension
from darkroom.pipeline.paths import SUBSETS
from darkroom.pipeline.stage import StageError, name_some

DELIMITERS = ",;\t"
FileIndex = Sequence[Mapping[str, Sequence[str]]]


class TableRow(NamedTuple):
    """`file` is a path below the folder, with "/" between its parts; `number` counts all rows of the table from 1."""

    file: str
    label: str
    given_subset: str
    number: int
    exists: bool


def read_label_table(folder: Path, table: str, files: Sequence[str]) -> tuple[list[TableRow], int]:
    """Read a table of files and labels: UTF-8, with commas, semicolons or tabs.

    The first column is a file: its path relative to `folder` or to the table's own folder, or only its name if it is
    unique; the extension may be omitted. The second column is the label. An optional third column is the given subset:
    train, validation, test or empty. The first row is a header if it names no file and no other row has its label;
    then the subset is in the column `subset`, and other columns after the second are ignored.

    Args:
        folder: contains the photos and the table.
        table: path of the table below `folder`.
        files: all files below `folder`, as paths with "/" between their parts.

    Returns:
        a row per file, including missing files, and the number of `files` without a row.

    Raises:
        StageError: the table is missing or malformed, or has a row without a label, with a path outside the folder,
            with a name that several files have, or one that contradicts another row.
    """
    path = posixpath.normpath(Path(table).as_posix())
    if leaves_folder(path):
        raise StageError(
            f"acquire.layout.table: {table!r} is not in {str(folder)!r}; expected a path below that folder, which DVC "
            "tracks as a whole"
        )
    if not os.path.isfile(folder / path):
        tables = [file for file in files if file.lower().endswith((".csv", ".tsv"))]
        raise StageError(
            f"acquire.layout.table: {str(folder)!r} has no file {table!r}; its CSV files: {name_some(tables)}"
        )
    lines = read_cells(folder / path)
    photos = [file for file in files if file != path]
    rows = parse_rows(table, lines, posixpath.dirname(path), index_files(photos))
    if not rows:
        raise StageError(f"acquire.layout.table: {table!r} has no rows; expected a file and a label in each")
    return list(rows.values()), len(photos) - sum(row.exists for row in rows.values())


def read_cells(path: Path) -> list[tuple[int, list[str]]]:
    """Read the non-empty rows, each with its number."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=choose_delimiter(text))
        rows = [[cell.strip() for cell in row] for row in reader]
    except OSError as error:
        raise StageError(f"acquire.layout.table: {str(path)!r} cannot be read ({error.strerror})") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise StageError(
            f"acquire.layout.table: {str(path)!r} is not a CSV file in UTF-8 ({error}); save it as one"
        ) from None
    return [(number, row) for number, row in enumerate(rows, 1) if any(row)]


def choose_delimiter(text: str) -> str:
    """The delimiter that most lines contain; in a tie the one that comes first, as labels may contain the other."""
    lines = text.splitlines()
    return max(sorted(DELIMITERS, key=(text + DELIMITERS).find), key=lambda mark: sum(mark in line for line in lines))


def parse_rows(
    table: str, lines: Sequence[tuple[int, list[str]]], table_folder: str, index: FileIndex
) -> dict[str, TableRow]:
    """Parse the rows; return them by file."""
    for number, cells in lines:
        if len(cells) < 2:
            raise StageError(
                f"acquire.layout.table: row {number} of {table!r} is {cells[0]!r}; expected a file and a label, with a "
                "comma, a semicolon or a tab between them"
            )
    subset_column = 2
    if lines and is_header(lines, table_folder, index):
        names = [cell.lower() for cell in lines[0][1]]
        subset_column = names.index("subset", 2) if "subset" in names[2:] else -1
        lines = lines[1:]
    rows: dict[str, TableRow] = {}
    for number, cells in lines:
        subset = cells[subset_column] if 0 < subset_column < len(cells) else ""
        row = parse_row(f"acquire.layout.table: row {number} of {table!r}", number, cells, subset, table_folder, index)
        before = rows.setdefault(row.file, row)
        contents = [" ".join((either.label, either.given_subset)).strip() for either in (before, row)]
        if contents[0] != contents[1]:
            raise StageError(
                f"acquire.layout.table: rows {before.number} and {number} of {table!r} disagree about "
                f"{row.file!r}: {contents[0]!r} and {contents[1]!r}; remove one of them"
            )
    return rows


def is_header(lines: Sequence[tuple[int, list[str]]], table_folder: str, index: FileIndex) -> bool:
    """Whether the first row is a header. If only its file is missing, other rows have its label too."""
    (file, label, *_), others = lines[0][1], lines[1:]
    return not match_files(file, table_folder, index) and all(cells[1] != label for _, cells in others)


def parse_row(where: str, number: int, cells: list[str], subset: str, table_folder: str, index: FileIndex) -> TableRow:
    file, label = cells[:2]
    if not file or not label:
        raise StageError(f"{where} has no {'label' if file else 'file'}; expected both, got {cells}; complete it")
    if subset not in ("", *SUBSETS):
        raise StageError(
            f"{where} gives the subset {subset!r}; expected {', '.join(SUBSETS)} or nothing. If this column is "
            "something else, name the columns in a first row"
        )
    paths = possible_paths(file, table_folder)
    if not paths:
        raise StageError(f"{where} names {file!r}, which is outside the folder; expected a path inside it")
    found = match_files(file, table_folder, index)
    if len(found) > 1:
        raise StageError(
            f"{where} names {file!r}, which may be {name_some(found, 3)}; expected the path of one file, such as "
            f"{found[0]!r}"
        )
    return TableRow(found[0] if found else paths[0], label, subset, number, bool(found))


def possible_paths(file: str, table_folder: str) -> list[str]:
    """The paths below the folder that a file of the table may have: relative to the folder or to the table's own."""
    paths = (posixpath.normpath(file), posixpath.normpath(posixpath.join(table_folder, file)))
    return [path for path in paths if not leaves_folder(path)]


def match_files(file: str, table_folder: str, index: FileIndex) -> Sequence[str]:
    """The files that a name in the table may mean: one if the name is unambiguous."""
    paths = possible_paths(file, table_folder)
    return next((by_key[path] for by_key in index for path in paths if path in by_key), [])


def index_files(files: Sequence[str]) -> FileIndex:
    """Map the names that a table may use to the files: paths, bare names, and both without the extension."""
    paths: dict[str, list[str]] = {file: [file] for file in files}
    names, path_stems, name_stems = (defaultdict[str, list[str]](list) for _ in range(3))
    for file in files:
        name = posixpath.basename(file)
        names[name].append(file)
        path_stems[posixpath.join(posixpath.dirname(file), strip_extension(name))].append(file)
        name_stems[strip_extension(name)].append(file)
    return paths, names, path_stems, name_stems
