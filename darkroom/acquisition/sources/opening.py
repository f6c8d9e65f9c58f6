"""The table of all sources, and how one is opened."""

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
from darkroom.acquisition.web.rate_limit import RequestBudget
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
    """What a source offers, and how many photos of it are fetched at a time, None where none is.

    `stop` ends all that is still being fetched. `finish` is called after a run that ended well, and tells, after a
    refresh, what has changed at the source.
    """

    listing: Listing
    parallel: int | None
    stop: Callable[[], None]
    finish: Callable[[], list[str]]


@contextmanager
def open_source(
    params: AcquireParams, ledger: Ledger, check: PhotoCheck, clock: Clock, *, refresh: bool
) -> Iterator[OpenSource]:
    """Get ready to take photos from the source of the params.

    Raises:
        StageError: the source is not there, or has not what the params name.
    """
    source = SOURCES[params.source]
    if isinstance(source, ListedSource):
        if refresh:
            raise StageError(f"--refresh is for sources that are searched; {params.source} is read anew each time")
        yield OpenSource(source.list_photos(params, ledger, clock), None, stop=do_nothing, finish=tell_nothing)
        return
    assert params.download
    ledger.remove_partial_files()
    service, at_limit = source.make_service(params)
    client = open_client(service.hosts, params.download, clock)
    budget = RequestBudget(ledger.folder / f"{service.name}.sqlite", service.windows, at_limit, clock)
    asked_anew = Refresh(ledger, clock) if refresh else None
    fetcher = PhotoFetcher(client, ledger, check, asked_anew)
    with closing(client), closing(budget):
        search = Search(service, client, fetcher, ledger, budget, clock, asked_anew)
        yield OpenSource(search.list_photos(params.classes), params.download.parallel, client.close, search.finish)


def do_nothing() -> None:
    """Nothing is being fetched."""


def tell_nothing() -> list[str]:
    return []
