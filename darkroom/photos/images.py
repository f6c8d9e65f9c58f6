"""Decoding and preparing photos: from a file's bytes to the pixels of a network's input.

Dims: H height, W width, C channels (3 for RGB, 1 for gray).
"""

import io
import math
import struct
import warnings
from collections.abc import Sequence

import numpy as np
from PIL import Image, UnidentifiedImageError

from darkroom.photos.formats import FORMATS, describe_other_format, is_scalable_jpeg, rejection_reason
from darkroom.photos.options import PIXEL_LIMIT, Color, Resampling, Resize
from darkroom.pipeline.arrays import Pixels

Size = tuple[int, int]  # as in Pillow: width, height
Box = tuple[float, float, float, float]  # left, top, right, bottom

CHANNELS: dict[Color, int] = {"rgb": 3, "gray": 1}
WHITE = (255, 255, 255, 255)
ORIENTATION = 0x0112
# The transposition that brings an image upright, by the value of its EXIF orientation.
TRANSPOSES: dict[object, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SWAPS_SIDES = {TRANSPOSES[orientation] for orientation in (5, 6, 7, 8)}
# Pillow's warnings about unusual files do not help here. They are filtered globally: photos are decoded in threads,
# which would reset each other's filters.
warnings.filterwarnings("ignore", module=r"PIL\.")
# When it shrinks an image, Pillow averages over all pixels that go into one, with every filter except "nearest".
FILTERS: dict[Resampling, Image.Resampling] = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
# A JPEG file may be decoded at 1/2, 1/4 or 1/8 of its size if its sides are still at least this many times the target
# size. Over 2,750 photos of 299 x 299 decoded at 150 x 150 and resized to 100 x 100, pixels differ from those of full
# decoding by 0.7 of 255 on average (44 dB), in two thirds of the time; resized to 149 x 149, by 1.4 (37 dB), and blur.
DECODED_TIMES = 1.4
STRIP_PIXELS = 1_000_000
# Everything that decoders raise on hostile bytes; each means "cannot be read". RuntimeError comes from libheif.
DECODING_ERRORS = (
    OSError,
    ValueError,
    TypeError,
    SyntaxError,
    EOFError,
    IndexError,
    OverflowError,
    RuntimeError,
    struct.error,
)


class ImageError(Exception):
    """Bytes that are not an image this project can read; the message is the reason."""


class TooManyPixels(ImageError):
    """An image whose header claims more pixels than allowed."""

    def __init__(self, maximum_pixels: int) -> None:
        super().__init__(f"claims more than {maximum_pixels} pixels")


def decode_image(content: bytes, maximum_pixels: int = PIXEL_LIMIT) -> Image.Image:
    """Decode a file's bytes completely; the image keeps the file's mode and orientation.

    Raises:
        TooManyPixels: the image claims more pixels than `maximum_pixels`, or than Pillow's own limit against
            decompression bombs; none of them was decoded.
        ImageError: the bytes are empty, in an unknown format, truncated or corrupt.
    """
    return decode_at_scale(content, maximum_pixels, least_side=None)[0]


def decode_at_scale(content: bytes, maximum_pixels: int, least_side: int | None) -> tuple[Image.Image, Box]:
    """Decode a file's bytes; a JPEG file at the smallest scale that keeps both sides at `least_side` pixels, if given.

    The whole file is read at every scale, so a truncated file is always detected.

    Returns:
        the image, and the box of its pixels that it covers. Half of 299 pixels is 149.5: the last of 150 is half empty.

    Raises:
        TooManyPixels, ImageError: see `decode_image`.
    """
    if not content:
        raise ImageError("the file is empty")
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
        for limit in (PIXEL_LIMIT, maximum_pixels):
            if image.width * image.height > limit:
                raise TooManyPixels(limit)
        if reason := rejection_reason(content, image):
            raise ImageError(reason)
        drafted = image.draft(None, (least_side, least_side)) if least_side and is_scalable_jpeg(content) else None
        image.load()
    except UnidentifiedImageError:
        raise ImageError(describe_other_format(content)) from None
    except Image.DecompressionBombError:
        raise TooManyPixels(PIXEL_LIMIT) from None
    except DECODING_ERRORS as error:
        raise ImageError(f"broken: {' '.join(str(error).split())}") from None
    return image, drafted[1] if drafted else (0, 0, image.width, image.height)


def prepare_image(
    content: bytes, image_size: Sequence[int], resize: Resize, resampling: Resampling, color: Color
) -> Pixels:
    """Convert a photo's bytes to a network's input: the same function for training, prediction and serving.

    Applies the EXIF orientation, composites transparency on white, scales 16-bit gray to 8 bits, and takes the first
    frame of an animation. `preparation.py` describes each step in words.

    Args:
        content: the photo file's bytes.
        image_size: height and width of the result, in pixels.
        resize: "stretch" ignores the aspect ratio, "crop" cuts out the center, "pad" adds black bars.
        resampling: the resampling filter.
        color: "rgb" or "gray" (ITU-R 601-2 luma).

    Returns:
        uint8 pixels of shape (H, W, C), 0 to 255.

    Raises:
        ImageError: see `decode_image`.
    """
    (pixels,) = prepare_sizes(content, [image_size], resize, resampling, color)
    return pixels


def prepare_sizes(
    content: bytes, image_sizes: Sequence[Sequence[int]], resize: Resize, resampling: Resampling, color: Color
) -> list[Pixels]:
    """Convert a photo's bytes to several sizes: the same pixels as `prepare_image` of each, but decoded once.

    Only a JPEG file is decoded for each size, because each may be decoded at a scale of its own.
    """
    prepared: list[Pixels] = []
    decoded = None
    for image_size in image_sizes:
        if decoded is None or is_scalable_jpeg(content):
            # "nearest" takes single pixels of the photo unchanged, but decoding at a smaller scale averages them.
            least_side = None if resampling == "nearest" else math.ceil(DECODED_TIMES * max(image_size))
            image, box = decode_at_scale(content, PIXEL_LIMIT, least_side)
            transpose = find_transpose(image)
            image = convert_to_rgb(image)
            decoded = (image.convert("L") if color == "gray" else image), box, transpose
        prepared.append(fit_image(*decoded, image_size, resize, resampling))
    return prepared


def fit_image(
    image: Image.Image,
    box: Box,
    transpose: Image.Transpose | None,
    image_size: Sequence[int],
    resize: Resize,
    resampling: Resampling,
) -> Pixels:
    """Resize the box of an RGB or gray image to a height and width, and bring it upright."""
    height, width = image_size
    # Transposed after resizing: there are fewer pixels to move.
    size, box = fit_box(box, (height, width) if transpose in SWAPS_SIDES else (width, height), resize)
    image = image.resize(size, FILTERS[resampling], box)
    if transpose is not None:
        image = image.transpose(transpose)
    if image.size != (width, height):
        padded = Image.new(image.mode, (width, height))
        padded.paste(image, ((width - image.width) // 2, (height - image.height) // 2))
        image = padded
    return np.asarray(image).reshape(height, width, len(image.getbands()))


def fit_box(box: Box, size: Size, resize: Resize) -> tuple[Size, Box]:
    """Return the size to resize to, at most `size`, and the part of `box` to resize."""
    width, height = size
    _, _, right, bottom = box
    match resize:
        case "stretch":
            return size, box
        case "crop":
            crop_width, crop_height = min(right, bottom * width / height), min(bottom, right * height / width)
            left, top = (right - crop_width) / 2, (bottom - crop_height) / 2
            return size, (left, top, left + crop_width, top + crop_height)
        case "pad":
            scale = min(width / right, height / bottom)
            return (max(1, round(right * scale)), max(1, round(bottom * scale))), box


def upright_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any of Pillow's modes to RGB, and apply its EXIF orientation.

    Raises:
        ImageError: the pixels are 32-bit floats, whose range is unknown.
    """
    transpose = find_transpose(image)
    rgb = convert_to_rgb(image)
    return rgb if transpose is None else rgb.transpose(transpose)


def find_transpose(image: Image.Image) -> Image.Transpose | None:
    # Not ImageOps.exif_transpose: it rewrites the whole EXIF block, and fails if any other tag in it is invalid.
    try:
        return TRANSPOSES.get(image.getexif().get(ORIENTATION))
    except (SyntaxError, ValueError, OSError, KeyError, TypeError, struct.error):
        return None  # the EXIF block is corrupt; without one an image is shown as it is stored


def convert_to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any of Pillow's modes to RGB.

    Raises:
        ImageError: the pixels are 32-bit floats, whose range is unknown.
    """
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    if image.mode == "F":
        raise ImageError("pixels are floats of unknown range")
    # In strips: conversions need several copies of the pixels, which of a large image would take a GB.
    rows = max(1, STRIP_PIXELS // image.width)
    if rows >= image.height:
        return convert_strip(image)
    rgb = Image.new("RGB", image.size)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(image.height, top + rows)))
        rgb.paste(convert_strip(strip), (0, top))
    return rgb


def convert_strip(image: Image.Image) -> Image.Image:
    """Convert a small image of any of Pillow's modes except floats to RGB."""
    if image.mode.startswith("I"):
        # Pillow's own conversion clips at 255 instead of scaling.
        deep = np.clip(np.asarray(image).astype(np.int64), 0, 65535)
        shades = ((deep * 255 + 32767) // 65535).astype(np.uint8)
        if "transparency" in image.info:
            shades[deep == image.info["transparency"]] = 255
        image = Image.fromarray(shades)
    if image.has_transparency_data:
        transparent = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", transparent.size, WHITE), transparent)
    return image if image.mode == "RGB" else image.convert("RGB")
