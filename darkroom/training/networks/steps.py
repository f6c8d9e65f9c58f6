"""The steps that networks from scratch are made of.

Dims: B images of a batch, H height, W width, C channels, D features.
"""

from collections.abc import Callable, Sequence

import keras
from keras import layers

from darkroom.params.section import Padding

# A Keras layer, or a function of several layers that do not follow one another.
Step = Callable[[keras.KerasTensor], keras.KerasTensor]
Steps = list[Step]
Layers = list[keras.layers.Layer]

# Data sets of some thousand photos have too few batches for the statistics to settle with the 0.99 of Keras, let alone
# with the 0.999 of its MobileNets.
BATCH_NORMALIZATION_MOMENTUM = 0.9


def convolve(
    filters: int, kernel_size: int, strides: int, padding: Padding, activation: str | None, batch_normalization: bool
) -> Layers:
    """Make a convolution with its activation; batch normalization stands between the two."""
    if not batch_normalization:
        return [layers.Conv2D(filters, kernel_size, strides, padding, activation=activation)]
    made = [
        layers.Conv2D(filters, kernel_size, strides, padding, use_bias=False),
        layers.BatchNormalization(momentum=BATCH_NORMALIZATION_MOMENTUM),
    ]
    return [*made, layers.Activation(activation)] if activation else made


def pool(pool_size: int) -> Layers:
    return [layers.MaxPooling2D(pool_size)] if pool_size > 1 else []


def follow(steps: Sequence[Step], values: keras.KerasTensor) -> keras.KerasTensor:
    """Pass a tensor through one step after the other."""
    for step in steps:
        values = step(values)
    return values


def smallest_side(steps: Sequence[Step]) -> int:
    """The smallest side of an image, in pixels, that leaves a pixel after every convolution and pooling.

    Steps that are functions are not looked into: they must work on a single pixel.
    """
    side = 1
    for step in reversed(steps):
        if isinstance(step, layers.Conv2D):
            size = step.kernel_size[0]
        elif isinstance(step, layers.MaxPooling2D):
            size = step.pool_size[0]
        else:
            continue
        side = (side - 1) * step.strides[0] + (1 if step.padding == "same" else size)
    return side
