"""From what params.yaml says of a source to the source itself, with all that it is asked through."""

from collections.abc import Callable, Collection, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from darkroom.acquisition.candidate import Listing
from darkroom.acquisition.clock import Clock
from darkroom.acquisition.file_download import fetch_files
from darkroom.acquisition.ledger import Ledger
from darkroom.acquisition.photo_check import PhotoCheck
from darkroom.acquisition.photo_download import PhotoFetcher
from darkroom.acquisition.refresh import Refresh
from darkroom.acquisition.sources import cifar10, mnist
from darkroom.acquisition.sources.digits import list_digits
from darkroom.acquisition.sources.folder import list_folder
from darkroom.acquisition.sources.openverse import Openverse
from darkroom.acquisition.sources.pexels import Pexels
from darkroom.acquisition.sources.search import Search
from darkroom.acquisition.sources.search_service import SearchService
from darkroom.acquisition.web.client import WebClient
from darkroom.acquisition.web.rate_limit import RequestBudget
from darkroom.params.acquire import AcquireParams, DownloadParams
from darkroom.pipeline.stage import StageError

# Where each data set's files are, their digests, and what lists their photos.
DATASETS = {
    "mnist": (mnist.ADDRESS, mnist.FILES, mnist.list_mnist),
    "cifar10": (cifar10.ADDRESS, cifar10.FILES, cifar10.list_cifar10),
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
    searched = params.pexels or params.openverse
    if searched is None:
        if refresh:
            raise StageError(f"--refresh is for sources that are searched; {params.source} is read anew each time")
        yield OpenSource(list_at_hand(params, ledger, clock), None, stop=do_nothing, finish=tell_nothing)
        return
    assert params.download
    ledger.remove_partial_files()
    service = choose_service(params)
    client = open_client(service.hosts, params.download, clock)
    budget = RequestBudget(ledger.folder / f"{service.name}.sqlite", service.windows, searched.at_limit, clock)
    asked_anew = Refresh(ledger, clock) if refresh else None
    fetcher = PhotoFetcher(client, ledger, check, asked_anew)
    with closing(client), closing(budget):
        search = Search(service, client, fetcher, ledger, budget, clock, asked_anew)
        yield OpenSource(search.list_photos(params.classes), params.download.parallel, client.close, search.finish)


def do_nothing() -> None:
    """Nothing is being fetched."""


def tell_nothing() -> list[str]:
    return []


def choose_service(params: AcquireParams) -> SearchService:
    if params.pexels:
        block = params.pexels
        filters = {"orientation": block.orientation, "size": block.size, "color": block.color, "locale": block.locale}
        return Pexels(filters, block.photo_size, block.requests_per_hour, block.requests_per_month)
    assert params.openverse
    asked = params.openverse
    return Openverse(asked.licences, asked.hosts, asked.page_size, asked.requests_per_minute, asked.requests_per_day)


def list_at_hand(params: AcquireParams, ledger: Ledger, clock: Clock) -> Listing:
    """List what lies on this machine, or does once a data set's few files have been fetched."""
    folder = Path(params.folder)
    if params.layout:
        layout = params.layout
        return list_folder(folder, params.classes, layout.label_from, layout.table, layout.subset_folders)
    if params.dataset is None:
        return list_digits(params.classes)
    address, files, list_photos = DATASETS[params.source]
    if params.dataset.files == "download":
        assert params.download
        folder = ledger.folder / params.source
        with closing(open_client([str(urlsplit(address).hostname)], params.download, clock)) as client:
            fetch_files(client, address, files, folder, params.download.parallel)
    return list_photos(folder, params.classes, params.dataset.train_photos, params.dataset.test_photos)


def open_client(hosts: Collection[str], download: DownloadParams, clock: Clock) -> WebClient:
    return WebClient(hosts, download.timeout_seconds, download.attempts, download.parallel, clock)
