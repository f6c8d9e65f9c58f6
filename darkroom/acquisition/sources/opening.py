"""The table of all sources, and the function that opens one."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from typing import NamedTuple

from darkroom.acquisition.candidate import Listing
from darkroom.acquisition.clock import Clock
from darkroom.acquisition.ledger import Ledger
from darkroom.acquisition.photo_check import PhotoCheck
from darkroom.acquisition.photo_download import PhotoFetcher
from darkroom.acquisition.refresh import Refresh
from darkroom.acquisition.sources import cifar10, digits, folder, mnist, openverse, pexels
from darkroom.acquisition.sources.search import Search
from darkroom.acquisition.sources.source import ListedSource, SearchedSource
from darkroom.acquisition.web.client import open_client
from darkroom.acquisition.web.rate_limit import RateLimiter
from darkroom.params.acquire import AcquireParams
from darkroom.pipeline.stage import StageError

# A source is registered here, and in SOURCE_SCHEMAS of darkroom/params/acquire.py.
SOURCES: Mapping[str, ListedSource | SearchedSource] = {
    "digits": digits.SOURCE,
    "folder": folder.SOURCE,
    "mnist": mnist.SOURCE,
    "cifar10": cifar10.SOURCE,
    "pexels": pexels.SOURCE,
    "openverse": openverse.SOURCE,
}


class OpenSource(NamedTuple):
    """An opened source.

    Fields:
        listing: its candidates.
        parallel: how many photos are downloaded at the same time; None if they are not downloaded.
        stop: cancels running downloads.
        finish: to be called after a successful run; returns what changed at the source, after a refresh.
    """

    listing: Listing
    parallel: int | None
    stop: Callable[[], None]
    finish: Callable[[], list[str]]


@contextmanager
def open_source(
    params: AcquireParams, ledger: Ledger, check: PhotoCheck, clock: Clock, *, refresh: bool
) -> Iterator[OpenSource]:
    """Open the source that the params name.

    Raises:
        StageError: the source is missing, or does not have what the params name.
    """
    source = SOURCES[params.source]
    if isinstance(source, ListedSource):
        if refresh:
            raise StageError(f"--refresh is for sources that are searched; {params.source} is always read again")
        yield OpenSource(source.list_photos(params, ledger, clock), None, stop=do_nothing, finish=report_nothing)
        return
    assert params.download
    ledger.remove_partial_files()
    service, at_limit = source.make_service(params)
    client = open_client(service.hosts, params.download, clock)
    rate_limiter = RateLimiter(ledger.folder / f"{service.name}.sqlite", service.windows, at_limit, clock)
    current_refresh = Refresh(ledger, clock) if refresh else None
    fetcher = PhotoFetcher(client, ledger, check, current_refresh)
    with closing(client), closing(rate_limiter):
        search = Search(service, client, fetcher, ledger, rate_limiter, clock, current_refresh)
        yield OpenSource(search.list_photos(params.classes), params.download.parallel, client.close, search.finish)


def do_nothing() -> None:
    """`stop` of a source without downloads."""


def report_nothing() -> list[str]:
    return []
