"""What is fitted: the whole network behind its augmentation, or the head alone on cached features."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from darkroom.models.backend import has_shortcuts
from darkroom.models.batches import ImageSource
from darkroom.params.train import Precision, TrainParams
from darkroom.training.distribution import WorkerModel, count_workers
from darkroom.training.feature_cache import cache_features, describe_layers
from darkroom.training.networks import BuiltNetwork
from darkroom.training.training_data import TrainingData


def choose_training_model(
    params: TrainParams,
    network: BuiltNetwork,
    augmentation: Sequence[keras.layers.Layer],
    data: TrainingData,
    feature_cache: Path | None,
    precision: Precision,
) -> tuple[keras.Model, ImageSource]:
    """Choose what is fitted, and to what: the whole network to images, or only its head to cached features."""
    # What a backbone makes of an image is the same in each epoch only if the image is.
    if feature_cache is None or augmentation or params.mixup_alpha or not network.is_body_frozen:
        return make_trainer(network, augmentation, precision), data.images
    wanted = np.concatenate([data.rows["train"], data.rows["validation"]])
    description = describe_body(params, network, precision)
    return network.head, cache_features(network.body, description, data.images, wanted, feature_cache)


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


def make_trainer(
    network: BuiltNetwork, augmentation: Sequence[keras.layers.Layer], precision: Precision
) -> keras.Model:
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


def describe_body(params: TrainParams, network: BuiltNetwork, precision: Precision) -> dict[str, object]:
    """What makes a backbone's features what they are, besides weights and pixels."""
    return {
        "network": params.network,
        "alpha": params.backbone.alpha,
        "pooling": params.backbone.pooling,
        "normalization": describe_layers(network.normalization),
        "threads": params.threads,
        "precision": precision,
    }
