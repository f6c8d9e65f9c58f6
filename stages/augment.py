"""Resize every photo, and store it with its turned and mirrored variants as pixels.

Reads   params.yaml               augment
        data/acquire/photos.csv   and the files that it names, in data/acquire/photos/
Writes  data/augment/images.npy   uint8 (rows, height, width, channels), a photo's rows together, the original first
        data/augment/images.csv   row for row: photo, label, rotation_degrees, flip
        data/augment/preview.png  some photos with all their variants, to look at
        metrics/augment.json      counts and size
Run as  python -m stages.augment
"""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from darkroom.photos.images import CHANNELS, ImageError, prepare_image
from darkroom.photos.variants import Variant, caption_variant, draw_variants, list_variants, use_one_thread
from darkroom.pipeline.arrays import Pixels
from darkroom.pipeline.dataset import ImageRow, PhotoRow, StoredImages, read_photos, write_rows
from darkroom.pipeline.files import whole_file, write_bytes, write_json
from darkroom.pipeline.paths import (
    ACQUIRE_FOLDER,
    ACQUIRE_PHOTOS,
    AUGMENT_IMAGES,
    AUGMENT_INDEX,
    AUGMENT_METRICS,
    AUGMENT_PREVIEW,
)
from darkroom.pipeline.processors import count_processors
from darkroom.pipeline.stage import StageError, refuse_arguments, run_stage
from darkroom.pipeline.worker_pool import open_worker_pool

# A worker imports this module when it starts. What only the stage itself needs is imported where it is needed.
if TYPE_CHECKING:
    from darkroom.params.augment import AugmentParams

Shape = tuple[int, int, int, int]
MEGABYTE = 1e6
# A task is large enough that handing it out costs little, and small enough to share the work evenly.
PHOTOS_PER_TASK = 32
TASKS_PER_WORKER = 8
PREVIEW_PHOTOS = 6
PREVIEW_COLUMNS = 10


class Drawing(NamedTuple):
    """How the V rows of a photo come from its file: two functions with their settings bound, and the rows' shape."""

    prepare: Callable[[bytes], Pixels]  # a file's bytes -> (H, W, C)
    draw: Callable[[Pixels], Pixels]  # (H, W, C) -> (V, H, W, C)
    shape: Shape  # (V, H, W, C)


def make_drawing(params: "AugmentParams", variants: Sequence[Variant]) -> Drawing:
    height, width = params.image_size
    return Drawing(
        partial(
            prepare_image,
            image_size=params.image_size,
            resize=params.resize,
            resampling=params.resampling,
            color=params.color,
        ),
        partial(draw_variants, variants=variants, resampling=params.resampling, fill_mode=params.fill_mode),
        (len(variants), height, width, CHANNELS[params.color]),
    )


def write_images(photos: Sequence[PhotoRow], drawing: Drawing, path: Path) -> Shape:
    """Write all variants of all photos to `path`, a photo at a time, in parallel processes.

    Memory does not grow with the number of photos: a process holds the rows of one photo only.

    Returns:
        the shape written: (rows, height, width, channels).

    Raises:
        StageError: the disk has too little room, or a photo cannot be read.
    """
    from tqdm import tqdm

    variants, height, width, channels = drawing.shape
    shape = (len(photos) * variants, height, width, channels)
    check_disk(shape, path)
    with whole_file(path) as partial_path:
        images = np.lib.format.open_memmap(partial_path, "w+", np.uint8, shape)
        offset = images.offset
        del images
        reserve_disk(partial_path)
        write = partial(write_photo, drawing=drawing, path=partial_path, offset=offset)
        with open_map(len(photos)) as map_photos:
            for _ in tqdm(map_photos(write, enumerate(photos)), "augment", len(photos), unit=" photos", disable=None):
                pass
    return shape


@contextmanager
def open_map(photos: int) -> Iterator[Callable[..., Iterable[None]]]:
    """Yield what `map` is, in a process for each processor; or `map` itself where that would be a single one."""
    processors = count_processors()
    if processors == 1:
        yield map
    else:
        share = photos // (processors * TASKS_PER_WORKER)
        with open_worker_pool(photos, "augment.image_size") as pool:
            yield partial(pool.map, chunksize=max(1, min(PHOTOS_PER_TASK, share)))


def write_photo(numbered_photo: tuple[int, PhotoRow], drawing: Drawing, path: Path, offset: int) -> None:
    """Write photo number n's V variants to the rows n*V to n*V + V - 1."""
    use_one_thread()
    number, photo = numbered_photo
    rows = draw_rows(ACQUIRE_FOLDER / photo.file, drawing)
    # Not through a memory map, which takes three times as long.
    with path.open("r+b") as file:
        file.seek(offset + number * rows.nbytes)
        file.write(rows.data)


def draw_rows(file: Path, drawing: Drawing) -> Pixels:
    """Draw a photo's V variants, of shape (V, H, W, C)."""
    try:
        pixels = drawing.prepare(file.read_bytes())
    except (ImageError, FileNotFoundError) as error:
        raise StageError(
            f"{file}: {error}; the acquired photos were changed by hand: `dvc repro --force --single-item acquire`"
        ) from None
    return drawing.draw(pixels)


def check_disk(shape: Shape, path: Path) -> None:
    """Refuse, before anything is written, an array that the disk has no room for.

    Raises:
        StageError: with the arithmetic.
    """
    rows, height, width, channels = shape
    needed = rows * height * width * channels
    path.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(path.parent).free
    if needed > free:
        raise StageError(
            f"{path} needs {rows} rows x {height} x {width} x {channels} bytes = {needed / MEGABYTE:,.1f} MB, but "
            f"{free / MEGABYTE:,.1f} MB are free there; free some space, or turn augment.image_size, "
            "augment.rotation_degrees or acquire.photos_per_class down"
        )


def reserve_disk(path: Path) -> None:
    """Claim the file's blocks now, or a disk that fills up meanwhile would end the stage halfway."""
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def list_rows(photos: Iterable[PhotoRow], variants: Sequence[Variant]) -> list[ImageRow]:
    return [ImageRow(row.photo, row.label, *variant) for row in photos for variant in variants]


def draw_preview(photos: Sequence[PhotoRow], variants: Sequence[Variant], images: StoredImages) -> bytes:
    """Draw some photos, of as many labels as there are places for, with all their stored variants as a PNG file."""
    from darkroom.contact_sheet import SheetRow, choose_examples, draw_contact_sheet

    captions = [caption_variant(variant) for variant in variants]

    def list_sheet_rows() -> Iterator[SheetRow]:
        for number in choose_examples([photo.label for photo in photos], PREVIEW_PHOTOS):
            rows = np.arange(len(variants)) + number * len(variants)
            yield SheetRow(f"{photos[number].photo} ({photos[number].label})", list(images.take(rows)), captions)

    return draw_contact_sheet(list_sheet_rows(), PREVIEW_COLUMNS)


def main() -> None:
    from darkroom.params.augment import AugmentParams
    from darkroom.params.section import read_params

    params = read_params("augment", AugmentParams)

    photos = read_photos(ACQUIRE_PHOTOS)

    variants = list_variants(params.rotation_degrees, params.horizontal_flip, params.vertical_flip)
    shape = write_images(photos, make_drawing(params, variants), AUGMENT_IMAGES)

    write_rows(AUGMENT_INDEX, ImageRow, list_rows(photos, variants))
    write_bytes(AUGMENT_PREVIEW, draw_preview(photos, variants, StoredImages(AUGMENT_IMAGES, shape[0])))
    megabytes = round(float(np.prod(shape)) / MEGABYTE, 3)
    write_json(AUGMENT_METRICS, {"images": shape[0], "images_megabytes": megabytes, "variants": len(variants)})
    print(
        f"augment: {len(photos)} photos x {len(variants)} variants -> {AUGMENT_IMAGES} "
        f"{' x '.join(map(str, shape))}, {megabytes} MB"
    )


if __name__ == "__main__":
    refuse_arguments("augment", __doc__)
    run_stage("augment", main)
