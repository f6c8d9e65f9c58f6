"""The steps that networks trained from scratch consist of.

Dims: B images of a batch, H height, W width, C channels, D features.
"""

from collections.abc import Callable, Sequence

import keras
from keras import layers

from darkroom.params.section import Padding

# A Keras layer, or a function that applies several layers which are not a plain sequence.
Step = Callable[[keras.KerasTensor], keras.KerasTensor]
Steps = list[Step]
Layers = list[keras.layers.Layer]

# A few thousand photos give too few batches for the statistics to converge with Keras's default of 0.99, let alone with
# the 0.999 of its MobileNets.
BATCH_NORMALIZATION_MOMENTUM = 0.9


def make_convolution(
    filters: int, kernel_size: int, strides: int, padding: Padding, activation: str | None, batch_normalization: bool
) -> Layers:
    """Make a convolution and its activation, with optional batch normalization between them."""
    if not batch_normalization:
        return [layers.Conv2D(filters, kernel_size, strides, padding, activation=activation)]
    steps = [
        layers.Conv2D(filters, kernel_size, strides, padding, use_bias=False),
        layers.BatchNormalization(momentum=BATCH_NORMALIZATION_MOMENTUM),
    ]
    return [*steps, layers.Activation(activation)] if activation else steps


def make_pooling(pool_size: int) -> Layers:
    return [layers.MaxPooling2D(pool_size)] if pool_size > 1 else []


def apply_steps(steps: Sequence[Step], values: keras.KerasTensor) -> keras.KerasTensor:
    """Apply steps to a tensor one after another."""
    for step in steps:
        values = step(values)
    return values


def smallest_input_side(steps: Sequence[Step]) -> int:
    """The smallest image side, in pixels, for which every convolution and pooling has an output of at least one pixel.

    Steps that are functions are not inspected: they must work on a single pixel.
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
