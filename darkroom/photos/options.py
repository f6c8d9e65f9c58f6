"""The options of preparing photos. Imports nothing heavy, because the schema of params.yaml imports them from here."""

from typing import Literal

Resize = Literal["stretch", "crop", "pad"]
Resampling = Literal["nearest", "bilinear", "bicubic", "lanczos"]
Color = Literal["rgb", "gray"]
CornerFill = Literal["constant", "edge", "reflect"]
# Pillow's own limit against decompression bombs, Image.MAX_IMAGE_PIXELS: a quarter of a GiB as RGB.
PIXEL_LIMIT = 89_478_485
