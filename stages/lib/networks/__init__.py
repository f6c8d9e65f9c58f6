"""The networks that `train.network` may name: one module per family, one function per network."""

from collections.abc import Sequence

import keras

from stages.lib.networks.cnn import keras_cifar10_cnn
from stages.lib.stage import StageError

NETWORKS = {"keras_cifar10_cnn": keras_cifar10_cnn}


def build_network(
    name: str, image_shape: tuple[int, int, int], classes: int, normalization: Sequence[keras.layers.Layer]
) -> keras.Model:
    """Build the network of this name for images of `image_shape`, (height, width, channels).

    The layers of `normalization` take pixels from 0 to 255; they become the network's first ones.

    Raises:
        StageError: the images are too small for it.
    """
    try:
        return NETWORKS[name](image_shape, classes, normalization)
    except ValueError as error:
        raise StageError(f"train.network: {name} {error}; turn augment.image_size up") from None
