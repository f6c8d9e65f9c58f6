"""Variants of photos that the augment stage stores: rotated first, then flipped. For random augmentation during
training, see darkroom/training/augmentation.py.

Dims: H height, W width, C channels (3 for RGB, 1 for gray), V variants of one photo.
"""

import math
from collections.abc import Sequence
from functools import cache
from typing import Literal, NamedTuple

import cv2
import numpy as np
from cv2.typing import MatLike

from darkroom.photos.options import CornerFill, Resampling
from darkroom.pipeline.arrays import Pixels

Flip = Literal["none", "horizontal", "vertical", "both"]
# The position in an image that each pixel of the rotated one comes from: x and y in whole pixels, int16 (H, W, 2), and
# their fractions, in 32nds of a pixel, uint16 (H, W); "nearest" has no fractions.
RotationMap = tuple[MatLike, MatLike | None]

INTERPOLATIONS: dict[Resampling, int] = {
    "nearest": cv2.INTER_NEAREST,
    "bilinear": cv2.INTER_LINEAR,
    "bicubic": cv2.INTER_CUBIC,
    "lanczos": cv2.INTER_LANCZOS4,
}
# OpenCV's REFLECT repeats the pixel at the border: d c b a | a b c d | d c b a.
BORDERS: dict[CornerFill, int] = {
    "constant": cv2.BORDER_CONSTANT,
    "edge": cv2.BORDER_REPLICATE,
    "reflect": cv2.BORDER_REFLECT,
}
FLIP_CODES: dict[Flip, int] = {"horizontal": 1, "vertical": 0, "both": -1}
FLIP_CAPTIONS: dict[Flip, str] = {"none": "", "horizontal": "flipped", "vertical": "flipped ↕", "both": "flipped ↔↕"}


class Variant(NamedTuple):
    """An image rotated by `rotation_degrees` counterclockwise about its center, and then flipped."""

    rotation_degrees: float
    flip: Flip


ORIGINAL = Variant(0.0, "none")


def list_variants(rotation_degrees: Sequence[float], horizontal_flip: bool, vertical_flip: bool) -> list[Variant]:
    """List every combination of the rotations and flips once, the original first.

    0 degrees is always among the rotations. Combinations that give the same image are listed once: both flips together
    are a 180-degree rotation, and 360 degrees are none.
    """
    flips: list[Flip] = ["none"]
    flips += ["horizontal"] if horizontal_flip else []
    flips += ["vertical"] if vertical_flip else []
    flips += ["both"] if horizontal_flip and vertical_flip else []
    variants: dict[tuple[float, bool], Variant] = {}
    for flip in flips:
        for degrees in [0.0, *rotation_degrees]:
            # Every combination is a rotation, flipped left to right or not: a vertical flip is a horizontal one after
            # a rotation by 180 degrees.
            half_turn = 180 if flip in ("vertical", "both") else 0
            is_flipped = flip in ("horizontal", "vertical")
            # Rounded: 192.1 + 180 - 360 is not exactly 12.1.
            rotation = round((degrees + half_turn) % 360, 6) % 360
            variants.setdefault((rotation, is_flipped), Variant(degrees, flip))
    return list(variants.values())


def caption_variant(variant: Variant) -> str:
    """Describe a variant in a word or two."""
    rotation = f"{variant.rotation_degrees:g}°" if variant.rotation_degrees % 360 else ""
    return ", ".join(filter(None, [rotation, FLIP_CAPTIONS[variant.flip]])) or "original"


def draw_variants(pixels: Pixels, variants: Sequence[Variant], resampling: Resampling, fill_mode: CornerFill) -> Pixels:
    """Draw each variant of an image: rotate it, then flip the result.

    Args:
        pixels: shape (H, W, C).
        variants: V variants.
        resampling: the interpolation of rotated images.
        fill_mode: how to fill the corners that a rotation uncovers: "constant" is black, "edge" repeats the border
            pixels, "reflect" reflects the image at its border.

    Returns:
        shape (V, H, W, C).
    """
    drawn = np.empty((len(variants), *pixels.shape), np.uint8)
    rotated: dict[float, Pixels] = {}
    for (degrees, flip), output in zip(variants, drawn, strict=True):
        if flip == "none":
            rotate_image(pixels, degrees, resampling, fill_mode, output)
            rotated[degrees] = output
            continue
        if degrees not in rotated:
            rotated[degrees] = np.empty_like(output)
            rotate_image(pixels, degrees, resampling, fill_mode, rotated[degrees])
        cv2.flip(rotated[degrees], FLIP_CODES[flip], output)
    return drawn


def rotate_image(pixels: Pixels, degrees: float, resampling: Resampling, fill_mode: CornerFill, output: Pixels) -> None:
    """Rotate an image counterclockwise about its center into `output`, both of shape (H, W, C)."""
    if degrees % 360 == 0:
        output[:] = pixels
        return
    height, width = pixels.shape[:2]
    positions, fractions = map_rotation(height, width, degrees, resampling == "nearest")
    interpolation, border = INTERPOLATIONS[resampling], BORDERS[fill_mode]
    cv2.remap(pixels, positions, fractions, interpolation, output, border, 0)  # type: ignore[arg-type]


# Cached for all images of a size: 6 bytes per pixel and angle, as much as the drawn variants with their flips need.
# Remapping with fixed-point maps takes 0.6 of the time of OpenCV's warpAffine.
@cache
def map_rotation(height: int, width: int, degrees: float, nearest: bool) -> RotationMap:
    center_x, center_y = (width - 1) / 2, (height - 1) / 2
    x, y = np.arange(width) - center_x, np.arange(height)[:, None] - center_y
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    from_x = (cosine * x - sine * y + center_x).astype(np.float32)
    from_y = (sine * x + cosine * y + center_y).astype(np.float32)
    return cv2.convertMaps(from_x, from_y, cv2.CV_16SC2, nninterpolation=nearest)


def use_one_thread() -> None:
    """Limit OpenCV to the calling thread, for one of several processes that together use all processors."""
    cv2.setNumThreads(1)
