"""Random augmentation while the network trains; for stored variants, made once by the augment stage, see
darkroom/photos/variants.py.

It is done by Keras layers in front of the network. What is trained is these layers and the network behind them; what is
saved and makes predictions is the network alone. The names and units are those of Keras's old `ImageDataGenerator`.

Dims: B images of a batch, N pictures, E epochs, H height, W width, C channels.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers, ops

from darkroom.params.train import AugmentationParams, FillMode
from darkroom.pipeline.arrays import Pixels

SEEDS = 2**31  # what the random states of all backends can hold


class RandomShear(layers.Layer):  # type: ignore[misc]
    """Shear along the width by an angle, about the picture's middle.

    `keras.layers.RandomShear` has the picture's top left corner as its fixed point, so that it shifts the picture as
    well, and takes a fraction of the height instead of an angle.
    """

    def __init__(self, degrees: float, fill_mode: FillMode, seed: int) -> None:
        super().__init__(dtype="float32")
        self.degrees = degrees
        self.fill_mode = fill_mode
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, images: Any, training: bool = False) -> Any:
        images = ops.cast(images, self.compute_dtype)  # (B, H, W, C)
        if not training:
            return images
        batch, height, *_ = ops.shape(images)
        limit = math.radians(self.degrees)
        slope = ops.tan(keras.random.uniform((batch,), -limit, limit, seed=self.seed_generator))  # (B,)
        zero, one = ops.zeros_like(slope), ops.ones_like(slope)
        middle = (ops.cast(height, slope.dtype) - 1) / 2
        # From a pixel (x, y) of the result to the one it shows: x + slope * (y - middle), y.
        matrix = ops.stack([one, slope, -slope * middle, zero, one, zero, zero, zero], axis=1)  # (B, 8)
        return ops.image.affine_transform(images, matrix, "bilinear", self.fill_mode)


class RandomChannelShift(layers.Layer):  # type: ignore[misc]
    """Add a draw to each channel of each image, within 0 to 255."""

    def __init__(self, shift: float, seed: int) -> None:
        super().__init__(dtype="float32")
        self.shift = shift
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, images: Any, training: bool = False) -> Any:
        images = ops.cast(images, self.compute_dtype)  # (B, H, W, C)
        if not training:
            return images
        batch, _, _, channels = ops.shape(images)
        shifts = keras.random.uniform((batch, 1, 1, channels), -self.shift, self.shift, seed=self.seed_generator)
        return ops.clip(images + shifts, 0, 255)


def flip_horizontally(params: AugmentationParams, seed: int) -> keras.layers.Layer | None:
    return layers.RandomFlip("horizontal", seed=seed, dtype="float32") if params.horizontal_flip else None


# One layer for both flips would have one draw for the two: no image would be flipped in one direction alone.
def flip_vertically(params: AugmentationParams, seed: int) -> keras.layers.Layer | None:
    return layers.RandomFlip("vertical", seed=seed, dtype="float32") if params.vertical_flip else None


def rotate(params: AugmentationParams, seed: int) -> keras.layers.Layer | None:
    if not params.rotation_range:
        return None
    return layers.RandomRotation(params.rotation_range / 360, params.fill_mode, seed=seed, dtype="float32")


def shift(params: AugmentationParams, seed: int) -> keras.layers.Layer | None:
    height, width = params.height_shift_range, params.width_shift_range
    if not height and not width:
        return None
    return layers.RandomTranslation(height, width, params.fill_mode, seed=seed, dtype="float32")


def shear(params: AugmentationParams, seed: int) -> keras.layers.Layer | None:
    return RandomShear(params.shear_range, params.fill_mode, seed) if params.shear_range else None


def zoom(params: AugmentationParams, seed: int) -> keras.layers.Layer | None:
    limit = params.zoom_range
    return layers.RandomZoom(limit, limit, params.fill_mode, seed=seed, dtype="float32") if limit else None


def shift_channels(params: AugmentationParams, seed: int) -> keras.layers.Layer | None:
    return RandomChannelShift(params.channel_shift_range, seed) if params.channel_shift_range else None


class Augmentation(NamedTuple):
    """A random change of images.

    Fields:
        make: gives its layer from the params and a seed; None where the params switch it off.
        interpolates: whether pixels are mixed, so that values may leave 0 to 255 by a rounding error.
        clips: whether all values are in 0 to 255 afterwards.
    """

    make: Callable[[AugmentationParams, int], keras.layers.Layer | None]
    interpolates: bool = False
    clips: bool = False


# In the order in which an image passes through them. Flips come first, because they move whole pixels. Rotation, shift,
# shear and zoom follow in the order in which `ImageDataGenerator` multiplies their matrices. The channels are shifted
# afterwards: then what was filled in beyond the edges is lit like the rest.
#
# The index in this table decides a layer's seed, so switching one on leaves the draws of the others as they are. Append
# a new one at the END: anywhere else it would change the results of every training with one that comes after it.
LAYERS: tuple[Augmentation, ...] = (
    Augmentation(flip_horizontally),
    Augmentation(flip_vertically),
    Augmentation(rotate, interpolates=True),
    Augmentation(shift, interpolates=True),
    Augmentation(shear, interpolates=True),
    Augmentation(zoom, interpolates=True),
    Augmentation(shift_channels, clips=True),
)


def make_augmentation(params: AugmentationParams, seed: int) -> list[keras.layers.Layer]:
    """Make the layers of what is not 0 or false, in the order of `LAYERS`.

    Args:
        params: how far images may be changed.
        seed: not negative; the same one gives the same draws.

    Returns:
        layers from uint8 or float pixels (B, H, W, C), 0 to 255, to float32 pixels in that range. They change nothing
        unless they are called with `training=True`.
    """
    made = []
    may_exceed = False
    for number, augmentation in enumerate(LAYERS):
        layer = augmentation.make(params, draw_seed(seed, number))
        if layer is not None:
            made.append(layer)
            may_exceed = augmentation.interpolates or (may_exceed and not augmentation.clips)
    if may_exceed:
        made.append(layers.ReLU(255, dtype="float32"))  # interpolated white may be 255.00003
    return made


def draw_seed(seed: int, number: int) -> int:
    return int(np.random.default_rng([seed, number]).integers(SEEDS))


def draw_examples(pictures: Pixels, params: AugmentationParams, seed: int, epochs: int) -> Pixels:
    """Show what a network sees of `pictures`, uint8 (N, H, W, C), in so many epochs.

    Returns:
        shape (E, N, H, W, C), other draws in each epoch; without any augmentation, the pictures E times.
    """
    augmentation = make_augmentation(params, seed)
    drawn = np.empty((epochs, *pictures.shape), np.uint8)
    for epoch in range(epochs):
        images = pictures.astype(np.float32)
        for layer in augmentation:
            images = layer(images, training=True)
        drawn[epoch] = np.rint(np.clip(ops.convert_to_numpy(images), 0, 255))
    return drawn
