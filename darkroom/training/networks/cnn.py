"""Plain convolutional networks of the tutorials, trained from scratch.

Each function gives the layers between the normalization and the output. The defaults are the network as its authors
have it; `filters` has a number for each convolution, the other arguments hold for all of them. A pooling goes on by as
many pixels as it takes together.
"""

from collections.abc import Sequence

from keras import layers

from darkroom.params.section import Padding
from darkroom.training.networks.steps import Layers, convolve, pool


def keras_cifar10_cnn(
    filters: Sequence[int] = (32, 32, 64, 64),
    kernel_size: int = 3,
    strides: int = 1,
    padding: Padding | None = None,
    pool_size: int = 2,
    batch_normalization: bool = False,
) -> Layers:
    """The small CIFAR-10 network of Keras's first examples (`examples/cifar10_cnn.py`).

    Two blocks of two convolutions, a pooling and a dropout, then 512 dense units: 1,250,858 parameters at 32x32x3 and
    10 classes. Without a `padding`, the first convolution of a block keeps the size and the second does not.
    """
    made: Layers = []
    for first, second in (filters[:2], filters[2:]):
        made += convolve(first, kernel_size, strides, padding or "same", "relu", batch_normalization)
        made += convolve(second, kernel_size, strides, padding or "valid", "relu", batch_normalization)
        made += [*pool(pool_size), layers.Dropout(0.25)]
    return [*made, layers.Flatten(), layers.Dense(512, activation="relu"), layers.Dropout(0.5)]


def keras_mnist_cnn(
    filters: Sequence[int] = (32, 64),
    kernel_size: int = 3,
    strides: int = 1,
    padding: Padding = "valid",
    pool_size: int = 2,
    batch_normalization: bool = False,
) -> Layers:
    """The MNIST network of Keras's first examples (`examples/mnist_cnn.py`).

    Two convolutions, a pooling and 128 dense units, with dropout: 1,199,882 parameters at 28x28x1 and 10 classes.
    """
    made: Layers = []
    for count in filters:
        made += convolve(count, kernel_size, strides, padding, "relu", batch_normalization)
    made += [*pool(pool_size), layers.Dropout(0.25), layers.Flatten()]
    return [*made, layers.Dense(128, activation="relu"), layers.Dropout(0.5)]


def sigmoid_cnn(
    filters: Sequence[int] = (32, 32),
    kernel_size: int = 2,
    strides: int = 1,
    padding: Padding = "same",
    pool_size: int = 2,
    batch_normalization: bool = False,
) -> Layers:
    """A first CNN, as courses on the basics have it: two convolutions of 2x2 without activation, each pooled, then 256
    and 128 dense sigmoid units. 440,138 parameters at 28x28x1 and 10 classes."""
    made: Layers = []
    for count in filters:
        made += convolve(count, kernel_size, strides, padding, None, batch_normalization) + pool(pool_size)
    return [*made, layers.Flatten(), layers.Dense(256, activation="sigmoid"), layers.Dense(128, activation="sigmoid")]


def cats_dogs_cnn(
    filters: Sequence[int] = (32, 64, 128, 128),
    kernel_size: int = 3,
    strides: int = 1,
    padding: Padding = "valid",
    pool_size: int = 2,
    batch_normalization: bool = False,
) -> Layers:
    """The cats and dogs network of F. Chollet, "Deep Learning with Python", 2017, chapter 5.

    Four convolutions, each pooled, then 512 dense units: 3,453,121 parameters at 150x150x3 with one sigmoid output.
    """
    made: Layers = []
    for count in filters:
        made += convolve(count, kernel_size, strides, padding, "relu", batch_normalization) + pool(pool_size)
    return [*made, layers.Flatten(), layers.Dense(512, activation="relu")]
