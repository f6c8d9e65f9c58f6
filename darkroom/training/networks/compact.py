"""A small residual network of our own, trained from scratch."""

from collections.abc import Sequence

import keras
from keras import layers

from darkroom.training.networks.steps import Step, Steps, convolve, follow

DROPOUT = 0.2


def compact_cnn(
    filters: Sequence[int] = (16, 32, 64, 128), kernel_size: int = 3, batch_normalization: bool = True
) -> Steps:
    """A residual network with as many features as the last number of filters.

    A stage for each number of filters: a convolution that halves height and width, and a residual block of two more, as
    in K. He et al., "Deep residual learning for image recognition", 2016. The mean over height and width replaces the
    dense layers, which hold most parameters of older networks. 493,050 parameters in color, 10 classes.

    Args:
        filters: of each stage.
        kernel_size: of all convolutions.
        batch_normalization: between each convolution and its activation.
    """
    steps: Steps = []
    for count in filters:
        steps += convolve(count, kernel_size, 2, "same", "relu", batch_normalization)
        steps.append(make_residual_block(count, kernel_size, batch_normalization))
    return [*steps, layers.GlobalAveragePooling2D(), layers.Dropout(DROPOUT)]


def make_residual_block(filters: int, kernel_size: int, batch_normalization: bool) -> Step:
    """Make two convolutions whose result is added to what they read."""
    branch = [
        *convolve(filters, kernel_size, 1, "same", "relu", batch_normalization),
        *convolve(filters, kernel_size, 1, "same", None, batch_normalization),
    ]
    add, activation = layers.Add(), layers.Activation("relu")

    def add_branch(values: keras.KerasTensor) -> keras.KerasTensor:
        return activation(add([values, follow(branch, values)]))

    return add_branch
