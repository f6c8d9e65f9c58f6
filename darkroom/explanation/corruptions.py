"""What is done to a photo's pixels to see how well a network bears it.

Noise, blur and JPEG are those of D. Hendrycks and T. Dietterich, "Benchmarking neural network robustness to common
corruptions and perturbations", 2019, with levels that do not depend on the size of a photo.

Dims: B images, H height, W width, C channels (3 for RGB, 1 for gray).
"""

import io
from collections.abc import Callable, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from darkroom.explanation.scribbles import scribble
from darkroom.photos.variants import turn_picture
from darkroom.pipeline.arrays import Pixels, RowNumbers

NOTHING = "Nothing is disturbed: explain.robustness has no levels"


class Corruption(NamedTuple):
    """A way to disturb a photo, and what a chart of it needs.

    Fields:
        axis_label: what a level is, with its unit.
        clean_level: the one that stands for a photo as it is; levels are worse the farther they are from it.
        moves_pixels: whether things are elsewhere in a disturbed photo.
        apply: takes uint8 pixels of shape (H, W, C), a level and a generator, and returns new pixels of the same shape.
    """

    name: str
    axis_label: str
    clean_level: int
    moves_pixels: bool
    apply: Callable[[Pixels, int, np.random.Generator], Pixels]

    def order(self, levels: Sequence[int]) -> list[int]:
        """The levels, the worst last."""
        return sorted(levels, key=lambda level: abs(level - self.clean_level))


def add_noise(pixels: Pixels, deviation: int, random: np.random.Generator) -> Pixels:
    """Add Gaussian noise of this standard deviation, in values of 0 to 255, to each channel; shape (H, W, C).

    What leaves the range is clipped. With a generator of the same state, a higher deviation is the same, but stronger.
    """
    noisy = pixels + deviation * random.standard_normal(pixels.shape, np.float32)
    clipped: Pixels = np.rint(noisy.clip(0, 255)).astype(np.uint8)
    return clipped


def blur(pixels: Pixels, percent: int) -> Pixels:
    """Blur by a Gaussian whose standard deviation is this many percent of the shorter side; shape (H, W, C).

    The photo is mirrored at its border.
    """
    if percent == 0:
        return pixels.copy()
    deviation = percent / 100 * min(pixels.shape[:2])
    # As floats: OpenCV rounds the weights of uint8 pixels to 256ths.
    blurred = cv2.GaussianBlur(pixels.astype(np.float32), (0, 0), deviation, borderType=cv2.BORDER_REFLECT)
    return np.rint(blurred).astype(np.uint8).reshape(pixels.shape)  # OpenCV drops the only channel of a gray photo


def rotate(pixels: Pixels, degrees: int) -> Pixels:
    """Turn a photo counter-clockwise about its middle; shape (H, W, C).

    The corners are filled with the pixels of the border: it is the turn that is to be measured, not black corners.
    """
    turned = np.empty_like(pixels)
    turn_picture(pixels, degrees, "bilinear", "edge", turned)
    return turned


def compress(pixels: Pixels, quality: int) -> Pixels:
    """Write a photo of shape (H, W, C) as a JPEG file of this quality, 1 to 100, and read it again.

    As in most such files, colors are stored at half the size (4:2:0) at every quality.
    """
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(file, "JPEG", quality=quality)
    return np.array(Image.open(file)).reshape(pixels.shape)


CORRUPTIONS = {
    corruption.name: corruption
    for corruption in (
        Corruption("scribbles", "covered area, percent", 0, False, scribble),
        Corruption("noise", "standard deviation, of 255", 0, False, add_noise),
        Corruption(
            "blur",
            "standard deviation, percent of the shorter side",
            0,
            False,
            lambda pixels, level, _: blur(pixels, level),
        ),
        Corruption("rotation", "degrees", 0, True, lambda pixels, level, _: rotate(pixels, level)),
        Corruption("jpeg", "JPEG quality", 100, False, lambda pixels, level, _: compress(pixels, level)),
    )
}


def corrupt_images(images: Pixels, corruption: Corruption, level: int, seed: int, rows: RowNumbers) -> Pixels:
    """Disturb each image of a batch with a generator of its own, so that an image does not depend on its batch.

    Args:
        images: shape (B, H, W, C).
        corruption: one of `CORRUPTIONS`.
        level: how strongly, in the unit of the corruption's `axis_label`.
        seed: at least 0; another one draws other strokes and other noise.
        rows: shape (B,), the number of each image, at least 0.

    Returns:
        shape (B, H, W, C).
    """
    disturbed = np.empty_like(images)
    for image, row, place in zip(images, rows, disturbed, strict=True):
        place[:] = corruption.apply(image, level, np.random.default_rng([seed, int(row)]))
    return disturbed
