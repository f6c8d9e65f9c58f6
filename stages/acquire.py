"""Collect the photos, a folder per label, and record the origin and license of each.

Reads   params.yaml                acquire
        the source                 see darkroom.acquisition.sources; earlier downloads come from .cache/acquire
Writes  data/acquire/photos/       <label>/<photo>.<extension>, the files' original bytes
        data/acquire/photos.csv    a row per photo: see darkroom.pipeline.dataset.PhotoRow
        data/acquire/rejected.csv  a row per unusable file: photo, label, reason
        data/acquire/CREDITS.md    creator, origin and license of the photos
        metrics/acquire.json       counts
Run as  python -m stages.acquire [--refresh]
"""

import shutil
from collections import Counter
from collections.abc import Collection, Mapping, Sequence, Sized
from contextlib import AbstractContextManager, closing
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from tqdm import tqdm

from darkroom.acquisition.candidate import Listing
from darkroom.acquisition.clock import Clock
from darkroom.acquisition.credits import write_credits
from darkroom.acquisition.ledger import Ledger, ledger_folder
from darkroom.acquisition.photo_check import PhotoCheck, PhotoLimits
from darkroom.acquisition.selection import Selection, Workers
from darkroom.acquisition.sources.opening import SOURCES, OpenSource, open_source
from darkroom.acquisition.workers import PHOTOS_FOR_PROCESSES, discard_photo, open_processes, open_threads
from darkroom.params.acquire import AcquireParams
from darkroom.params.section import read_params
from darkroom.pipeline.command_line import make_app
from darkroom.pipeline.dataset import PhotoRow, RejectedRow, write_photos, write_rows
from darkroom.pipeline.files import write_json, write_text
from darkroom.pipeline.paths import (
    ACQUIRE_CREDITS,
    ACQUIRE_METRICS,
    ACQUIRE_PARTIAL,
    ACQUIRE_PHOTOS,
    ACQUIRE_PHOTOS_FOLDER,
    ACQUIRE_REJECTED,
)
from darkroom.pipeline.stage import StageError, hold_lock, run_stage

APP = make_app()


def check_classes(
    labels: Collection[str], taken: Mapping[str, int], rejected: Sequence[RejectedRow], *, is_searched: bool
) -> None:
    """Check that there are at least two labels, and usable photos of each.

    Raises:
        StageError: there are fewer labels, or a label has no usable photo.
    """
    empty = sorted(set(labels) - set(taken))
    if empty:
        reasons = [f"{row.photo}: {row.reason}" for row in rejected if row.label in empty]
        why = f"{reasons[0]} (all reasons: {ACQUIRE_REJECTED})" if reasons else "the source has none"
        refresh = "; to search again: python -m stages.acquire --refresh" if is_searched else ""
        raise StageError(
            f"no usable photo for {', '.join(empty)}: {why}; add photos, relax the requirements in section acquire, "
            f"or remove the class{refresh}"
        )
    if len(taken) < 2:
        raise StageError(f"expected photos of at least two classes, got {', '.join(taken) or 'none'}; add a class")


def replace_photos(photos_folder: Path) -> None:
    """Move the complete folder of photos into place. A run outside DVC may find an older one there; delete it."""
    shutil.rmtree(ACQUIRE_PHOTOS_FOLDER, ignore_errors=True)
    photos_folder.rename(ACQUIRE_PHOTOS_FOLDER)


def count_acquired(
    photos: Sequence[PhotoRow], rejected: Sequence[RejectedRow], files_skipped: int
) -> dict[str, int | dict[str, int]]:
    """Count accepted and rejected photos. Rejections are grouped by their reason up to its first colon."""
    reasons = Counter(row.reason.partition(":")[0] for row in rejected)
    return {
        "labels": len({row.label for row in photos}),
        "photos_accepted": len(photos),
        "photos_rejected": len(rejected),
        "files_skipped": files_skipped,
        "rejected_by_reason": dict(sorted(reasons.items())),
    }


def expect_photos(listing: Listing, photos_per_class: int | None) -> int | None:
    """The largest number of photos that will be accepted; None if it is not known before they are listed."""
    offers = listing.candidates.values()
    counts = [len(offered) if isinstance(offered, Sized) else photos_per_class for offered in offers]
    known = [min(count, photos_per_class or count) for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def open_workers(source: OpenSource, photos: int | None, check: PhotoCheck) -> AbstractContextManager[Workers]:
    """Start the workers: threads for photos from the web, processes if there are many local photos to decode."""
    if source.parallel is None and photos is not None and photos >= PHOTOS_FOR_PROCESSES:
        return open_processes(check, ACQUIRE_PARTIAL, photos)
    # With small local files, several threads only slow one another down.
    return open_threads(check, ACQUIRE_PARTIAL, source.parallel or 1, source.stop)


def main(refresh: bool = False) -> None:
    params = read_params("acquire", AcquireParams)
    limits = PhotoLimits(params.minimum_side, params.maximum_pixels, int(params.maximum_megabytes * 1_000_000))
    if notice := SOURCES[params.source].notice:
        print(f"acquire: {notice}")
        print(f"acquire: permission on record in acquire.permission: {params.permission or 'none'}", flush=True)

    # Experiments that run at the same time share the ledger, so each photo is downloaded once.
    lock = hold_lock(ledger_folder() / "lock", "acquire: waiting for another acquire that uses the same .cache/acquire")
    with lock, closing(Ledger(ledger_folder())) as ledger:
        check = PhotoCheck(ledger, limits)
        with open_source(params, ledger, check, Clock(), refresh=refresh) as source:
            shutil.rmtree(ACQUIRE_PARTIAL, ignore_errors=True)
            total = expect_photos(source.listing, params.photos_per_class)
            discard = partial(discard_photo, folder=ACQUIRE_PARTIAL)
            selection = Selection(source.listing.candidates, params.photos_per_class, discard)
            bar = tqdm(total=total, desc="acquire", unit=" photos", disable=None)
            with bar, open_workers(source, total, check) as workers:
                photos, rejected = selection.run(workers, bar.update)
            accepted = Counter(row.label for row in photos)
            write_rows(ACQUIRE_REJECTED, RejectedRow, rejected)
            check_classes(source.listing.candidates, accepted, rejected, is_searched=source.parallel is not None)
            changes = source.finish()

    replace_photos(ACQUIRE_PARTIAL / "photos")
    write_photos(ACQUIRE_PHOTOS, photos)
    write_text(ACQUIRE_CREDITS, write_credits(photos, params.permission))
    write_json(ACQUIRE_METRICS, count_acquired(photos, rejected, source.listing.files_skipped))
    for label, count in accepted.items():
        if params.photos_per_class is not None and count < params.photos_per_class:
            print(f"acquire: {label}: {count} of {params.photos_per_class} photos; the source has no more")
    for change in changes:
        print(f"acquire: refreshed: {change}")
    print(
        f"acquire: {len(photos)} photos of {len(accepted)} labels from {params.source} -> {ACQUIRE_PHOTOS_FOLDER}, "
        f"{len(rejected)} rejected{f' (see {ACQUIRE_REJECTED})' if rejected else ''}"
    )


@APP.command()
def run_acquire(
    refresh: Annotated[
        bool, typer.Option("--refresh", help="Query the source again, and report what it has changed or deleted.")
    ] = False,
) -> None:
    """Collect the photos that params.yaml selects. Photos that were downloaded before are not downloaded again."""
    run_stage("acquire", partial(main, refresh))


if __name__ == "__main__":
    APP()
