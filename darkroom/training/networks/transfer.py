"""Networks of keras.applications as backbones: with weights that others have trained, and a head of one's own.

The backbone's layers become layers of the network itself, in one flat graph behind the normalization, under the names
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
    """Put a backbone without its top behind normalized pixels (B, H, W, C).

    With random weights its batch normalization follows the batches sooner than with weights that are there.

    Args:
        name: of the backbone.
        backbone: its `weights` and `alpha`.
        pixels: what it reads.

    Returns:
        its layers, the first one first, without the input layer; and its last feature maps.

    Raises:
        StageError: the weights cannot be fetched or are those of another network.
    """
    model = build_application(name, backbone.alpha, weights=None, input_tensor=pixels)
    own = model.layers[len(keras.Model(model.input, pixels).layers) :]
    if backbone.weights == NO_WEIGHTS:
        for layer in own:
            if isinstance(layer, layers.BatchNormalization):
                layer.momentum = BATCH_NORMALIZATION_MOMENTUM
    else:
        # Built at its own size: the weights do not depend on it, but which file keras.applications asks for does.
        trained = load_application(name, backbone, pixels.shape[-1])
        for layer, other in zip(own, trained.layers[1:], strict=True):
            layer.set_weights(other.get_weights())
    return own, model.output


def count_frozen(key: str, frozen: FrozenLayers, names: Sequence[str]) -> int:
    """How many layers of a backbone `frozen` means, of those without the input layer.

    Args:
        key: the param's dotted name, for messages.
        frozen: "all"; a number of its first layers, among which the input layer counts, as in `Model.layers`; or the
            name of the last one.
        names: of its layers, without the input layer.

    Raises:
        StageError: there are fewer, or none of this name.
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
            f"{key}: the backbone has {len(names) + 1} layers with its input layer; set it to fewer or {ALL}, "
            f"got {frozen}"
        )
    return max(0, frozen - 1)


def freeze(backbone: Sequence[keras.layers.Layer], count: int, frozen_batch_normalization: bool) -> None:
    """Let the first `count` layers keep their weights and the others learn; batch normalization too, if so wanted.

    Frozen, it also goes on with the statistics that it has, instead of those of a batch.
    """
    for number, layer in enumerate(backbone):
        kept = frozen_batch_normalization and isinstance(layer, layers.BatchNormalization)
        layer.trainable = number >= count and not kept


def pool_features(maps: keras.KerasTensor, pooling: str) -> keras.KerasTensor:
    """Lead feature maps (B, H', W', D') to features (B, D)."""
    return POOLINGS[pooling](name="features")(maps)


def make_head(features: keras.KerasTensor, backbone: BackboneParams) -> keras.KerasTensor:
    """Lead features (B, D) through the dense layers of the params, with a dropout behind each, or a dropout alone."""
    values = features
    for number, units in enumerate(backbone.dense_units, 1):
        values = layers.Dense(units, activation=backbone.dense_activation, name=f"head_dense_{number}")(values)
        values = layers.Dropout(backbone.dropout, name=f"head_dropout_{number}")(values)
    return values if backbone.dense_units else layers.Dropout(backbone.dropout, name="head_dropout")(values)
