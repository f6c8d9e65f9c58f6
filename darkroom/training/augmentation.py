"""Random changes of the images while a network trains: Keras layers that stand in front of it and are never saved.

What is trained is these layers and the network behind them; what is saved and asked for predictions is the network
alone. The names and units are those of Keras's old `ImageDataGenerator`.

Dims: B images of a batch, N pictures, E epochs, H height, W width, C channels.
"""

import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import keras
import numpy as np
from keras import layers, ops

from darkroom.pipeline.arrays import Pixels

FillMode = Literal["constant", "nearest", "reflect", "wrap"]

# A layer's seed depends on its place here, so that switching one on leaves the draws of the others as they are.
LAYERS = ("horizontal_flip", "vertical_flip", "rotation", "shift", "shear", "zoom", "channel_shift")
SEEDS = 2**31  # what the random states of all backends can hold


class AugmentationRanges(NamedTuple):
    """How far an image may be changed; 0 or False is not at all. Each image gets draws of its own, evenly distributed.

    Fields:
        rotation_range: degrees to either side, about the middle.
        width_shift_range, height_shift_range: fraction of the width or height, in either direction.
        shear_range: degrees to either side by which upright lines lean over, about the middle.
        zoom_range: x scales the height and, by another draw, the width of the visible part by 1 - x to 1 + x, about
            the middle; above 1 the picture becomes smaller.
        channel_shift_range: 0 to 255, what is at most added to or taken from a channel, with a draw for each.
        horizontal_flip, vertical_flip: for every other image.
        fill_mode: what is seen beyond the edges: "constant" black, the "nearest" pixel, the picture's mirror image
            ("reflect"), or the picture again ("wrap").
    """

    rotation_range: float
    width_shift_range: float
    height_shift_range: float
    shear_range: float
    zoom_range: float
    channel_shift_range: float
    horizontal_flip: bool
    vertical_flip: bool
    fill_mode: FillMode


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


def make_augmentation(ranges: AugmentationRanges, seed: int) -> list[keras.layers.Layer]:
    """Make the layers of what is not 0 or False, in the order in which an image passes through them.

    Flips come first, because they move whole pixels. Rotation, shift, shear and zoom follow in the order in which
    `ImageDataGenerator` multiplies their matrices. The channels are shifted last: then what was filled in beyond the
    edges is lit like the rest.

    Args:
        ranges: see there.
        seed: not negative; the same one gives the same draws.

    Returns:
        layers from uint8 or float pixels (B, H, W, C), 0 to 255, to float32 pixels in that range. They change nothing
        unless they are called with `training=True`.
    """
    seeds = {name: draw_seed(seed, number) for number, name in enumerate(LAYERS)}
    made = []
    # One layer for both flips would have one draw for the two: no picture would be mirrored in one direction alone.
    if ranges.horizontal_flip:
        made.append(layers.RandomFlip("horizontal", seed=seeds["horizontal_flip"], dtype="float32"))
    if ranges.vertical_flip:
        made.append(layers.RandomFlip("vertical", seed=seeds["vertical_flip"], dtype="float32"))
    geometry = make_geometry(ranges, seeds)
    made += geometry
    if ranges.channel_shift_range:
        made.append(RandomChannelShift(ranges.channel_shift_range, seeds["channel_shift"]))
    elif geometry:
        made.append(layers.ReLU(255, dtype="float32"))  # interpolated white may be 255.00003
    return made


def make_geometry(ranges: AugmentationRanges, seeds: Mapping[str, int]) -> list[keras.layers.Layer]:
    rotation, zoom, fill = ranges.rotation_range / 360, ranges.zoom_range, ranges.fill_mode
    height_shift, width_shift = ranges.height_shift_range, ranges.width_shift_range
    made = []
    if rotation:
        made.append(layers.RandomRotation(rotation, fill, seed=seeds["rotation"], dtype="float32"))
    if height_shift or width_shift:
        made.append(layers.RandomTranslation(height_shift, width_shift, fill, seed=seeds["shift"], dtype="float32"))
    if ranges.shear_range:
        made.append(RandomShear(ranges.shear_range, fill, seeds["shear"]))
    if zoom:
        made.append(layers.RandomZoom(zoom, zoom, fill, seed=seeds["zoom"], dtype="float32"))
    return made


def draw_seed(seed: int, number: int) -> int:
    return int(np.random.default_rng([seed, number]).integers(SEEDS))


def draw_examples(pictures: Pixels, ranges: AugmentationRanges, seed: int, epochs: int) -> Pixels:
    """Show what a network sees of `pictures`, uint8 (N, H, W, C), in so many epochs.

    Returns:
        shape (E, N, H, W, C), other draws in each epoch; without any augmentation, the pictures E times.
    """
    augmentation = make_augmentation(ranges, seed)
    drawn = np.empty((epochs, *pictures.shape), np.uint8)
    for epoch in range(epochs):
        images = pictures.astype(np.float32)
        for layer in augmentation:
            images = layer(images, training=True)
        drawn[epoch] = np.rint(np.clip(ops.convert_to_numpy(images), 0, 255))
    return drawn
