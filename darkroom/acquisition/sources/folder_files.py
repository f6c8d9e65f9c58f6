"""Files of a local folder: listing them, turning them into candidates, and reading them."""

import os
import stat
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from darkroom.acquisition.candidate import Candidate, PhotoUnavailable, fold_name, raise_unavailable
from darkroom.photos.photo_file import UnreadableFile, read_photo_file
from darkroom.pipeline.stage import StageError

SYSTEM_FILES = ("Thumbs.db", "desktop.ini")


class FoundFile(NamedTuple):
    """A file that has a label. `name` becomes the photo's name, with "-" for "/"; `missing` is the reason if the file
    does not exist."""

    name: str
    path: str
    given_subset: str = ""
    missing: str = ""


def list_class_folders(folder: Path) -> tuple[list[str], int]:
    """The sorted names of the folders in a folder, and the number of other entries."""
    entries = scan(folder)
    names = sorted(entry.name for entry in entries if not is_skipped(entry.name) and os.path.isdir(entry.path))
    return names, len(entries) - len(names)


def walk_files(folder: Path, keep_unlistable: bool = False) -> tuple[list[str], int]:
    """The files below a folder, as sorted paths with "/" between their parts, and the number of skipped entries.

    Args:
        folder: where to look.
        keep_unlistable: add a folder that cannot be listed to the files, instead of raising an error.

    Raises:
        StageError: a folder cannot be listed.
    """
    files: list[str] = []
    skipped = 0
    prefixes = [""]
    while prefixes:
        prefix = prefixes.pop()
        try:
            entries = scan(folder / prefix)
        except StageError:
            if not keep_unlistable:
                raise
            files.append(prefix.removesuffix("/"))
            continue
        for entry in entries:
            if is_skipped(entry.name):
                skipped += 1
            elif entry.is_dir(follow_symlinks=False):
                prefixes.append(f"{prefix}{entry.name}/")
            elif is_readable(entry):
                files.append(prefix + entry.name)
            else:
                skipped += 1
    return sorted(files, key=lambda file: file.split("/")), skipped


def scan(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise StageError(
            f"the folder {str(folder)!r} cannot be listed ({error.strerror}); make it readable or remove it"
        ) from None


def is_skipped(name: str) -> bool:
    """Whether a file or folder is hidden or a system file, as in .dvcignore."""
    return name.startswith(".") or name in SYSTEM_FILES


def is_readable(entry: os.DirEntry[str]) -> bool:
    """Whether this is a file or a link to one. A broken link counts: `read_file` reports it."""
    if not entry.is_symlink():
        return entry.is_file(follow_symlinks=False)
    try:
        return stat.S_ISREG(os.stat(entry.path).st_mode)
    except OSError:
        return True


def name_candidates(found: Mapping[str, Sequence[FoundFile]]) -> dict[str, list[Candidate]]:
    """Make candidates whose photos are named after label and file, without the extension."""
    taken: set[str] = set()
    candidates: dict[str, list[Candidate]] = {}
    for label, files in found.items():
        names = [file.name.replace("/", "-") for file in files]
        stems = Counter(map(strip_extension, names))
        whole = set(names)
        candidates[label] = []
        for file, name in zip(files, names, strict=True):
            # If two files differ only in their extensions, the extension becomes part of the name.
            stem = strip_extension(name)
            photo = f"{label}-{name if stems[stem] > 1 or stem in whole else stem}"
            while fold_name(photo) in taken:  # a-b/c.jpg after a/b-c.jpg, or C.jpg after c.jpg
                photo += "~"
            taken.add(fold_name(photo))
            read = partial(raise_unavailable, file.missing) if file.missing else partial(read_file, file.path)
            candidates[label].append(Candidate(photo, label, read, "folder", given_subset=file.given_subset))
    return candidates


def read_file(path: str, maximum_bytes: int) -> bytes:
    try:
        return read_photo_file(path, maximum_bytes)
    except UnreadableFile as error:
        raise PhotoUnavailable(str(error)) from None


def strip_extension(name: str) -> str:
    """The name before its last dot; the whole name if nothing is before or after the dot."""
    stem, _, extension = name.rpartition(".")
    return stem if stem and extension else name


def leaves_folder(path: str) -> bool:
    """Whether a normalized relative path with "/" between its parts points outside its folder."""
    return path == ".." or path.startswith(("../", "/"))
