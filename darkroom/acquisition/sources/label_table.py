"""A table of labels: a CSV file in a folder of photos that says which class each photo has."""

import csv
import io
import os
import posixpath
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from darkroom.acquisition.sources.folder_files import drop_ending, leaves_folder
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

    The first column is a file: its path from `folder` or from the table's own folder, or its bare name if only one
    folder has it; the ending may be left out. The second column is the label, the third, if there, the given subset:
    train, validation, test or nothing. The first row is a header if it names no file and its label is no other row's;
    then the subset is the column `subset`, and other columns after the second are ignored.

    Args:
        folder: holds the photos and the table.
        table: path of the table below `folder`.
        files: all files below `folder`, as paths with "/" between their parts.

    Returns:
        a row per file, also where there is no such file, and how many of `files` no row names.

    Raises:
        StageError: the table is missing, is no such table, or has a row without a label, with a path that leaves the
            folder, with a name of several files, or with something else about a file than another row.
    """
    place = posixpath.normpath(Path(table).as_posix())
    if leaves_folder(place):
        raise StageError(
            f"acquire.layout.table: {table!r} is not in {str(folder)!r}; expected a path below that folder, which DVC "
            "watches as a whole"
        )
    if not os.path.isfile(folder / place):
        tables = [file for file in files if file.lower().endswith((".csv", ".tsv"))]
        raise StageError(
            f"acquire.layout.table: {str(folder)!r} has no file {table!r}; of CSV files it has {name_some(tables)}"
        )
    lines = read_cells(folder / place)
    photos = [file for file in files if file != place]
    rows = read_rows(table, lines, posixpath.dirname(place), index_files(photos))
    if not rows:
        raise StageError(f"acquire.layout.table: {table!r} has no rows; expected a file and a label in each")
    return list(rows.values()), len(photos) - sum(row.exists for row in rows.values())


def read_cells(path: Path) -> list[tuple[int, list[str]]]:
    """Read the rows that are not empty, each with its number."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=choose_delimiter(text))
        rows = [[cell.strip() for cell in row] for row in reader]
    except OSError as error:
        raise StageError(f"acquire.layout.table: {str(path)!r} cannot be read ({error.strerror})") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise StageError(
            f"acquire.layout.table: {str(path)!r} is no CSV file in UTF-8 ({error}); save it as one"
        ) from None
    return [(number, row) for number, row in enumerate(rows, 1) if any(row)]


def choose_delimiter(text: str) -> str:
    """The sign that most lines have; of two such the one that comes first, as labels may hold the other."""
    lines = text.splitlines()
    return max(sorted(DELIMITERS, key=(text + DELIMITERS).find), key=lambda sign: sum(sign in line for line in lines))


def read_rows(
    table: str, lines: Sequence[tuple[int, list[str]]], table_folder: str, index: FileIndex
) -> dict[str, TableRow]:
    """Read the rows, by file."""
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
        row = read_row(f"acquire.layout.table: row {number} of {table!r}", number, cells, subset, table_folder, index)
        before = rows.setdefault(row.file, row)
        said = [" ".join((either.label, either.given_subset)).strip() for either in (before, row)]
        if said[0] != said[1]:
            raise StageError(
                f"acquire.layout.table: rows {before.number} and {number} of {table!r} say different things of "
                f"{row.file!r}: {said[0]!r} and {said[1]!r}; remove one of them"
            )
    return rows


def is_header(lines: Sequence[tuple[int, list[str]]], table_folder: str, index: FileIndex) -> bool:
    """A first row whose file is merely missing has a label that other rows have, too."""
    (file, label, *_), others = lines[0][1], lines[1:]
    return not find_files(file, table_folder, index) and all(cells[1] != label for _, cells in others)


def read_row(where: str, number: int, cells: list[str], subset: str, table_folder: str, index: FileIndex) -> TableRow:
    file, label = cells[:2]
    if not file or not label:
        raise StageError(f"{where} has no {'label' if file else 'file'}; expected both, got {cells}; complete it")
    if subset not in ("", *SUBSETS):
        raise StageError(
            f"{where} gives the subset {subset!r}; expected {', '.join(SUBSETS)} or nothing. If this column is "
            "something else, name the columns in a first row"
        )
    places = list_places(file, table_folder)
    if not places:
        raise StageError(f"{where} names {file!r}, which is not in the folder; expected a path from that folder")
    found = find_files(file, table_folder, index)
    if len(found) > 1:
        raise StageError(
            f"{where} names {file!r}, which may be {name_some(found, 3)}; expected the path of one file, such as "
            f"{found[0]!r}"
        )
    return TableRow(found[0] if found else places[0], label, subset, number, bool(found))


def list_places(file: str, table_folder: str) -> list[str]:
    """Where below the folder a file of the table may be: from the folder itself or from the table's own."""
    places = (posixpath.normpath(file), posixpath.normpath(posixpath.join(table_folder, file)))
    return [place for place in places if not leaves_folder(place)]


def find_files(file: str, table_folder: str, index: FileIndex) -> Sequence[str]:
    """The files that a name in the table may mean: one if the table is right."""
    places = list_places(file, table_folder)
    return next((by_key[place] for by_key in index for place in places if place in by_key), [])


def index_files(files: Sequence[str]) -> FileIndex:
    """Map what a table may call a file to the files, by their paths, names, and both without the ending."""
    paths: dict[str, list[str]] = {file: [file] for file in files}
    names, path_stems, name_stems = (defaultdict[str, list[str]](list) for _ in range(3))
    for file in files:
        name = posixpath.basename(file)
        names[name].append(file)
        path_stems[posixpath.join(posixpath.dirname(file), drop_ending(name))].append(file)
        name_stems[drop_ending(name)].append(file)
    return paths, names, path_stems, name_stems
