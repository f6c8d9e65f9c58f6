"""Photos that a source offers, before they are read and checked, in the source's own order."""

import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NoReturn


class PhotoUnavailable(Exception):
    """A photo that its source does not deliver; the message is the reason."""


def raise_unavailable(reason: str, _maximum_bytes: int) -> NoReturn:
    """A `Candidate.read` for a photo that is known to be unavailable."""
    raise PhotoUnavailable(reason)


@dataclass(frozen=True)
class Candidate:
    """A photo that may be selected.

    Fields:
        photo: name, unique among the candidates of a source and the same in every run.
        read: returns the file's bytes, at most the given number; raises `PhotoUnavailable`. Called in any thread.
        identity: candidates of different labels with the same identity are the same photo; empty if unknown.
    """

    photo: str
    label: str
    read: Callable[[int], bytes]
    source: str
    creator: str = ""
    creator_url: str = ""
    page_url: str = ""
    license: str = ""
    given_subset: str = ""
    identity: str = ""


@dataclass(frozen=True)
class Listing:
    """The candidates of each label, in the order in which they are selected. Iterating may send network requests.

    `files_skipped` counts system files such as Thumbs.db, and files without a label.
    """

    candidates: Mapping[str, Iterable[Candidate]]
    files_skipped: int = 0


def fold_name(name: str) -> str:
    """Normalize a name for comparison: some systems ignore case and the Unicode form of file names."""
    return unicodedata.normalize("NFC", name).casefold()
