"""Small examples for several tests: the bytes of a file, pixels without symmetry, groups, a table row, params of a
training."""

import io
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pillow_heif
from PIL import Image

from darkroom.params.train import TrainParams
from darkroom.pipeline.arrays import Pixels
from darkroom.pipeline.dataset import PhotoRow
from tests.project import read_recipe

DIGITS = read_recipe("digits")["train"]


def encode(image: Image.Image | Pixels, file_format: str = "PNG", **options: object) -> bytes:
    """The bytes of an image file; pixels of shape (height, width, 1) become a gray image."""
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image)
    file = io.BytesIO()
    if file_format == "HEIF":  # the project's own package only decodes it
        pillow_heif.from_pillow(image).save(file, **options)
    else:
        image.save(file, file_format, **options)
    return file.getvalue()


def lossless_jpeg(width: int, height: int) -> bytes:
    """A gray JPEG file with a lossless frame, of pixels that all have the value 128.

    Each pixel is stored as its difference from the one before, the first from 128; the only code, a zero bit, stands
    for no difference.
    """

    def segment(marker: int, *content: int) -> bytes:
        return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + bytes(content)

    frame = segment(0xC3, 8, *divmod(height, 256), *divmod(width, 256), 1, 1, 0x11, 0)
    codes = segment(0xC4, 0, 1, *bytes(15), 0)
    scan = segment(0xDA, 1, 1, 0, 1, 0, 0)
    return b"\xff\xd8" + frame + codes + scan + bytes(-(-width * height // 8)) + b"\xff\xd9"


def bmp_that_claims(width: int, height: int) -> bytes:
    """An image file of one pixel whose header claims another size."""
    content = bytearray(encode(Image.new("RGB", (1, 1)), "BMP"))
    struct.pack_into("<ii", content, 18, width, height)
    return bytes(content)


def noise(height: int, width: int, channels: int = 3, seed: int = 0) -> Pixels:
    """Random pixels, which have no symmetry: every flip and rotation of them is different."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


def npy(array: npt.NDArray[Any]) -> bytes:
    """The bytes of a .npy file."""
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def name_groups(sizes: npt.ArrayLike) -> list[str]:
    """The group names of photos, for groups of these sizes."""
    return [f"g{group}" for group in np.repeat(np.arange(np.size(sizes)), sizes)]


def photo_row(photo: str = "cat-1", label: str = "cat", **values: object) -> PhotoRow:
    """A photo of 4 by 3 pixels with a unique content; `values` override single fields."""
    defaults = {
        "photo": photo,
        "label": label,
        "file": f"photos/{label}/{photo}.png",
        "width": 4,
        "height": 3,
        "sha256": f"sha256 of {photo}",
        "source": "folder",
        "creator": "",
        "creator_url": "",
        "page_url": "",
        "license": "",
        "given_subset": "",
    }
    return PhotoRow(**(defaults | values))


def train_params(**changes: Any) -> TrainParams:
    """The section train of the recipe digits with changes; changes to a block are a mapping."""
    return TrainParams.model_validate(change(DIGITS, changes))


def change(section: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Replace values; in a block, only the named ones."""
    unknown = set(changes) - set(section)
    assert not unknown, f"no such params: {unknown}"
    return dict(section) | {
        key: change(section[key], value) if isinstance(section[key], Mapping) else value
        for key, value in changes.items()
    }
