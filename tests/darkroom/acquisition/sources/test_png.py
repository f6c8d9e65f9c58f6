import io

import numpy as np
import pytest
from PIL import Image

from darkroom.acquisition.sources.png import encode_png, read_png
from tests.examples import noise


@pytest.mark.parametrize(("height", "width"), [(5, 4), (2, 3), (1, 1)])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_png_has_the_exact_pixels(height: int, width: int, mode: str) -> None:
    pixels = noise(height, width) if mode == "RGB" else noise(height, width, 1)[..., 0]
    image = Image.open(io.BytesIO(encode_png(pixels)))
    assert (image.format, image.mode, image.size) == ("PNG", mode, (width, height))
    assert np.array_equal(np.asarray(image), pixels)


def test_pixels_need_not_be_contiguous() -> None:
    planes = noise(3, 6, channels=4)
    pixels = planes.transpose(1, 2, 0)
    assert not pixels.flags.c_contiguous
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(encode_png(pixels)))), pixels)


def test_a_photo_is_read_whatever_the_limit() -> None:
    pixels = noise(4, 3)
    assert read_png(pixels, 1_000_000) == read_png(pixels, 1) == encode_png(pixels)
