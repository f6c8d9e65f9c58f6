"""The networks that `train.network` may name: one module per family.

Dims: B images of a batch, H height, W width, C channels, D features, K classes.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import keras
from keras import layers

from darkroom.params.train import CNNS, NO_WEIGHTS, Normalization, TrainParams
from darkroom.pipeline.stage import StageError
from darkroom.training.networks import cnn
from darkroom.training.networks.applications import APPLICATIONS, check_weights
from darkroom.training.networks.compact import compact_cnn
from darkroom.training.networks.outputs import check_output, end_network
from darkroom.training.networks.transfer import attach_backbone, make_head, pool_features
from darkroom.training.normalization import check_channels

CHAINS: Mapping[str, Callable[..., cnn.Layers]] = {
    "keras_cifar10_cnn": cnn.keras_cifar10_cnn,
    "keras_mnist_cnn": cnn.keras_mnist_cnn,
    "sigmoid_cnn": cnn.sigmoid_cnn,
    "cats_dogs_cnn": cnn.cats_dogs_cnn,
}


class Network(NamedTuple):
    """A network, and the parts of it that are trained by themselves. All share their layers.

    Fields:
        model: from pixels (B, H, W, C), 0 to 255, uint8 or float, to probabilities (B, K); flat and uncompiled.
        normalization: its first layers.
        backbone: the layers of keras.applications, first to last, without the input layer; empty for other networks.
        body: from pixels to what the backbone makes of them, (B, D); None for other networks.
        head: from there to probabilities; None for other networks.
    """

    model: keras.Model
    normalization: Sequence[keras.layers.Layer]
    backbone: Sequence[keras.layers.Layer] = ()
    body: keras.Model | None = None
    head: keras.Model | None = None

    @property
    def is_body_frozen(self) -> bool:
        """Whether there is a backbone, and none of it learns."""
        return self.body is not None and not any(layer.trainable_weights for layer in self.backbone)


def choose_normalization(settings: TrainParams) -> Normalization:
    """The normalization of the params, or the one that their network's weights were trained with."""
    if settings.normalization != "network":
        return settings.normalization
    is_trained = settings.network in APPLICATIONS and settings.backbone.weights != NO_WEIGHTS
    return APPLICATIONS[settings.network].normalization if is_trained else "rescale"


def build_network(
    settings: TrainParams,
    image_shape: tuple[int, int, int],
    classes: int,
    normalization: Sequence[keras.layers.Layer],
) -> Network:
    """Build the network that the params name for images of `image_shape`, (H, W, C).

    Args:
        settings: its `network`, `output`, `cnn` and `backbone`.
        image_shape: of the pixels.
        classes: K.
        normalization: layers that take pixels from 0 to 255; they become the network's first ones.

    Raises:
        StageError: as `check_network`, or its weights cannot be had.
    """
    chain = make_chain(settings)
    check_fit(settings, image_shape, classes, chain)
    pixels = values = keras.Input(image_shape, name="pixels")
    for layer in normalization:
        values = layer(values)
    if settings.network in CNNS:
        for layer in chain:
            values = layer(values)
        features = values if chain else compact_cnn(values, **read_differences(settings))
        outputs = end_network(features, settings.output, classes)
        return Network(keras.Model(pixels, outputs, name=settings.network), normalization)

    backbone, maps = attach_backbone(settings.network, settings.backbone, values)
    features = pool_features(maps, settings.backbone.pooling)
    outputs = end_network(make_head(features, settings.backbone), settings.output, classes)
    return Network(
        keras.Model(pixels, outputs, name=settings.network),
        normalization,
        backbone,
        keras.Model(pixels, features, name="body"),
        keras.Model(features, outputs, name="head"),
    )


def check_network(settings: TrainParams, image_shape: tuple[int, int, int], classes: int) -> None:
    """Refuse what can be told before anything is built or fetched.

    Raises:
        StageError: the images are too small for the network or of other colors than its normalization or its weights
            want, K does not suit the output, or the file of its weights is missing or another one.
    """
    check_fit(settings, image_shape, classes, make_chain(settings))


def check_fit(settings: TrainParams, image_shape: tuple[int, int, int], classes: int, chain: cnn.Layers) -> None:
    check_output(settings.output, classes)
    height, width, channels = image_shape
    least = smallest_side(chain)
    if settings.network in APPLICATIONS:
        least = APPLICATIONS[settings.network].smallest_side
        check_weights(settings.backbone, channels)
    check_channels(choose_normalization(settings), channels)
    if min(height, width) < least:
        raise StageError(
            f"train.network: {settings.network} needs images of at least {least}x{least} pixels, got {height}x{width}; "
            "turn augment.image_size up"
        )


def make_chain(settings: TrainParams) -> cnn.Layers:
    """Make the layers between normalization and output of a network that is a chain; none for others.

    Raises:
        StageError: one of the params in `cnn` does not suit the network.
    """
    if settings.network not in CNNS:
        return []
    given = read_differences(settings)
    return CHAINS[settings.network](**given) if settings.network in CHAINS else []


def read_differences(settings: TrainParams) -> dict[str, Any]:
    """The arguments for a network that is no backbone in which it is to differ from what its authors have.

    Raises:
        StageError: one of them does not suit the network.
    """
    name = settings.network
    known = inspect.signature(CHAINS.get(name, compact_cnn)).parameters
    given: dict[str, Any] = {key: value for key, value in settings.cnn.model_dump().items() if value is not None}
    if useless := sorted(set(given) - set(known)):
        raise StageError(f"train.cnn: {', '.join(useless)} is of no use to {name}; set it to null")
    expected = len(known["filters"].default)
    if name in CHAINS and "filters" in given and len(given["filters"]) != expected:
        raise StageError(
            f"train.cnn.filters: {name} has {expected} numbers of filters, or null, got {given['filters']}"
        )
    return given


def smallest_side(made: Sequence[keras.layers.Layer]) -> int:
    """The least side of an image, in pixels, that leaves one behind every convolution and pooling of a chain."""
    side = 1
    for layer in reversed(made):
        if isinstance(layer, layers.Conv2D):
            size = layer.kernel_size[0]
        elif isinstance(layer, layers.MaxPooling2D):
            size = layer.pool_size[0]
        else:
            continue
        side = (side - 1) * layer.strides[0] + (1 if layer.padding == "same" else size)
    return side
