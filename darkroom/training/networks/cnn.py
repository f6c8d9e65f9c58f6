"""Plain convolutional networks from tutorials, trained from scratch.

Each function lists the layers between the normalization and the output. The defaults give the published network.
`filters` has one number per convolution; the other arguments apply to all convolutions. Pooling strides equal the pool
size.
"""

from collections.abc import Sequence

from keras import layers

from darkroom.params.section import Padding
from darkroom.training.networks.steps import Layers, make_convolution, make_pooling


def keras_cifar10_cnn(
    filters: Sequence[int] = (32, 32, 64, 64),
    kernel_size: int = 3,
    strides: int = 1,
    padding: Padding | None = None,
    pool_size: int = 2,
    batch_normalization: bool = False,
) -> Layers:
    """The small CIFAR-10 network of Keras's first examples (`examples/cifar10_cnn.py`).

    Two blocks of two convolutions, pooling and dropout, then 512 dense units: 1,250,858 parameters for 32x32x3 images
    and 10 classes. If `padding` is None, the first convolution of a block is "same" and the second "valid".
    """
    steps: Layers = []
    for first, second in (filters[:2], filters[2:]):
        steps += make_convolution(first, kernel_size, strides, padding or "same", "relu", batch_normalization)
        steps += make_convolution(second, kernel_size, strides, padding or "valid", "relu", batch_normalization)
        steps += [*make_pooling(pool_size), layers.Dropout(0.25)]
    return [*steps, layers.Flatten(), layers.Dense(512, activation="relu"), layers.Dropout(0.5)]


def keras_mnist_cnn(
    filters: Sequence[int] = (32, 64),
    kernel_size: int = 3,
    strides: int = 1,
    padding: Padding = "valid",
    pool_size: int = 2,
    batch_normalization: bool = False,
) -> Layers:
    """The MNIST network of Keras's first examples (`examples/mnist_cnn.py`).

    Two convolutions, pooling and 128 dense units, with dropout: 1,199,882 parameters for 28x28x1 images and 10 classes.
    """
    steps: Layers = []
    for count in filters:
        steps += make_convolution(count, kernel_size, strides, padding, "relu", batch_normalization)
    steps += [*make_pooling(pool_size), layers.Dropout(0.25), layers.Flatten()]
    return [*steps, layers.Dense(128, activation="relu"), layers.Dropout(0.5)]


def sigmoid_cnn(
    filters: Sequence[int] = (32, 32),
    kernel_size: int = 2,
    strides: int = 1,
    padding: Padding = "same",
    pool_size: int = 2,
    batch_normalization: bool = False,
) -> Layers:
    """A beginner's CNN, as in introductory courses.

    Two 2x2 convolutions without activation, each followed by pooling, then 256 and 128 dense sigmoid units: 440,138
    parameters for 28x28x1 images and 10 classes.
    """
    steps: Layers = []
    for count in filters:
        steps += make_convolution(count, kernel_size, strides, padding, None, batch_normalization) + make_pooling(
            pool_size
        )
    return [*steps, layers.Flatten(), layers.Dense(256, activation="sigmoid"), layers.Dense(128, activation="sigmoid")]


def cats_dogs_cnn(
    filters: Sequence[int] = (32, 64, 128, 128),
    kernel_size: int = 3,
    strides: int = 1,
    padding: Padding = "valid",
    pool_size: int = 2,
    batch_normalization: bool = False,
) -> Layers:
    """The cats and dogs network of F. Chollet, "Deep Learning with Python", 2017, chapter 5.

    Four convolutions, each followed by pooling, then 512 dense units: 3,453,121 parameters for 150x150x3 images and
    one sigmoid output.
    """
    steps: Layers = []
    for count in filters:
        steps += make_convolution(count, kernel_size, strides, padding, "relu", batch_normalization) + make_pooling(
            pool_size
        )
    return [*steps, layers.Flatten(), layers.Dense(512, activation="relu")]
