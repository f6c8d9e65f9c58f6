"""The networks that `train.network` can name, one module per family.

Dims: B images of a batch, H height, W width, C channels, D features, K classes.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import keras

from darkroom.params.train import NO_WEIGHTS, Normalization, TrainParams
from darkroom.pipeline.stage import StageError
from darkroom.training.networks import cnn
from darkroom.training.networks.applications import APPLICATIONS, check_weights
from darkroom.training.networks.compact import compact_cnn
from darkroom.training.networks.outputs import add_output, check_output_classes
from darkroom.training.networks.steps import Step, apply_steps, smallest_input_side
from darkroom.training.networks.transfer import attach_backbone, make_head, pool_features
from darkroom.training.normalization import check_channels


class FromScratch(NamedTuple):
    """A network that is trained from scratch.

    Fields:
        list_steps: lists the steps from normalized pixels (B, H, W, C) to features (B, D). Its arguments are some of
            the fields of `CnnParams`; their defaults give the published network.
        any_depth: whether the length of `filters` may differ from its default.
    """

    list_steps: Callable[..., Sequence[Step]]
    any_depth: bool = False


# `Cnn` in darkroom/params/train.py lists the same names: the schema of params.yaml loads without Keras.
FROM_SCRATCH: Mapping[str, FromScratch] = {
    "compact_cnn": FromScratch(compact_cnn, any_depth=True),
    "keras_cifar10_cnn": FromScratch(cnn.keras_cifar10_cnn),
    "keras_mnist_cnn": FromScratch(cnn.keras_mnist_cnn),
    "sigmoid_cnn": FromScratch(cnn.sigmoid_cnn),
    "cats_dogs_cnn": FromScratch(cnn.cats_dogs_cnn),
}


class BuiltNetwork(NamedTuple):
    """A network, and the parts of it that are trained separately. All share their layers.

    Fields:
        model: from pixels (B, H, W, C), 0 to 255, uint8 or float, to probabilities (B, K); flat and uncompiled.
        normalization: its first layers.
        backbone: the layers of keras.applications in order, without the input layer; empty for other networks.
        body: from pixels to the backbone's features (B, D); None for other networks.
        head: from features to probabilities; None for other networks.
    """

    model: keras.Model
    normalization: Sequence[keras.layers.Layer]
    backbone: Sequence[keras.layers.Layer] = ()
    body: keras.Model | None = None
    head: keras.Model | None = None

    @property
    def is_body_frozen(self) -> bool:
        """Whether there is a backbone without trainable weights."""
        return self.body is not None and not any(layer.trainable_weights for layer in self.backbone)


def choose_normalization(params: TrainParams) -> Normalization:
    """The normalization in the params, or the one that the network's weights were trained with."""
    if params.normalization != "network":
        return params.normalization
    is_pretrained = params.network in APPLICATIONS and params.backbone.weights != NO_WEIGHTS
    return APPLICATIONS[params.network].normalization if is_pretrained else "rescale"


def build_network(
    params: TrainParams,
    image_shape: tuple[int, int, int],
    classes: int,
    normalization: Sequence[keras.layers.Layer],
) -> BuiltNetwork:
    """Build the network of the params for images of `image_shape`, (H, W, C).

    Args:
        params: its `network`, `output`, `cnn` and `backbone`.
        image_shape: of the pixels.
        classes: K.
        normalization: layers for pixels from 0 to 255; they become the first layers of the network.

    Raises:
        StageError: see `check_network`; or the weights are not available.
    """
    steps = list_steps(params)
    check_fit(params, image_shape, classes, steps)
    pixels = keras.Input(image_shape, name="pixels")
    values = apply_steps(normalization, pixels)
    if params.network in FROM_SCRATCH:
        outputs = add_output(apply_steps(steps, values), params.output, classes)
        return BuiltNetwork(keras.Model(pixels, outputs, name=params.network), normalization)

    backbone, maps = attach_backbone(params.network, params.backbone, values)
    features = pool_features(maps, params.backbone.pooling)
    outputs = add_output(make_head(features, params.backbone), params.output, classes)
    return BuiltNetwork(
        keras.Model(pixels, outputs, name=params.network),
        normalization,
        backbone,
        keras.Model(pixels, features, name="body"),
        keras.Model(features, outputs, name="head"),
    )


def check_network(params: TrainParams, image_shape: tuple[int, int, int], classes: int) -> None:
    """Check everything that can be checked before anything is built or downloaded.

    Raises:
        StageError: the images are too small for the network, or not of the color that its normalization or weights
            require; K does not suit the output; or the weights file is missing or has another digest.
    """
    check_fit(params, image_shape, classes, list_steps(params))


def check_fit(params: TrainParams, image_shape: tuple[int, int, int], classes: int, steps: Sequence[Step]) -> None:
    check_output_classes(params.output, classes)
    height, width, channels = image_shape
    least = smallest_input_side(steps)
    if params.network in APPLICATIONS:
        least = APPLICATIONS[params.network].smallest_side
        check_weights(params.backbone, channels)
    check_channels(choose_normalization(params), channels)
    if min(height, width) < least:
        raise StageError(
            f"train.network: {params.network} needs images of at least {least}x{least} pixels, got {height}x{width}; "
            "increase augment.image_size"
        )


def list_steps(params: TrainParams) -> Sequence[Step]:
    """The steps of a network that is trained from scratch, with the changes of `cnn`; empty for a backbone.

    Raises:
        StageError: one of the params in `cnn` does not suit the network.
    """
    if params.network not in FROM_SCRATCH:
        return []
    return FROM_SCRATCH[params.network].list_steps(**read_cnn_params(params))


def read_cnn_params(params: TrainParams) -> dict[str, Any]:
    """The params of `cnn` that are set, which change the published network.

    Raises:
        StageError: one of them does not suit the network.
    """
    name = params.network
    network = FROM_SCRATCH[name]
    supported = inspect.signature(network.list_steps).parameters
    given: dict[str, Any] = {key: value for key, value in params.cnn.model_dump().items() if value is not None}
    if unused := sorted(set(given) - set(supported)):
        raise StageError(f"train.cnn: {name} does not use {', '.join(unused)}; set unused fields to null")
    if "filters" in given and not network.any_depth:
        expected = len(supported["filters"].default)
        if len(given["filters"]) != expected:
            raise StageError(
                f"train.cnn.filters: {name} expects a list of {expected} numbers, or null, got {given['filters']}"
            )
    return given
