"""The images of a subset with the class numbers that they have in the trained model. Dims: N images."""

from collections.abc import Container, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from stages.lib.arrays import ClassNumbers, Places, RowNumbers
from stages.lib.dataset import ImageRow, PhotoRow, StoredImages, read_groups, read_photos, read_row_numbers
from stages.lib.files import written_again
from stages.lib.paths import ACQUIRE_PHOTOS, SPLIT_PHOTOS, TRAIN_LABELS, subset_rows
from stages.lib.stage import StageError, name_some


class LabelledImages(NamedTuple):
    """Images of a subset; `rows`, `photos` and `targets` have N entries."""

    images: StoredImages
    rows: RowNumbers
    photos: list[str]
    targets: ClassNumbers

    def choose(self, places: Places) -> "LabelledImages":
        """The images at some of the N places."""
        photos = [self.photos[place] for place in places]
        return LabelledImages(self.images, self.rows[places], photos, self.targets[places])


def read_subset(subset: str, index: Sequence[ImageRow], images: StoredImages, labels: Sequence[str]) -> LabelledImages:
    """Read which images belong to a subset, and number their labels as the model does.

    Raises:
        StageError: the row numbers cannot be read, or the model does not know one of the labels.
    """
    rows = read_row_numbers(subset_rows(subset), len(index))
    numbers = {label: number for number, label in enumerate(labels)}
    unknown = sorted({index[row].label for row in rows} - set(numbers))
    if unknown:
        raise StageError(
            f"{TRAIN_LABELS}: the model was not trained on {name_some(unknown)}, which {subset} photos are of; "
            "run `dvc repro`"
        )
    targets = np.array([numbers[index[row].label] for row in rows], np.int64)
    return LabelledImages(images, rows, [index[row].photo for row in rows], targets)


def read_photo_rows(photos: Sequence[str]) -> list[PhotoRow]:
    """Read what acquire knows of photos, N names.

    Raises:
        StageError: its table cannot be read, or lacks one of them.
    """
    rows = {row.photo: row for row in read_photos(ACQUIRE_PHOTOS)}
    check_known(photos, rows, ACQUIRE_PHOTOS)
    return [rows[photo] for photo in photos]


def read_photo_groups(photos: Sequence[str]) -> list[str]:
    """Read the groups that split has put photos in, N names.

    Raises:
        StageError: its table cannot be read, or lacks one of them.
    """
    groups = read_groups(SPLIT_PHOTOS)
    check_known(photos, groups, SPLIT_PHOTOS)
    return [groups[photo] for photo in photos]


def check_known(photos: Sequence[str], known: Container[str], path: Path) -> None:
    missing = sorted(photo for photo in photos if photo not in known)
    if missing:
        raise StageError(f"{path}: lacks the test photos {name_some(missing)}; {written_again(path)}")
