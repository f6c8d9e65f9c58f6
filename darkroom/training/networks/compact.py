"""A small residual network, trained from scratch."""

from collections.abc import Sequence

import keras
from keras import layers

from darkroom.training.networks.steps import Step, Steps, apply_steps, make_convolution

DROPOUT = 0.2


def compact_cnn(
    filters: Sequence[int] = (16, 32, 64, 128), kernel_size: int = 3, batch_normalization: bool = True
) -> Steps:
    """A residual network whose number of features is the last number of filters.

    One stage per number of filters: a convolution that halves height and width, then a residual block of two more, as
    in K. He et al., "Deep residual learning for image recognition", 2016. Global average pooling replaces the dense
    layers that hold most parameters of older networks. 493,050 parameters for color images and 10 classes.

    Args:
        filters: number of filters of each stage.
        kernel_size: of all convolutions.
        batch_normalization: whether it follows each convolution, before the activation.
    """
    steps: Steps = []
    for count in filters:
        steps += make_convolution(count, kernel_size, 2, "same", "relu", batch_normalization)
        steps.append(make_residual_block(count, kernel_size, batch_normalization))
    return [*steps, layers.GlobalAveragePooling2D(), layers.Dropout(DROPOUT)]


def make_residual_block(filters: int, kernel_size: int, batch_normalization: bool) -> Step:
    """Make two convolutions whose output is added to their input."""
    branch = [
        *make_convolution(filters, kernel_size, 1, "same", "relu", batch_normalization),
        *make_convolution(filters, kernel_size, 1, "same", None, batch_normalization),
    ]
    add, activation = layers.Add(), layers.Activation("relu")

    def add_branch(values: keras.KerasTensor) -> keras.KerasTensor:
        return activation(add([values, apply_steps(branch, values)]))

    return add_branch
