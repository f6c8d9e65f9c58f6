"""Transfer learning: networks of keras.applications as backbones with pretrained weights, and a new head.

The backbone's layers become layers of the network itself, in one flat graph after the normalization, under the names
that keras.applications gives them.
"""

import difflib
from collections.abc import Sequence

import keras
from keras import layers

from darkroom.params.train import (
    ALL,
    NO_WEIGHTS,
    BackboneParams,
    FrozenLayers,
)
from darkroom.pipeline.stage import StageError, name_some
from darkroom.training.networks.applications import build_application, load_application
from darkroom.training.networks.steps import BATCH_NORMALIZATION_MOMENTUM

POOLINGS = {
    "average": layers.GlobalAveragePooling2D,
    "max": layers.GlobalMaxPooling2D,
    "flatten": layers.Flatten,
}


def attach_backbone(
    name: str, backbone: BackboneParams, pixels: keras.KerasTensor
) -> tuple[list[keras.layers.Layer], keras.KerasTensor]:
    """Add a backbone without its top to normalized pixels (B, H, W, C).

    With random weights, its batch normalization gets a lower momentum, so that its statistics adapt faster.

    Args:
        name: of the backbone.
        backbone: its `weights` and `alpha`.
        pixels: input of the backbone.

    Returns:
        its layers in order, without the input layer; and its last feature maps.

    Raises:
        StageError: the weights cannot be downloaded, or belong to another network.
    """
    model = build_application(name, backbone.alpha, weights=None, input_tensor=pixels)
    own = model.layers[len(keras.Model(model.input, pixels).layers) :]
    if backbone.weights == NO_WEIGHTS:
        for layer in own:
            if isinstance(layer, layers.BatchNormalization):
                layer.momentum = BATCH_NORMALIZATION_MOMENTUM
    else:
        # Built at its default image size: the weights do not depend on the size, but the name of their file does.
        trained = load_application(name, backbone, pixels.shape[-1])
        for layer, other in zip(own, trained.layers[1:], strict=True):
            layer.set_weights(other.get_weights())
    return own, model.output


def count_frozen(key: str, frozen: FrozenLayers, names: Sequence[str]) -> int:
    """Return the number of backbone layers that `frozen` stands for, not counting the input layer.

    Args:
        key: dotted name of the param, for messages.
        frozen: "all"; a number of first layers that includes the input layer, as in `Model.layers`; or the name of the
            last frozen layer.
        names: of the backbone's layers, without the input layer.

    Raises:
        StageError: there are fewer layers, or none of this name.
    """
    if frozen == ALL:
        return len(names)
    if isinstance(frozen, str):
        if frozen not in names:
            near = "".join(f"did you mean {name}? " for name in difflib.get_close_matches(frozen, names, n=1))
            raise StageError(
                f"{key}: the backbone has no layer {frozen}; {near}expected {ALL}, a number of layers, or one of "
                f"{name_some(names, 200)}"
            )
        return names.index(frozen) + 1
    if frozen > len(names) + 1:
        raise StageError(
            f"{key}: the backbone has {len(names) + 1} layers including its input layer; expected at most as many, or "
            f"{ALL}, got {frozen}"
        )
    return max(0, frozen - 1)


def freeze(backbone: Sequence[keras.layers.Layer], count: int, frozen_batch_normalization: bool) -> None:
    """Freeze the first `count` layers and make the others trainable, optionally except batch normalization.

    Frozen batch normalization also uses its stored statistics instead of those of a batch.
    """
    for index, layer in enumerate(backbone):
        stays_frozen = frozen_batch_normalization and isinstance(layer, layers.BatchNormalization)
        layer.trainable = index >= count and not stays_frozen


def pool_features(maps: keras.KerasTensor, pooling: str) -> keras.KerasTensor:
    """Pool feature maps (B, H', W', D') to features (B, D)."""
    return POOLINGS[pooling](name="features")(maps)


def make_head(features: keras.KerasTensor, backbone: BackboneParams) -> keras.KerasTensor:
    """Apply the dense layers of the params to features (B, D), each followed by dropout; without any, dropout alone."""
    values = features
    for number, units in enumerate(backbone.dense_units, 1):
        values = layers.Dense(units, activation=backbone.dense_activation, name=f"head_dense_{number}")(values)
        values = layers.Dropout(backbone.dropout, name=f"head_dropout_{number}")(values)
    return values if backbone.dense_units else layers.Dropout(backbone.dropout, name="head_dropout")(values)
