"""Photos from a folder on this machine that has a folder per class."""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from stages.lib.sources.candidate import Candidate
from stages.lib.stage import StageError


def list_folder(folder: Path, classes: Mapping[str, str]) -> Iterator[Candidate]:
    """List the files of each class folder, by name. Hidden files and folders are passed over.

    Args:
        folder: holds a folder per class.
        classes: label to folder name; empty for every folder, each labelled with its own name.

    Raises:
        StageError: the folder is missing, has no class folders, lacks one that `classes` names, or one is empty.
    """
    if not folder.is_dir():
        raise StageError(
            f"acquire.folder: expected a folder with a folder per class, but {str(folder)!r} "
            f"{'is a file' if folder.exists() else 'does not exist'}"
        )
    found = sorted(child.name for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))
    if not found:
        raise StageError(
            f"acquire.folder: {str(folder)!r} has no folders in it; put the photos of each class into a folder "
            "of the class's name"
        )
    missing = [name for name in classes.values() if name not in found]
    if missing:
        raise StageError(
            f"acquire.classes: {str(folder)!r} has no folder {', '.join(missing)}; it has {', '.join(found)}"
        )
    for label, name in (classes or {name: name for name in found}).items():
        yield from list_class(folder / name, label)


def list_class(folder: Path, label: str) -> Iterator[Candidate]:
    files = sorted(file for file in folder.iterdir() if file.is_file() and not file.name.startswith("."))
    if not files:
        raise StageError(f"acquire.folder: the class folder {str(folder)!r} has no files; add photos or remove it")
    stems = Counter(file.stem for file in files)
    names = {file.name for file in files}
    for file in files:
        # Two files may differ in their endings only; then the ending becomes part of the name.
        name = file.stem if stems[file.stem] == 1 and file.stem not in names else file.name
        yield Candidate(photo=f"{label}-{name}", label=label, read=file.read_bytes, source="folder")
