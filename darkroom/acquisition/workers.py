"""Store photos in their folders: in threads for photos from the web, in processes for many photos to decode."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path

from darkroom.acquisition.candidate import Candidate
from darkroom.acquisition.ledger import Ledger
from darkroom.acquisition.photo_check import PhotoCheck, PhotoLimits
from darkroom.acquisition.selection import Outcome, Workers, take_each
from darkroom.pipeline.dataset import PhotoRow
from darkroom.pipeline.files import write_bytes
from darkroom.pipeline.processors import count_processors
from darkroom.pipeline.worker_pool import open_worker_pool

# With fewer photos, starting processes takes longer than they save.
PHOTOS_FOR_PROCESSES = 2000
PHOTOS_PER_TASK = 32


def store_photo(candidate: Candidate, check: PhotoCheck, folder: Path) -> PhotoRow:
    """Check a candidate's bytes by decoding them completely, and write them unchanged to `folder`.

    Raises:
        PhotoUnavailable: the source does not deliver the photo.
        ImageError: the bytes are not a usable image.
    """
    content = candidate.read(check.limits.maximum_bytes)
    checked = check.check(content)
    file = Path("photos", candidate.label, f"{candidate.photo}.{checked.extension}")
    write_bytes(folder / file, content)
    return PhotoRow(
        photo=candidate.photo,
        label=candidate.label,
        file=file.as_posix(),
        width=checked.width,
        height=checked.height,
        sha256=checked.sha256,
        source=candidate.source,
        creator=candidate.creator,
        creator_url=candidate.creator_url,
        page_url=candidate.page_url,
        license=candidate.license,
        given_subset=candidate.given_subset,
    )


def discard_photo(photo: PhotoRow, folder: Path) -> None:
    (folder / photo.file).unlink()


@contextmanager
def open_threads(check: PhotoCheck, folder: Path, threads: int, stop: Callable[[], None]) -> Iterator[Workers]:
    """Take photos in threads of this process; at the end call `stop` and wait for the threads."""
    take = partial(take_each, take_one=partial(store_photo, check=check, folder=folder))
    with ThreadPoolExecutor(threads) as pool:
        try:
            yield Workers(pool, take, threads, 1)
        finally:
            stop()
            pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def open_processes(check: PhotoCheck, folder: Path, photos: int) -> Iterator[Workers]:
    """Take photos in one process per processor; the processes share the ledger's files.

    Raises:
        StageError: a process was killed.
    """
    take = partial(take_in_process, cache_folder=check.ledger.folder, limits=check.limits, folder=folder)
    with open_worker_pool(photos // PHOTOS_PER_TASK, "acquire.maximum_pixels") as pool:
        yield Workers(pool, take, count_processors(), PHOTOS_PER_TASK)


def take_in_process(
    candidates: Sequence[Candidate], cache_folder: Path, limits: PhotoLimits, folder: Path
) -> list[Outcome]:
    check = open_check(cache_folder, limits)
    return take_each(candidates, partial(store_photo, check=check, folder=folder))


@cache
def open_check(cache_folder: Path, limits: PhotoLimits) -> PhotoCheck:
    """The check of a worker process, created once."""
    return PhotoCheck(Ledger(cache_folder), limits)
