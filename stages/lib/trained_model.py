"""The trained model together with the images that it is asked about."""

from collections.abc import Sequence
from dataclasses import dataclass

import keras

from stages.lib.dataset import ImageRow, StoredImages, read_index, read_labels
from stages.lib.labelled_images import LabelledImages, read_subset
from stages.lib.modelfile import check_model, load_model
from stages.lib.paths import AUGMENT_IMAGES, AUGMENT_INDEX, TRAIN_LABELS, TRAIN_MODEL


@dataclass(frozen=True)
class TrainedModel:
    """A model from pixels to probabilities, its labels in the order of its outputs, and the stored images."""

    model: keras.Model
    labels: list[str]
    index: Sequence[ImageRow]
    images: StoredImages

    def subset(self, name: str) -> LabelledImages:
        """The images of "train", "validation" or "test"; see `read_subset`."""
        return read_subset(name, self.index, self.images, self.labels)


def read_trained_model() -> TrainedModel:
    """Read what train and augment wrote.

    Raises:
        StageError: something is missing or damaged, or the model is one for other images or labels.
    """
    index = read_index(AUGMENT_INDEX)
    images = StoredImages(AUGMENT_IMAGES, len(index))
    labels = read_labels(TRAIN_LABELS)
    model = load_model(TRAIN_MODEL)
    check_model(model, TRAIN_MODEL, images.image_shape, len(labels))
    return TrainedModel(model, labels, index, images)
