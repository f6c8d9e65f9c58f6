"""The interface of a source. Each source's module ends with an instance, its `SOURCE`."""

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
        notice: printed before photos are acquired, together with the recorded permission; None for no notice.
        credit_line: Markdown that the source requires above its photos in CREDITS.md; None for a line with its name.
    """

    notice: str | None = None
    credit_line: str | None = None


@dataclass(frozen=True, kw_only=True)
class ListedSource(Source):
    """A source whose photos are on this machine, at least after downloading a few files."""

    list_photos: Callable[[AcquireParams, Ledger, Clock], Listing]


@dataclass(frozen=True, kw_only=True)
class SearchedSource(Source):
    """A source that is searched over the web; `make_service` also returns what to do at its rate limit."""

    make_service: Callable[[AcquireParams], tuple[SearchService, AtLimit]]
