"""Photos from a folder on this machine: a folder per class, classes in the files' names, or a table of labels."""

import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from darkroom.acquisition.candidate import Listing
from darkroom.acquisition.clock import Clock
from darkroom.acquisition.ledger import Ledger
from darkroom.acquisition.sources.folder_files import (
    FoundFile,
    leaves_folder,
    list_class_folders,
    name_candidates,
    walk_files,
)
from darkroom.acquisition.sources.label_table import read_label_table
from darkroom.acquisition.sources.source import ListedSource
from darkroom.params.acquire import AcquireParams, LabelFrom
from darkroom.pipeline.paths import SUBSETS
from darkroom.pipeline.stage import StageError, name_some

EXPECTED: dict[LabelFrom, str] = {
    "folder": "a folder with a folder per class",
    "file_name": "a folder of photos whose names begin with the class",
    "table": "a folder with photos and a table of labels",
}
# As in Kaggle's cats and dogs: cat.0.jpg, cat_0.jpg, cat (1).jpg, cat0001.jpg. `more` is empty in cat.jpg.
FIRST_PART = re.compile(r"(?P<first>[^._\-\s(\d]+)(?P<more>.*?)(\.[^.]*)?", re.DOTALL)


Found = tuple[dict[str, list[FoundFile]], int]  # the files of each label, and how many files were skipped


def list_folder(
    folder: Path,
    classes: Mapping[str, str],
    label_from: LabelFrom,
    table: str | None,
    subset_folders: Mapping[str, str],
) -> Listing:
    """List the photos of a folder by label, in the order of `classes`, or sorted without them.

    A label's photos are ordered by subset (train, validation, test) if subsets are folders, then by path, folder by
    folder, as plain text: cat.10 before cat.2. Hidden files and folders, system files, files that are not regular, and
    files without a label, such as one beside the class folders, are skipped and counted. Links to files are followed,
    links to folders only as class folders.

    Args:
        folder: contains the photos, in the layout that `label_from` names.
        classes: label to the folder, the first part of a file name or the table's label; empty for all, unchanged.
        label_from: folder: a folder per class, with subfolders. file_name: the class is the part before the first
            `.`, `_`, `-`, `(`, white space or digit. Something other than the extension must follow, as in cat.0.jpg;
            cat.jpg is a cat if `classes` or another file has a cat, and README.md has no class. table: see
            `read_label_table`.
        table: path of the table below `folder`, for label_from table.
        subset_folders: given subset (predefined split) to a folder with this layout; empty if `folder` itself has it.

    Raises:
        StageError: the folder, or one named in `classes`, `table` or `subset_folders`, is missing, has no photos, or
            does not have the layout.
    """
    if not os.path.isdir(folder):
        raise StageError(
            f"acquire.folder: expected {EXPECTED[label_from]}, but {str(folder)!r} "
            f"{'is a file' if os.path.exists(folder) else 'does not exist'}"
        )
    check_distinct(classes)
    match label_from:
        case "folder":
            found, skipped = find_in_class_folders(folder, classes, locate_subsets(folder, subset_folders))
        case "file_name":
            found, skipped = find_by_file_name(folder, classes, locate_subsets(folder, subset_folders))
        case "table":
            if subset_folders:
                raise StageError(
                    f"acquire.layout.subset_folders: expected {{}} for label_from table, got {dict(subset_folders)}; "
                    "use a third column of the table, `subset`, with train, validation or test"
                )
            found, skipped = find_in_table(folder, classes, table)
    return Listing(name_candidates(found), skipped)


def check_distinct(classes: Mapping[str, str]) -> None:
    """Reject two labels for the same class: a photo has one label."""
    repeated = [name for name, count in Counter(classes.values()).items() if count > 1]
    if repeated:
        labels = [label for label, name in classes.items() if name == repeated[0]]
        raise StageError(f"acquire.classes: {' and '.join(labels)} are both {repeated[0]!r}; expected one label for it")


def locate_subsets(folder: Path, subset_folders: Mapping[str, str]) -> dict[str, Path]:
    """Map each given subset to its folder; without subsets, map "" to the whole folder."""
    subset_paths = {subset: os.path.normpath(subset_folders[subset]) for subset in SUBSETS if subset in subset_folders}
    for subset, path in subset_paths.items():
        if leaves_folder(Path(path).as_posix()) or not os.path.isdir(folder / path):
            raise StageError(
                f"acquire.layout.subset_folders: {str(folder)!r} has no folder {subset_folders[subset]} for {subset}; "
                f"it has {name_some(list_class_folders(folder)[0])}"
            )
        for other in subset_paths:
            if other != subset and Path(path).is_relative_to(subset_paths[other]):
                raise StageError(
                    f"acquire.layout.subset_folders: the folder of {subset}, {path!r}, overlaps that of {other}, "
                    f"{subset_paths[other]!r}; expected separate folders"
                )
    return {subset: folder / path for subset, path in subset_paths.items()} or {"": folder}


def find_in_class_folders(folder: Path, classes: Mapping[str, str], subset_paths: Mapping[str, Path]) -> Found:
    class_folders: dict[str, list[str]] = {}
    skipped = 0
    for subset, path in subset_paths.items():
        names, count = list_class_folders(path)
        skipped += count
        if not names:
            raise StageError(
                f"acquire.folder: {str(path)!r} contains no folders; put the photos of each class into a folder "
                "with the name of the class"
            )
        for name in names:
            class_folders.setdefault(name, []).append(subset)
    found: dict[str, list[FoundFile]] = {}
    for label, name in choose_labels(folder, classes, class_folders, "folder").items():
        found[label] = []
        for subset in class_folders[name]:
            files, count = walk_files(subset_paths[subset] / name)
            skipped += count
            if not files:
                raise StageError(
                    f"acquire.folder: the class folder {str(subset_paths[subset] / name)!r} has no files; add photos "
                    "or remove it"
                )
            found[label] += locate_files(files, subset_paths[subset] / name, subset)
    return found, skipped


def find_by_file_name(folder: Path, classes: Mapping[str, str], subset_paths: Mapping[str, Path]) -> Found:
    files: list[FoundFile] = []
    skipped = 0
    for subset, path in subset_paths.items():
        paths, count = walk_files(path)
        skipped += count
        if not paths:
            raise StageError(f"acquire.folder: {str(path)!r} has no files; add photos")
        files += locate_files(paths, path, subset)
    parts = [FIRST_PART.fullmatch(file.name.rpartition("/")[2]) for file in files]
    known = set(classes.values()) | {part["first"] for part in parts if part and part["more"]}
    found: dict[str, list[FoundFile]] = {}
    for file, part in zip(files, parts, strict=True):
        if part and part["first"] in known:
            found.setdefault(part["first"], []).append(file)
        else:
            skipped += 1
    if not found:
        raise StageError(
            f"acquire.layout.label_from: no file name in {str(folder)!r} begins with a class; expected names such as "
            f"cat.0.jpg or cat_0.jpg, got {name_some([file.name for file in files], 3)}; rename the files, or write a "
            "table of files and labels and set label_from to table"
        )
    chosen = choose_labels(folder, classes, found, "file name that begins with")
    return {label: found[name] for label, name in chosen.items()}, skipped


def find_in_table(folder: Path, classes: Mapping[str, str], table: str | None) -> Found:
    if table is None:
        raise StageError("acquire.layout.table: expected the path of a CSV file for label_from table, got null")
    files, skipped = walk_files(folder)
    rows, without_row = read_label_table(folder, table, files)
    found: dict[str, list[FoundFile]] = {}
    for row in sorted(rows, key=lambda row: row.file.split("/")):
        missing = "" if row.exists else f"no such file: named in row {row.number} of {table}"
        file = FoundFile(row.file, os.path.join(folder, row.file), row.given_subset, missing)
        found.setdefault(row.label, []).append(file)
    chosen = choose_labels(folder / table, classes, found, "label")
    return {label: found[name] for label, name in chosen.items()}, skipped + without_row


def choose_labels(where: Path, classes: Mapping[str, str], names: Collection[str], kind: str) -> Mapping[str, str]:
    """Map labels to `names`: those in `classes`, or all names, each labeled with itself."""
    missing = [name for name in classes.values() if name not in names]
    if missing:
        raise StageError(
            f"acquire.classes: {str(where)!r} has no {kind} {', '.join(missing)}; it has {name_some(sorted(names))}"
        )
    return classes or {name: name for name in sorted(names)}


def locate_files(files: Iterable[str], path: Path, subset: str) -> list[FoundFile]:
    prefix = f"{subset}/" if subset else ""
    return [FoundFile(prefix + file, os.path.join(path, file), subset) for file in files]


def list_photos(params: AcquireParams, _ledger: Ledger, _clock: Clock) -> Listing:
    assert params.layout
    layout = params.layout
    return list_folder(Path(params.folder), params.classes, layout.label_from, layout.table, layout.subset_folders)


SOURCE = ListedSource(list_photos=list_photos)
