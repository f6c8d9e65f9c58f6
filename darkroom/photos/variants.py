"""Stored variants, made once by the augment stage: rotated first, and then flipped; for random augmentation while the
network trains, see darkroom/training/augmentation.py.

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
# Where in a picture each pixel of the turned one comes from: x and y in whole pixels, int16 (H, W, 2), and what they
# lack, in 32nds of a pixel, uint16 (H, W); "nearest" has no such rest.
TurnMap = tuple[MatLike, MatLike | None]

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
    """A picture turned `rotation_degrees` counter-clockwise about its middle first, and then flipped.

    So a mirrored variant is the mirror image of a turned one.
    """

    rotation_degrees: float
    flip: Flip


ORIGINAL = Variant(0.0, "none")


def list_variants(rotation_degrees: Sequence[float], horizontal_flip: bool, vertical_flip: bool) -> list[Variant]:
    """List every combination of the rotations and flips once, the unturned original first.

    0 degrees is always among the rotations. Combinations that give the same picture count once: both flips together
    are half a turn, and 360 degrees are none.
    """
    flips: list[Flip] = ["none"]
    flips += ["horizontal"] if horizontal_flip else []
    flips += ["vertical"] if vertical_flip else []
    flips += ["both"] if horizontal_flip and vertical_flip else []
    variants: dict[tuple[float, bool], Variant] = {}
    for flip in flips:
        for degrees in [0.0, *rotation_degrees]:
            # Each is a turn that is mirrored left to right or is not: top to bottom is half a turn more, mirrored.
            half_turn = 180 if flip in ("vertical", "both") else 0
            mirrored = flip in ("horizontal", "vertical")
            # Rounded: 192.1 + 180 - 360 is not quite 12.1.
            turned = round((degrees + half_turn) % 360, 6) % 360
            variants.setdefault((turned, mirrored), Variant(degrees, flip))
    return list(variants.values())


def caption_variant(variant: Variant) -> str:
    """Say in a word or two what was done to a picture."""
    turn = f"{variant.rotation_degrees:g}°" if variant.rotation_degrees % 360 else ""
    return ", ".join(filter(None, [turn, FLIP_CAPTIONS[variant.flip]])) or "original"


def draw_variants(pixels: Pixels, variants: Sequence[Variant], resampling: Resampling, fill_mode: CornerFill) -> Pixels:
    """Draw each variant of a picture: turn it, then flip what came out.

    Args:
        pixels: shape (H, W, C).
        variants: V variants.
        resampling: how the pixels around a place are weighed, in a picture that is turned.
        fill_mode: what fills the corners that a turn uncovers: "constant" is black, "edge" the pixels of the border,
            "reflect" the picture mirrored at it.

    Returns:
        shape (V, H, W, C).
    """
    drawn = np.empty((len(variants), *pixels.shape), np.uint8)
    turned: dict[float, Pixels] = {}
    for (degrees, flip), picture in zip(variants, drawn, strict=True):
        if flip == "none":
            turn_picture(pixels, degrees, resampling, fill_mode, picture)
            turned[degrees] = picture
            continue
        if degrees not in turned:
            turned[degrees] = np.empty_like(picture)
            turn_picture(pixels, degrees, resampling, fill_mode, turned[degrees])
        cv2.flip(turned[degrees], FLIP_CODES[flip], picture)
    return drawn


def turn_picture(pixels: Pixels, degrees: float, resampling: Resampling, fill_mode: CornerFill, turned: Pixels) -> None:
    """Draw a picture turned counter-clockwise about its middle into `turned`, both of shape (H, W, C)."""
    if degrees % 360 == 0:
        turned[:] = pixels
        return
    height, width = pixels.shape[:2]
    places, rests = map_turn(height, width, degrees, resampling == "nearest")
    cv2.remap(pixels, places, rests, INTERPOLATIONS[resampling], turned, BORDERS[fill_mode], 0)  # type: ignore[arg-type]


# Made once for all pictures of a size: 6 bytes a pixel and angle, as much as the drawn variants with their flips take.
# Fixed-point maps are drawn from in 0.6 of the time that OpenCV's warpAffine needs.
@cache
def map_turn(height: int, width: int, degrees: float, nearest: bool) -> TurnMap:
    middle_x, middle_y = (width - 1) / 2, (height - 1) / 2
    x, y = np.arange(width) - middle_x, np.arange(height)[:, None] - middle_y
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    from_x = (cosine * x - sine * y + middle_x).astype(np.float32)
    from_y = (sine * x + cosine * y + middle_y).astype(np.float32)
    return cv2.convertMaps(from_x, from_y, cv2.CV_16SC2, nninterpolation=nearest)


def use_one_thread() -> None:
    """Let OpenCV draw in the calling thread alone, for a process that is one of as many as there are processors."""
    cv2.setNumThreads(1)
