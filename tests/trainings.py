"""Trainings that several tests share, on small images that differ in brightness."""

from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
import pytest

from darkroom.models.backend import find_device
from darkroom.models.model_file import save_model
from darkroom.params.train import TrainParams
from darkroom.pipeline.arrays import ClassIds, Pixels
from darkroom.pipeline.dataset import StoredImages
from darkroom.training.training import TrainingResult, train_network
from darkroom.training.training_data import TrainingData

needs_bfloat16 = pytest.mark.skipif(
    find_device().kind != "cpu" or "bfloat16" not in find_device().half_precisions,
    reason="requires a CPU that supports bfloat16",
)


def store_images(folder: Path, pixels: Pixels) -> StoredImages:
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "images.npy", pixels)
    return StoredImages(folder / "images.npy", len(pixels))


def split(images: StoredImages, class_ids: ClassIds, held_out: int) -> TrainingData:
    """Validate on the last `held_out` images and train on the others; with 0, use all images for both."""
    row_numbers = np.arange(len(class_ids))
    cut = len(row_numbers) - held_out
    subsets = {"train": row_numbers[:cut], "validation": row_numbers[cut:] if held_out else row_numbers}
    return TrainingData(images, subsets, class_ids, int(class_ids.max()) + 1)


def dark_and_bright(folder: Path, count: int, held_out: int, shape: tuple[int, int, int] = (12, 12, 1)) -> TrainingData:
    """Store noise images; those of class 1 are brighter than those of class 0."""
    random = np.random.default_rng(4)
    class_ids = random.integers(0, 2, count)
    pixels = (random.integers(0, 100, (count, *shape)) + 120 * class_ids[:, None, None, None]).astype(np.uint8)
    return split(store_images(folder, pixels), class_ids, held_out)


def mislabel(data: TrainingData) -> TrainingData:
    """Swap the labels of the validation subset, so that its loss rises while the network learns."""
    class_ids = data.class_ids.copy()
    class_ids[data.row_numbers["validation"]] = 1 - class_ids[data.row_numbers["validation"]]
    return data._replace(class_ids=class_ids)


def train(
    params: TrainParams,
    data: TrainingData,
    feature_cache: Path | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> TrainingResult:
    return train_network(params, data, callbacks, feature_cache)


def predict(trained: TrainingResult, data: TrainingData, subset: str = "validation") -> np.ndarray:
    """The probabilities of a subset's images, (N, K)."""
    probabilities: np.ndarray = trained.network.model.predict(data.images.take(data.row_numbers[subset]), verbose=0)
    return probabilities


def measure_loss(trained: TrainingResult, data: TrainingData) -> float:
    """The cross-entropy of the validation subset."""
    class_ids = data.class_ids[data.row_numbers["validation"]]
    return float(-np.log(predict(trained, data)[np.arange(len(class_ids)), class_ids]).mean())


def model_bytes(trained: TrainingResult, folder: Path) -> bytes:
    save_model(trained.network.model, folder / "model.keras")
    return (folder / "model.keras").read_bytes()


def small_backbone(
    *,
    include_top: bool,
    weights: str | None,
    alpha: float = 1.0,
    input_tensor: keras.KerasTensor | None = None,
    input_shape: tuple[int | None, int | None, int] | None = None,
) -> keras.Model:
    """Build a model like those of keras.applications, with few layers; they have the names of MobileNetV2's.

    Tests put it in the place of one of them, where not the backbone but its training is tested.
    """
    assert not include_top
    layers = keras.layers
    pixels = keras.Input(input_shape) if input_tensor is None else input_tensor
    values = layers.Conv2D(round(8 * alpha), 3, 2, "same", use_bias=False, name="Conv1")(pixels)
    values = layers.ReLU(6, name="Conv1_relu")(layers.BatchNormalization(name="bn_Conv1")(values))
    values = layers.Conv2D(16, 1, use_bias=False, name="Conv_1")(values)
    values = layers.ReLU(6, name="out_relu")(layers.BatchNormalization(name="Conv_1_bn")(values))
    model = keras.Model(keras.utils.get_source_inputs(pixels), values)
    if weights is not None:
        model.load_weights(weights)
    return model
