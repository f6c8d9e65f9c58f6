"""Data that stages exchange: the table of photos, the index of stored images, and the images themselves.

Dims: N images, B images of a batch, H height, W width, C channels.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from tokenize import TokenError
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from darkroom.pipeline.arrays import Pixels, RowNumbers
from darkroom.pipeline.files import read_table, write_json, write_table, written_again
from darkroom.pipeline.stage import StageError
from darkroom.pipeline.text import neutralize_formula


class PhotoRow(NamedTuple):
    """A row of data/acquire/photos.csv.

    `file` is relative to data/acquire. Width and height are in pixels, with EXIF rotation applied.
    """

    photo: str
    label: str
    file: str
    width: int
    height: int
    sha256: str
    source: str
    creator: str
    creator_url: str
    page_url: str
    license: str
    given_subset: str

    @property
    def creator_key(self) -> tuple[str, str] | None:
        """Source and URL of the creator, or the name if there is no URL; None if the creator is unknown."""
        creator = self.creator_url or self.creator
        return (self.source, creator) if creator else None


class RejectedRow(NamedTuple):
    """A row of data/acquire/rejected.csv."""

    photo: str
    label: str
    reason: str


class ImageRow(NamedTuple):
    """A row of data/augment/images.csv: row n describes image n of images.npy."""

    photo: str
    label: str
    rotation_degrees: float
    flip: str

    @property
    def is_original(self) -> bool:
        return self.rotation_degrees == 0 and self.flip == "none"


class SubsetRow(NamedTuple):
    """A row of data/split/photos.csv. Photos of a group share a subset, unless the source predefines different ones."""

    photo: str
    label: str
    subset: str
    group: str


def read_photos(path: Path) -> list[PhotoRow]:
    rows = read_table(path, PhotoRow._fields)
    try:
        return [PhotoRow(**(row | {"width": int(row["width"]), "height": int(row["height"])})) for row in rows]  # type: ignore[arg-type]
    except ValueError as error:
        raise StageError(f"{path}: {error}; {written_again(path)}") from None


def write_photos(path: Path, photos: Iterable[PhotoRow]) -> None:
    """Write the table of photos. A creator's name is text from the web, which a spreadsheet must not run."""
    write_rows(path, PhotoRow, [row._replace(creator=neutralize_formula(row.creator)) for row in photos])


def read_index(path: Path) -> list[ImageRow]:
    rows = read_table(path, ImageRow._fields)
    try:
        return [ImageRow(row["photo"], row["label"], float(row["rotation_degrees"]), row["flip"]) for row in rows]
    except ValueError as error:
        raise StageError(f"{path}: {error}; {written_again(path)}") from None


def read_groups(path: Path) -> dict[str, str]:
    """Read the group of each photo from data/split/photos.csv."""
    return {row["photo"]: row["group"] for row in read_table(path, SubsetRow._fields)}


def write_rows(path: Path, row_type: type[NamedTuple], rows: Iterable[Sequence[object]]) -> None:
    write_table(path, row_type._fields, rows)


def write_labels(path: Path, labels: Sequence[str]) -> None:
    """Write the labels in the order of the model's outputs."""
    write_json(path, {"labels": list(labels)})


def read_labels(path: Path) -> list[str]:
    """Read labels that `write_labels` wrote.

    Raises:
        StageError: the file is missing or has other content.
    """
    try:
        labels: list[str] = json.loads(path.read_bytes())["labels"]
    except FileNotFoundError:
        raise StageError(f"{path} is missing; {written_again(path)}") from None
    except (ValueError, TypeError, KeyError) as error:
        raise StageError(f"{path}: has no labels ({error}); {written_again(path)}") from None
    return labels


def read_row_numbers(path: Path, image_count: int) -> RowNumbers:
    """Read the row numbers of a subset, each of which must be below `image_count`.

    Raises:
        StageError: the file is missing or has other content.
    """
    numbers = open_array(path)
    is_list = numbers.dtype == np.int64 and numbers.ndim == 1 and len(numbers) > 0
    if not is_list or numbers.min() < 0 or numbers.max() >= image_count:
        raise StageError(
            f"{path}: expected int64 row numbers from 0 to {image_count - 1}, got {numbers.dtype} {numbers.shape}; "
            f"{written_again(path)}"
        )
    return np.array(numbers)


def open_array(path: Path) -> npt.NDArray[np.generic]:
    """Map a .npy file read-only. Pickled objects are rejected.

    Raises:
        StageError: the file is missing or not a .npy file.
    """
    try:
        # Not "r+": as root, it would write into DVC's cache if DVC has linked the file.
        array: npt.NDArray[np.generic] = np.lib.format.open_memmap(path, mode="r")
    except FileNotFoundError:
        raise StageError(f"{path} is missing; {written_again(path)}") from None
    except (ValueError, EOFError, OSError, SyntaxError, TokenError) as error:
        raise StageError(f"{path}: is not a readable .npy array ({error}); {written_again(path)}") from None
    return array


class StoredImages:
    """The images of images.npy, read a few at a time.

    The file is mapped again for each read. With a single mapping, every page that was ever read would count as memory
    of this process, which would then grow with the data.
    """

    def __init__(self, path: Path, index_length: int) -> None:
        """Check the file against its index.

        Raises:
            StageError: it is missing, or does not hold `index_length` images as uint8 (N, H, W, C).
        """
        images = open_array(path)
        if images.dtype != np.uint8 or images.ndim != 4 or len(images) != index_length or images.shape[3] not in (1, 3):
            raise StageError(
                f"{path}: expected uint8 ({index_length}, height, width, 1 or 3) as images.csv has {index_length} "
                f"rows, got {images.dtype} {images.shape}; {written_again(path)}"
            )
        self.path = path
        self.image_shape: tuple[int, int, int] = images.shape[1:]

    def take(self, row_numbers: RowNumbers) -> Pixels:
        """Copy the images with these row numbers, of shape (B, H, W, C)."""
        images: Pixels = np.load(self.path, mmap_mode="r", allow_pickle=False)[row_numbers]
        return images

    def take_parts(self, row_numbers: RowNumbers, size: int) -> Iterator[Pixels]:
        """Copy the images with these row numbers, `size` at a time; the last part may have fewer."""
        for start in range(0, len(row_numbers), size):
            yield self.take(row_numbers[start : start + size])
