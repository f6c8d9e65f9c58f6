"""The data that a network is trained on. Dims: N stored images, K classes."""

from collections.abc import Mapping
from typing import NamedTuple

from darkroom.pipeline.arrays import ClassIds, RowNumbers
from darkroom.pipeline.dataset import StoredImages


class TrainingData(NamedTuple):
    """Stored images, their classes, and which of them to train and validate on.

    Fields:
        images: N stored images.
        row_numbers: row numbers of "train" and "validation".
        class_ids: of every stored image, (N,).
        classes: K.
    """

    images: StoredImages
    row_numbers: Mapping[str, RowNumbers]
    class_ids: ClassIds
    classes: int
