"""A photo that a source offers and that has not been looked into yet."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Candidate:
    """`photo` is unique among the candidates of a source and stays the same from run to run; `read` gives the
    file's bytes."""

    photo: str
    label: str
    read: Callable[[], bytes]
    source: str
    creator: str = ""
    creator_url: str = ""
    page_url: str = ""
    licence: str = ""
    given_subset: str = ""
