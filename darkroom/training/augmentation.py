"""Random augmentation during training. For stored variants, which the augment stage makes once, see
darkroom/photos/variants.py.

Keras layers before the network augment the images. The trained model consists of these layers and the network; the
saved model is the network alone. Names and units are those of Keras's former `ImageDataGenerator`.

Dims: B images of a batch, N images, E epochs, H height, W width, C channels.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers, ops

from darkroom.params.train import AugmentationParams, FillMode
from darkroom.pipeline.arrays import Pixels

SEEDS = 2**31  # the range that the random states of all backends can hold


class RandomShear(layers.Layer):  # type: ignore[misc]
    """Shear along the width by a random angle, about the center of the image.

    `keras.layers.RandomShear` shears about the top left corner, which shifts the image as well, and takes a fraction of
    the height instead of an angle.
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
        center = (ops.cast(height, slope.dtype) - 1) / 2
        # Maps an output pixel (x, y) to its input pixel (x + slope * (y - center), y).
        matrix = ops.stack([one, slope, -slope * center, zero, one, zero, zero, zero], axis=1)  # (B, 8)
        return ops.image.affine_transform(images, matrix, "bilinear", self.fill_mode)


class RandomChannelShift(layers.Layer):  # type: ignore[misc]
    """Add a random value to each channel of each image, and clip to 0 to 255."""

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


def make_horizontal_flip(params: AugmentationParams, seed: int) -> keras.layers.Layer | None:
    return layers.RandomFlip("horizontal", seed=seed, dtype="float32") if params.horizontal_flip else None


# A single layer for both flips would make one draw for both: no image would be flipped in one direction only.
def make_vertical_flip(params: AugmentationParams, seed: int) -> keras.layers.Layer | None:
    return layers.RandomFlip("vertical", seed=seed, dtype="float32") if params.vertical_flip else None


def make_rotation(params: AugmentationParams, seed: int) -> keras.layers.Layer | None:
    if not params.rotation_range:
        return None
    return layers.RandomRotation(params.rotation_range / 360, params.fill_mode, seed=seed, dtype="float32")


def make_shift(params: AugmentationParams, seed: int) -> keras.layers.Layer | None:
    height, width = params.height_shift_range, params.width_shift_range
    if not height and not width:
        return None
    return layers.RandomTranslation(height, width, params.fill_mode, seed=seed, dtype="float32")


def make_shear(params: AugmentationParams, seed: int) -> keras.layers.Layer | None:
    return RandomShear(params.shear_range, params.fill_mode, seed) if params.shear_range else None


def make_zoom(params: AugmentationParams, seed: int) -> keras.layers.Layer | None:
    limit = params.zoom_range
    return layers.RandomZoom(limit, limit, params.fill_mode, seed=seed, dtype="float32") if limit else None


def make_channel_shift(params: AugmentationParams, seed: int) -> keras.layers.Layer | None:
    return RandomChannelShift(params.channel_shift_range, seed) if params.channel_shift_range else None


class Augmentation(NamedTuple):
    """A random transformation of images.

    Fields:
        make: makes its layer from the params and a seed; None if the params disable it.
        interpolates: whether it interpolates pixels, so that rounding errors may exceed 0 to 255.
        clips: whether it clips all values to 0 to 255.
    """

    make: Callable[[AugmentationParams, int], keras.layers.Layer | None]
    interpolates: bool = False
    clips: bool = False


# In the order in which they are applied. Flips come first, because they move whole pixels. Rotation, shift, shear and
# zoom follow in the order in which `ImageDataGenerator` multiplies their matrices. The channel shift comes last, so
# that it also applies to the pixels that were filled in beyond the edges.
#
# The index in this table determines a layer's seed, so enabling one leaves the random draws of the others unchanged.
# Append new ones at the END: anywhere else they would change the result of every training with a later one.
LAYERS: tuple[Augmentation, ...] = (
    Augmentation(make_horizontal_flip),
    Augmentation(make_vertical_flip),
    Augmentation(make_rotation, interpolates=True),
    Augmentation(make_shift, interpolates=True),
    Augmentation(make_shear, interpolates=True),
    Augmentation(make_zoom, interpolates=True),
    Augmentation(make_channel_shift, clips=True),
)


def make_augmentation(params: AugmentationParams, seed: int) -> list[keras.layers.Layer]:
    """Make the layers of the enabled augmentations, in the order of `LAYERS`.

    Args:
        params: the range of each augmentation; 0 or false disables it.
        seed: not negative; the same seed gives the same draws.

    Returns:
        layers from uint8 or float pixels (B, H, W, C), 0 to 255, to float32 pixels in that range. They change nothing
        unless they are called with `training=True`.
    """
    made = []
    may_exceed = False
    for index, augmentation in enumerate(LAYERS):
        layer = augmentation.make(params, derive_seed(seed, index))
        if layer is not None:
            made.append(layer)
            may_exceed = augmentation.interpolates or (may_exceed and not augmentation.clips)
    if may_exceed:
        made.append(layers.ReLU(255, dtype="float32"))  # interpolation can give 255.00003
    return made


def derive_seed(seed: int, index: int) -> int:
    return int(np.random.default_rng([seed, index]).integers(SEEDS))


def augment_for_preview(images: Pixels, params: AugmentationParams, seed: int, epochs: int) -> Pixels:
    """Augment `images`, uint8 (N, H, W, C), as a network would see them in several epochs.

    Returns:
        shape (E, N, H, W, C), with different draws in each epoch; without augmentation, E copies of the images.
    """
    augmentation = make_augmentation(params, seed)
    augmented = np.empty((epochs, *images.shape), np.uint8)
    for epoch in range(epochs):
        values = images.astype(np.float32)
        for layer in augmentation:
            values = layer(values, training=True)
        augmented[epoch] = np.rint(np.clip(ops.convert_to_numpy(values), 0, 255))
    return augmented
