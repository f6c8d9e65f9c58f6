"""What a source offers: photos that have not been looked into yet, in the source's own order."""

import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NoReturn


class PhotoUnavailable(Exception):
    """A photo that its source does not give; the text is the reason."""


def be_unavailable(reason: str, _maximum_bytes: int) -> NoReturn:
    """What reads a candidate that is known from the start not to be there."""
    raise PhotoUnavailable(reason)


@dataclass(frozen=True)
class Candidate:
    """`photo` is unique among the candidates of a source and stays the same from run to run. `read` gives the file's
    bytes, at most as many as its argument says; it raises `PhotoUnavailable` where it cannot, and may be called in any
    thread. Two candidates of different labels with the same `identity` are the same photo; an empty one says nothing.
    """

    photo: str
    label: str
    read: Callable[[int], bytes]
    source: str
    creator: str = ""
    creator_url: str = ""
    page_url: str = ""
    licence: str = ""
    given_subset: str = ""
    identity: str = ""


@dataclass(frozen=True)
class Listing:
    """The candidates of each label, in the order in which they are taken; asking for the next one may ask the network.

    `files_passed_over` counts what lies beside the photos and is none: what systems leave in folders, such as
    Thumbs.db, and files that no label can be told of.
    """

    candidates: Mapping[str, Iterable[Candidate]]
    files_passed_over: int = 0


def fold_name(name: str) -> str:
    """What two names have in common that some systems take for one."""
    return unicodedata.normalize("NFC", name).casefold()
