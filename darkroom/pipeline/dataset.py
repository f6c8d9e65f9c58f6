"""What the stages hand on: the table of photos, the index of stored images and the images themselves.

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


class PhotoRow(NamedTuple):
    """A row of data/acquire/photos.csv; `file` is relative to data/acquire, width and height are those of the
    upright photo, in pixels."""

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
    licence: str
    given_subset: str

    @property
    def creator_key(self) -> tuple[str, str] | None:
        """Who made it: the source, and the creator's address or else name there; None where nobody knows."""
        creator = self.creator_url or self.creator
        return (self.source, creator) if creator else None


class RejectedRow(NamedTuple):
    """A row of data/acquire/rejected.csv."""

    photo: str
    label: str
    reason: str


class ImageRow(NamedTuple):
    """A row of data/augment/images.csv, which stands for the image of the same number in images.npy."""

    photo: str
    label: str
    rotation_degrees: float
    flip: str

    @property
    def is_original(self) -> bool:
        return self.rotation_degrees == 0 and self.flip == "none"


class SubsetRow(NamedTuple):
    """A row of data/split/photos.csv; photos of one group share their subset, unless their source gives them others."""

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
    """Write the labels in the order of the network's outputs."""
    write_json(path, {"labels": list(labels)})


def read_labels(path: Path) -> list[str]:
    """Read what `write_labels` wrote.

    Raises:
        StageError: the file is missing or holds something else.
    """
    try:
        labels: list[str] = json.loads(path.read_bytes())["labels"]
    except FileNotFoundError:
        raise StageError(f"{path} is missing; {written_again(path)}") from None
    except (ValueError, TypeError, KeyError) as error:
        raise StageError(f"{path}: holds no labels ({error}); {written_again(path)}") from None
    return labels


def read_row_numbers(path: Path, image_count: int) -> RowNumbers:
    """Read a subset's row numbers, which all must lie below `image_count`.

    Raises:
        StageError: the file is missing or holds something else.
    """
    rows = open_array(path)
    if rows.dtype != np.int64 or rows.ndim != 1 or not len(rows) or rows.min() < 0 or rows.max() >= image_count:
        raise StageError(
            f"{path}: expected int64 row numbers from 0 to {image_count - 1}, got {rows.dtype} {rows.shape}; "
            f"{written_again(path)}"
        )
    return np.array(rows)


def open_array(path: Path) -> npt.NDArray[np.generic]:
    """Map a .npy file read-only; a pickle inside is refused.

    Raises:
        StageError: the file is missing or no .npy file.
    """
    try:
        # "r": as root, "r+" on a file that DVC has linked would write into DVC's cache.
        array: npt.NDArray[np.generic] = np.lib.format.open_memmap(path, mode="r")
    except FileNotFoundError:
        raise StageError(f"{path} is missing; {written_again(path)}") from None
    except (ValueError, EOFError, OSError, SyntaxError, TokenError) as error:
        raise StageError(f"{path}: is no array that can be read ({error}); {written_again(path)}") from None
    return array


class StoredImages:
    """The images of images.npy, read a few rows at a time.

    The file is mapped anew for each read. One mapping for all reads would leave every page that was ever touched
    counted as this process's memory, which would then grow with the data.
    """

    def __init__(self, path: Path, index_length: int) -> None:
        """Check the file against its index.

        Raises:
            StageError: it is missing, or is not uint8 (N, H, W, C) with `index_length` images.
        """
        images = open_array(path)
        if images.dtype != np.uint8 or images.ndim != 4 or len(images) != index_length or images.shape[3] not in (1, 3):
            raise StageError(
                f"{path}: expected uint8 ({index_length}, height, width, 1 or 3) as images.csv has {index_length} "
                f"rows, got {images.dtype} {images.shape}; {written_again(path)}"
            )
        self.path = path
        self.image_shape: tuple[int, int, int] = images.shape[1:]

    def take(self, rows: RowNumbers) -> Pixels:
        """Copy the images of `rows`, of shape (B, H, W, C)."""
        images: Pixels = np.load(self.path, mmap_mode="r", allow_pickle=False)[rows]
        return images

    def take_parts(self, rows: RowNumbers, size: int) -> Iterator[Pixels]:
        """Copy the images of `rows`, `size` at a time; the last ones may be fewer."""
        for start in range(0, len(rows), size):
            yield self.take(rows[start : start + size])
