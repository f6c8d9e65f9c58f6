"""Resize every photo, and store it with its turned and mirrored variants as pixels.

Reads   params.yaml              augment
        data/acquire/photos.csv  and the files that it names, in data/acquire/photos/
Writes  data/augment/images.npy  uint8 (rows, height, width, channels), a photo's rows together, the original first
        data/augment/images.csv  row for row: photo, label, rotation_degrees, flip
        metrics/augment.json     counts and size
Run as  python -m stages.augment
"""

import os
import shutil
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from stages.lib.arrays import Pixels
from stages.lib.dataset import ImageRow, PhotoRow, read_photos, write_rows
from stages.lib.files import whole_file, write_json
from stages.lib.images import CHANNELS, Color, ImageError, Resize, Variant, draw_variants, list_variants, prepare_image
from stages.lib.params import AugmentParams, read_params
from stages.lib.paths import ACQUIRE_FOLDER, ACQUIRE_PHOTOS, AUGMENT_IMAGES, AUGMENT_INDEX, AUGMENT_METRICS
from stages.lib.stage import StageError, run_stage
from stages.lib.worker_pool import open_worker_pool

Shape = tuple[int, int, int, int]
MEGABYTE = 1e6
# Small enough to share the work evenly, large enough that handing it out costs nothing.
PHOTOS_PER_TASK = 8


def write_images(
    photos: Sequence[PhotoRow],
    variants: Sequence[Variant],
    image_size: Sequence[int],
    resize: Resize,
    color: Color,
    path: Path,
) -> Shape:
    """Write all variants of all photos to `path` through memory maps, a photo at a time, in parallel processes.

    Memory does not grow with the number of photos: a process maps the rows of one photo only, while it writes them.

    Returns:
        the shape written: (rows, height, width, channels).

    Raises:
        StageError: the disk has too little room, or a photo cannot be read.
    """
    height, width = image_size
    shape = (len(photos) * len(variants), height, width, CHANNELS[color])
    check_disk(shape, path)
    with whole_file(path) as partial_path:
        images = np.lib.format.open_memmap(partial_path, "w+", np.uint8, shape)
        offset = images.offset
        del images  # the workers map their own rows
        reserve_disk(partial_path)
        write = partial(
            write_photo,
            variants=variants,
            image_size=image_size,
            resize=resize,
            color=color,
            path=partial_path,
            offset=offset,
        )
        with open_worker_pool(len(photos), "augment.image_size") as pool:
            written = pool.map(write, enumerate(photos), chunksize=PHOTOS_PER_TASK)
            for _ in tqdm(written, "augment", len(photos), unit=" photos", disable=None):
                pass
    return shape


def write_photo(
    numbered_photo: tuple[int, PhotoRow],
    variants: Sequence[Variant],
    image_size: Sequence[int],
    resize: Resize,
    color: Color,
    path: Path,
    offset: int,
) -> None:
    """Write photo number n's V variants to the rows n*V to n*V + V - 1."""
    number, photo = numbered_photo
    drawn = draw_variants(read_pixels(ACQUIRE_FOLDER / photo.file, image_size, resize, color), variants)
    rows = np.memmap(path, np.uint8, "r+", offset + number * drawn.nbytes, drawn.shape)
    rows[:] = drawn
    rows.flush()


def read_pixels(file: Path, image_size: Sequence[int], resize: Resize, color: Color) -> Pixels:
    try:
        return prepare_image(file.read_bytes(), image_size, resize, color)
    except (ImageError, FileNotFoundError) as error:
        raise StageError(
            f"{file}: {error}; the acquired photos were changed by hand: `dvc repro --force --single-item acquire`"
        ) from None


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
    """Claim the file's blocks now: a memory map over a sparse file dies of SIGBUS when the disk fills up."""
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def list_rows(photos: Iterable[PhotoRow], variants: Sequence[Variant]) -> list[ImageRow]:
    return [ImageRow(row.photo, row.label, *variant) for row in photos for variant in variants]


def main() -> None:
    params = read_params("augment", AugmentParams)

    photos = read_photos(ACQUIRE_PHOTOS)

    variants = list_variants(params.rotation_degrees, params.horizontal_flip, params.vertical_flip)
    shape = write_images(photos, variants, params.image_size, params.resize, params.color, AUGMENT_IMAGES)

    write_rows(AUGMENT_INDEX, ImageRow, list_rows(photos, variants))
    megabytes = round(float(np.prod(shape)) / 1e6, 3)
    write_json(AUGMENT_METRICS, {"images": shape[0], "images_megabytes": megabytes, "variants": len(variants)})
    print(
        f"augment: {len(photos)} photos x {len(variants)} variants -> {AUGMENT_IMAGES} "
        f"{' x '.join(map(str, shape))}, {megabytes} MB"
    )


if __name__ == "__main__":
    run_stage("augment", main)
