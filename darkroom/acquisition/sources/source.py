"""What a source gives to the rest of the project. Each source's module ends with one of these, its `SOURCE`."""

from collections.abc import Callable
from dataclasses import dataclass

from darkroom.acquisition.candidate import Listing
from darkroom.acquisition.clock import Clock
from darkroom.acquisition.ledger import Ledger
from darkroom.acquisition.sources.search_service import SearchService
from darkroom.params.acquire import AcquireParams, AtLimit


@dataclass(frozen=True, kw_only=True)
class Source:
    """A source of photos.

    Fields:
        notice: printed before photos are acquired, with the permission on record; None for nothing.
        credit_line: Markdown that the source wants above its photos in CREDITS.md; None for a plain line with its name.
    """

    notice: str | None = None
    credit_line: str | None = None


@dataclass(frozen=True, kw_only=True)
class ListedSource(Source):
    """A source whose photos are on this machine, or are once its few files have been downloaded."""

    list_photos: Callable[[AcquireParams, Ledger, Clock], Listing]


@dataclass(frozen=True, kw_only=True)
class SearchedSource(Source):
    """A source that is searched over the web; `make_service` also gives what to do when its rate limit is reached."""

    make_service: Callable[[AcquireParams], tuple[SearchService, AtLimit]]
