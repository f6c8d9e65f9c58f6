"""The model that is fitted: augmentation followed by the whole network, or the head alone on cached features."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from darkroom.models.backend import has_fast_bfloat16
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
    """Choose the model to fit and its inputs: the whole network on images, or its head alone on cached features."""
    # Features can be cached only if each image is the same in every epoch.
    if feature_cache is None or augmentation or params.mixup_alpha or not network.is_body_frozen:
        return make_training_model(network, augmentation, precision), data.images
    wanted = np.concatenate([data.row_numbers["train"], data.row_numbers["validation"]])
    description = describe_body(params, network, precision)
    return network.head, cache_features(network.body, description, data.images, wanted, feature_cache)


class InferenceOnly(keras.layers.Layer):  # type: ignore[misc]
    """A model that always runs in inference mode, also while the layers around it are trained.

    Otherwise its dropout would give different features for the same image each time. In a functional graph, calling a
    model with `training=False` is not enough: the training mode of the outer graph still reaches it.
    """

    def __init__(self, model: keras.Model) -> None:
        super().__init__()
        self.model = model

    def call(self, values: Any) -> Any:
        return self.model(values, training=False)


def make_training_model(
    network: BuiltNetwork, augmentation: Sequence[keras.layers.Layer], precision: Precision
) -> keras.Model:
    """Put augmentation before the network; it is not part of the saved model.

    A completely frozen backbone runs in inference mode, see `InferenceOnly`.
    """
    make_model = WorkerModel if count_workers() > 1 else keras.Model
    pixels = values = keras.Input(network.model.input_shape[1:])
    for layer in augmentation:
        values = layer(values)
    if network.head and network.is_body_frozen:
        return make_model(pixels, network.head(InferenceOnly(network.body)(values)))
    if not has_fast_bfloat16(precision):
        return make_model(pixels, network.model(values))
    from darkroom.training.bfloat16 import use_fast_dropout

    return make_model(pixels, use_fast_dropout(network.model)(values))


def describe_body(params: TrainParams, network: BuiltNetwork, precision: Precision) -> dict[str, object]:
    """Everything that a backbone's features depend on, besides weights and pixels."""
    return {
        "network": params.network,
        "alpha": params.backbone.alpha,
        "pooling": params.backbone.pooling,
        "normalization": describe_layers(network.normalization),
        "threads": params.threads,
        "precision": precision,
    }
