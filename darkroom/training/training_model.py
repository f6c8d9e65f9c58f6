"""What is fitted: the whole network behind its augmentation, or the head alone on features that are kept."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from darkroom.models.backend import has_shortcuts
from darkroom.models.batches import Rows
from darkroom.params.train import Precision, TrainParams
from darkroom.pipeline.arrays import RowNumbers
from darkroom.pipeline.dataset import StoredImages
from darkroom.training.distribution import WorkerModel, count_workers
from darkroom.training.feature_cache import describe_layers, keep_features
from darkroom.training.networks import Network


def choose_trainer(
    settings: TrainParams,
    network: Network,
    augmentation: Sequence[keras.layers.Layer],
    images: StoredImages,
    rows: Mapping[str, RowNumbers],
    kept: Path | None,
    precision: Precision,
) -> tuple[keras.Model, Rows]:
    """Choose what is fitted, and to what: the whole network to images, or only its head to features that are kept."""
    # What a backbone makes of an image is the same in each epoch only if the image is.
    if kept is None or augmentation or settings.mixup_alpha or not network.is_body_frozen:
        return make_trainer(network, augmentation, precision), images
    wanted = np.concatenate([rows["train"], rows["validation"]])
    return network.head, keep_features(network.body, describe_body(settings, network, precision), images, wanted, kept)


class InferenceOnly(keras.layers.Layer):  # type: ignore[misc]
    """A model that computes as for predictions while what stands around it is trained.

    Its dropout would make other features of the same image each time. Called with `training=False` in a graph, a model
    would still be told of the training that the graph is in.
    """

    def __init__(self, model: keras.Model) -> None:
        super().__init__()
        self.model = model

    def call(self, values: Any) -> Any:
        return self.model(values, training=False)


def make_trainer(network: Network, augmentation: Sequence[keras.layers.Layer], precision: Precision) -> keras.Model:
    """Put augmentation before the network, which is saved without it.

    A backbone of which nothing learns is asked as for predictions, see `InferenceOnly`.
    """
    make_model = WorkerModel if count_workers() > 1 else keras.Model
    pixels = values = keras.Input(network.model.input_shape[1:])
    for layer in augmentation:
        values = layer(values)
    if network.head and network.is_body_frozen:
        return make_model(pixels, network.head(InferenceOnly(network.body)(values)))
    if not has_shortcuts(precision):
        return make_model(pixels, network.model(values))
    from darkroom.training.bfloat16 import take_shortcuts

    return make_model(pixels, take_shortcuts(network.model)(values))


def describe_body(settings: TrainParams, network: Network, precision: Precision) -> dict[str, object]:
    """What makes a backbone's features what they are, besides weights and pixels."""
    return {
        "network": settings.network,
        "alpha": settings.backbone.alpha,
        "pooling": settings.backbone.pooling,
        "normalization": describe_layers(network.normalization),
        "threads": settings.threads,
        "precision": precision,
    }
