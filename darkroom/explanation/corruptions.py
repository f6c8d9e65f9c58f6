"""Corruptions of photos, to measure how robust a network is.

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
from darkroom.photos.variants import rotate_image
from darkroom.pipeline.arrays import Pixels, RowNumbers

NO_CORRUPTIONS = "No corruptions: explain.robustness has no levels"


class Corruption(NamedTuple):
    """A way to corrupt a photo, and what its chart needs.

    Fields:
        axis_label: the meaning of a level, with its unit.
        clean_level: the level of the clean photo; the farther a level is from it, the stronger the corruption.
        moves_pixels: whether objects change their position.
        apply: takes uint8 pixels of shape (H, W, C), a level and a generator, and returns new pixels of the same shape.
    """

    name: str
    axis_label: str
    clean_level: int
    moves_pixels: bool
    apply: Callable[[Pixels, int, np.random.Generator], Pixels]

    def order(self, levels: Sequence[int]) -> list[int]:
        """Sort levels from weakest to strongest."""
        return sorted(levels, key=lambda level: abs(level - self.clean_level))


def add_noise(pixels: Pixels, deviation: int, random: np.random.Generator) -> Pixels:
    """Add Gaussian noise of this standard deviation, on the scale of 0 to 255, to each channel; shape (H, W, C).

    Values outside the range are clipped. Generators in the same state give the same noise, scaled by the deviation.
    """
    noisy = pixels + deviation * random.standard_normal(pixels.shape, np.float32)
    clipped: Pixels = np.rint(noisy.clip(0, 255)).astype(np.uint8)
    return clipped


def blur(pixels: Pixels, percent: int) -> Pixels:
    """Apply a Gaussian blur whose standard deviation is this percentage of the shorter side; shape (H, W, C).

    The photo is reflected at its border.
    """
    if percent == 0:
        return pixels.copy()
    deviation = percent / 100 * min(pixels.shape[:2])
    # As floats: OpenCV rounds the weights of uint8 pixels to 256ths.
    blurred = cv2.GaussianBlur(pixels.astype(np.float32), (0, 0), deviation, borderType=cv2.BORDER_REFLECT)
    return np.rint(blurred).astype(np.uint8).reshape(pixels.shape)  # OpenCV drops the only channel of a gray photo


def rotate(pixels: Pixels, degrees: int) -> Pixels:
    """Rotate a photo counterclockwise about its center; shape (H, W, C).

    The corners repeat the border pixels, so that the effect of the rotation is measured and not that of black corners.
    """
    rotated = np.empty_like(pixels)
    rotate_image(pixels, degrees, "bilinear", "edge", rotated)
    return rotated


def compress(pixels: Pixels, quality: int) -> Pixels:
    """Encode a photo of shape (H, W, C) as JPEG with this quality, 1 to 100, and decode it.

    As in most JPEG files, colors are stored at half the size (4:2:0) at every quality.
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
    """Corrupt each image of a batch with its own random generator, so that the result does not depend on the batch.

    Args:
        images: shape (B, H, W, C).
        corruption: one of `CORRUPTIONS`.
        level: the strength, in the unit of the corruption's `axis_label`.
        seed: at least 0; another seed draws other strokes and other noise.
        rows: shape (B,), the row number of each image, at least 0.

    Returns:
        shape (B, H, W, C).
    """
    corrupted = np.empty_like(images)
    for image, row, output in zip(images, rows, corrupted, strict=True):
        output[:] = corruption.apply(image, level, np.random.default_rng([seed, int(row)]))
    return corrupted
