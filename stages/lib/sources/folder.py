"""Photos from a folder on this machine that has a folder per class."""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from stages.lib.sources.candidate import Candidate
from stages.lib.stage import StageError

SYSTEM_FILES = ("Thumbs.db", "desktop.ini")


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
    """List the files in a class folder and in folders below it, which become part of a photo's name."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and not is_passed_over(file, folder))
    if not files:
        raise StageError(f"acquire.folder: the class folder {str(folder)!r} has no files; add photos or remove it")
    names = {file: "-".join(file.relative_to(folder).parts) for file in files}
    taken = set(names.values())
    stems = Counter(Path(name).stem for name in names.values())
    for file, name in names.items():
        # Two files may differ in their endings only; then the ending becomes part of the name.
        stem = Path(name).stem
        unique = name if stems[stem] > 1 or stem in taken else stem
        yield Candidate(photo=f"{label}-{unique}", label=label, read=file.read_bytes, source="folder")


def is_passed_over(file: Path, folder: Path) -> bool:
    """Whether a file, or a folder on the way to it, is hidden or is what a system leaves behind, as in .dvcignore."""
    return file.name in SYSTEM_FILES or any(part.startswith(".") for part in file.relative_to(folder).parts)
