"""The trained model, with the images that it is evaluated on. Dims: N images."""

from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np

from darkroom.models.model_file import check_model, load_model
from darkroom.pipeline.arrays import ClassIds, Indices, RowNumbers
from darkroom.pipeline.dataset import (
    ImageRow,
    PhotoRow,
    StoredImages,
    read_groups,
    read_index,
    read_labels,
    read_photos,
    read_row_numbers,
)
from darkroom.pipeline.files import written_again
from darkroom.pipeline.paths import (
    ACQUIRE_PHOTOS,
    AUGMENT_IMAGES,
    AUGMENT_INDEX,
    SPLIT_PHOTOS,
    TRAIN_LABELS,
    TRAIN_MODEL,
    subset_rows,
)
from darkroom.pipeline.stage import StageError, name_some


class LabelledImages(NamedTuple):
    """The images of a subset; `rows`, `photos` and `class_ids` have N entries."""

    images: StoredImages
    rows: RowNumbers
    photos: list[str]
    class_ids: ClassIds

    def choose(self, indices: Indices) -> "LabelledImages":
        """Return the images at `indices`."""
        photos = [self.photos[index] for index in indices]
        return LabelledImages(self.images, self.rows[indices], photos, self.class_ids[indices])


@dataclass(frozen=True)
class ModelWithData:
    """A model from pixels to probabilities, its labels in output order, and the stored images."""

    model: keras.Model
    labels: list[str]
    index: Sequence[ImageRow]
    images: StoredImages

    def subset(self, name: str) -> LabelledImages:
        """Read the images of "train", "validation" or "test"; see `read_subset`."""
        return read_subset(name, self.index, self.images, self.labels)


def read_trained_model() -> ModelWithData:
    """Read the outputs of train and augment.

    Raises:
        StageError: a file is missing or corrupt, or the model is for other images or labels.
    """
    index = read_index(AUGMENT_INDEX)
    images = StoredImages(AUGMENT_IMAGES, len(index))
    labels = read_labels(TRAIN_LABELS)
    model = load_model(TRAIN_MODEL)
    check_model(model, TRAIN_MODEL, images.image_shape, len(labels))
    return ModelWithData(model, labels, index, images)


def read_subset(subset: str, index: Sequence[ImageRow], images: StoredImages, labels: Sequence[str]) -> LabelledImages:
    """Read which images are in a subset, and encode their labels with the model's class IDs.

    Raises:
        StageError: the row numbers cannot be read, or the model was not trained on one of the labels.
    """
    rows = read_row_numbers(subset_rows(subset), len(index))
    known = {label: class_id for class_id, label in enumerate(labels)}
    unknown = sorted({index[row].label for row in rows} - set(known))
    if unknown:
        raise StageError(
            f"{TRAIN_LABELS}: the model was not trained on {name_some(unknown)}, but {subset} photos have these "
            "labels; run `dvc repro`"
        )
    class_ids = np.array([known[index[row].label] for row in rows], np.int64)
    return LabelledImages(images, rows, [index[row].photo for row in rows], class_ids)


def read_photo_rows(photos: Sequence[str]) -> list[PhotoRow]:
    """Read acquire's rows of photos, N names.

    Raises:
        StageError: the table cannot be read, or lacks one of them.
    """
    rows = {row.photo: row for row in read_photos(ACQUIRE_PHOTOS)}
    check_known(photos, rows, ACQUIRE_PHOTOS)
    return [rows[photo] for photo in photos]


def read_photo_groups(photos: Sequence[str]) -> list[str]:
    """Read the groups that split assigned to photos, N names.

    Raises:
        StageError: the table cannot be read, or lacks one of them.
    """
    groups = read_groups(SPLIT_PHOTOS)
    check_known(photos, groups, SPLIT_PHOTOS)
    return [groups[photo] for photo in photos]


def check_known(photos: Sequence[str], known: Container[str], path: Path) -> None:
    missing = sorted(photo for photo in photos if photo not in known)
    if missing:
        raise StageError(f"{path}: lacks the test photos {name_some(missing)}; {written_again(path)}")
