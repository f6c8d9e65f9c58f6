"""Prepare the photos: resize each, and store it with its rotated and flipped variants as pixels.

The stored variants are made once. For random augmentation during training see darkroom.training.augmentation.

Reads   params.yaml               augment
        data/acquire/photos.csv   and the files that it names, in data/acquire/photos/
Writes  data/augment/images.npy   uint8 (images, height, width, channels), photo by photo, the original first
        data/augment/images.csv   a row per image, in the same order: photo, label, rotation_degrees, flip
        data/augment/preview.png  some photos with all their variants
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

# Each worker imports this module at startup, so imports that only the main process needs are inside functions.
if TYPE_CHECKING:
    from darkroom.params.augment import AugmentParams

Shape = tuple[int, int, int, int]
MEGABYTE = 1e6
# Large enough that distributing the tasks costs little, small enough to share the work evenly.
PHOTOS_PER_TASK = 32
TASKS_PER_WORKER = 8
PREVIEW_PHOTOS = 6
PREVIEW_COLUMNS = 10


class Drawing(NamedTuple):
    """How the V variants of a photo are made: two functions with bound settings, and the shape of the result."""

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
    """Write all variants of all photos to `path`, one photo at a time, in parallel processes.

    Memory does not grow with the number of photos: a process holds the variants of one photo only.

    Returns:
        the shape written: (images, height, width, channels).

    Raises:
        StageError: the disk has too little space, or a photo cannot be read.
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
    """Yield a parallel `map` with a process per processor, or the builtin `map` on a single processor."""
    processors = count_processors()
    if processors == 1:
        yield map
    else:
        chunk = photos // (processors * TASKS_PER_WORKER)
        with open_worker_pool(photos, "augment.image_size") as pool:
            yield partial(pool.map, chunksize=max(1, min(PHOTOS_PER_TASK, chunk)))


def write_photo(numbered_photo: tuple[int, PhotoRow], drawing: Drawing, path: Path, offset: int) -> None:
    """Write the V variants of photo n as images n*V to n*V + V - 1."""
    use_one_thread()
    number, photo = numbered_photo
    images = draw_photo_variants(ACQUIRE_FOLDER / photo.file, drawing)
    # A memory map would take three times as long.
    with path.open("r+b") as file:
        file.seek(offset + number * images.nbytes)
        file.write(images.data)


def draw_photo_variants(file: Path, drawing: Drawing) -> Pixels:
    """Draw the V variants of a photo, of shape (V, H, W, C)."""
    try:
        pixels = drawing.prepare(file.read_bytes())
    except (ImageError, FileNotFoundError) as error:
        raise StageError(
            f"{file}: {error}; an acquired photo was changed or removed; restore it with "
            "`dvc repro --force --single-item acquire`"
        ) from None
    return drawing.draw(pixels)


def check_disk(shape: Shape, path: Path) -> None:
    """Check that the disk has space for an array of this shape, before anything is written.

    Raises:
        StageError: there is too little space; the message shows the calculation.
    """
    images, height, width, channels = shape
    needed = images * height * width * channels
    path.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(path.parent).free
    if needed > free:
        raise StageError(
            f"{path} needs {images} images x {height} x {width} x {channels} bytes = {needed / MEGABYTE:,.1f} MB, but "
            f"only {free / MEGABYTE:,.1f} MB are free there; free some space, or reduce augment.image_size, "
            "augment.rotation_degrees or acquire.photos_per_class"
        )


def reserve_disk(path: Path) -> None:
    """Allocate the file's blocks now, so that the stage cannot run out of disk space halfway."""
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def list_index(photos: Iterable[PhotoRow], variants: Sequence[Variant]) -> list[ImageRow]:
    return [ImageRow(row.photo, row.label, *variant) for row in photos for variant in variants]


def draw_preview(photos: Sequence[PhotoRow], variants: Sequence[Variant], images: StoredImages) -> bytes:
    """Draw a few photos, of as many labels as possible, with all their stored variants as a PNG file."""
    from darkroom.contact_sheet import SheetRow, choose_examples, draw_contact_sheet

    captions = [caption_variant(variant) for variant in variants]

    def list_sheet_rows() -> Iterator[SheetRow]:
        for number in choose_examples([photo.label for photo in photos], PREVIEW_PHOTOS):
            numbers = np.arange(len(variants)) + number * len(variants)
            yield SheetRow(f"{photos[number].photo} ({photos[number].label})", list(images.take(numbers)), captions)

    return draw_contact_sheet(list_sheet_rows(), PREVIEW_COLUMNS)


def main() -> None:
    from darkroom.params.augment import AugmentParams
    from darkroom.params.section import read_params

    params = read_params("augment", AugmentParams)

    photos = read_photos(ACQUIRE_PHOTOS)

    variants = list_variants(params.rotation_degrees, params.horizontal_flip, params.vertical_flip)
    shape = write_images(photos, make_drawing(params, variants), AUGMENT_IMAGES)

    write_rows(AUGMENT_INDEX, ImageRow, list_index(photos, variants))
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
