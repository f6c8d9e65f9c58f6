"""Small real things that several tests use: a picture file's bytes, pixels without any symmetry, a row of a table."""

import io

import numpy as np
from PIL import Image

from stages.lib.arrays import Pixels
from stages.lib.dataset import PhotoRow


def encode(picture: Image.Image | Pixels, file_format: str = "PNG", **options: object) -> bytes:
    """The bytes of a picture file; pixels of shape (height, width, 1) become a gray one."""
    if isinstance(picture, np.ndarray):
        picture = Image.fromarray(picture[..., 0] if picture.ndim == 3 and picture.shape[2] == 1 else picture)
    file = io.BytesIO()
    picture.save(file, file_format, **options)
    return file.getvalue()


def noise(height: int, width: int, channels: int = 3, seed: int = 0) -> Pixels:
    """Random pixels: no flip and no turn of them looks like another."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


def photo_row(photo: str = "cat-1", label: str = "cat", **values: object) -> PhotoRow:
    """A photo of 4 by 3 pixels whose content no other photo has, unless `values` say something else."""
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
        "licence": "",
        "given_subset": "",
    }
    return PhotoRow(**(defaults | values))
