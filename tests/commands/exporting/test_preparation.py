import io
import math
from collections.abc import Sequence

import numpy as np
import pytest
from PIL import ExifTags, Image

from darkroom.photos.images import prepare_image
from darkroom.photos.options import Color, Resampling, Resize
from darkroom.pipeline.arrays import Pixels
from tests.examples import encode, noise


def follow_steps(content: bytes, image_size: Sequence[int], resize: str, resampling: str, color: str) -> Pixels:
    """An independent implementation of `PREPARATION_STEPS`, for 8-bit photos without transparency."""
    image = Image.open(io.BytesIO(content))
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    width, height = image.size
    least = math.ceil(1.4 * max(image_size))
    shrunk = 1
    if image.format == "JPEG" and resampling != "nearest":
        shrunk = max(n for n in (1, 2, 4, 8) if n == 1 or min(width // n, height // n) >= least)
        image.draft(None, (width // shrunk, height // shrunk))
        assert image.size == (math.ceil(width / shrunk), math.ceil(height / shrunk))
    image = image.convert("L" if color == "gray" else "RGB")
    width, height = width / shrunk, height / shrunk
    tall, wide = image_size if orientation == 1 else image_size[::-1]
    box = (0, 0, width, height)
    size = (wide, tall)
    if resize == "crop":
        part = min(width / wide, height / tall)
        left, top = (width - part * wide) / 2, (height - part * tall) / 2
        box = (left, top, left + part * wide, top + part * tall)
    if resize == "pad":
        scale = min(wide / width, tall / height)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
    image = image.resize(size, Image.Resampling[resampling.upper()], box)
    image = image.transpose(Image.Transpose.ROTATE_270) if orientation == 6 else image
    tall, wide = image_size
    canvas = Image.new(image.mode, (wide, tall))
    canvas.paste(image, ((wide - image.width) // 2, (tall - image.height) // 2))
    return np.asarray(canvas).reshape(tall, wide, -1)


@pytest.mark.parametrize("resampling", ["bilinear", "nearest"])
@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
@pytest.mark.parametrize(("name", "color", "orientation"), [("JPEG", "rgb", 6), ("JPEG", "gray", 1), ("PNG", "rgb", 6)])
@pytest.mark.parametrize(("height", "width"), [(299, 301), (90, 477)])
def test_following_the_steps_gives_the_same_pixels(
    height: int, width: int, name: str, color: Color, orientation: int, resize: Resize, resampling: Resampling
) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    smooth = Image.fromarray(noise(9, 12)).resize((width, height), Image.Resampling.BICUBIC)
    content = encode(smooth, name, exif=exif)
    expected = prepare_image(content, (24, 30), resize, resampling, color)
    followed = follow_steps(content, (24, 30), resize, resampling, color)
    np.testing.assert_array_equal(followed, expected)
