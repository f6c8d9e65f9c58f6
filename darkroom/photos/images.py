"""Pictures: from a file's bytes to the pixels that a network reads.

Dims: H height, W width, C channels (3 for RGB, 1 for gray).
"""

import io
import math
import struct
import warnings
from collections.abc import Sequence

import numpy as np
from PIL import Image, UnidentifiedImageError

from darkroom.photos.options import PIXEL_LIMIT, Color, Resampling, Resize
from darkroom.pipeline.arrays import Pixels

Size = tuple[int, int]  # as Pillow has it: width, height
Box = tuple[float, float, float, float]  # left, top, right, bottom

# Pillow's names of the formats that are read, and the ending that a file of each is given. MPO is what Pillow calls a
# JPEG file with further pictures behind the first; it has no decoder of that name.
FORMAT_ENDINGS = {
    "JPEG": "jpg",
    "MPO": "jpg",
    "PNG": "png",
    "WEBP": "webp",
    "GIF": "gif",
    "BMP": "bmp",
    "TIFF": "tif",
}
FORMATS = [name for name in FORMAT_ENDINGS if name != "MPO"]
CHANNELS: dict[Color, int] = {"rgb": 3, "gray": 1}
WHITE = (255, 255, 255, 255)
ORIENTATION = 0x0112
# What brings a picture upright, by the value of its EXIF orientation.
TURNS: dict[object, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = {TURNS[orientation] for orientation in (5, 6, 7, 8)}
# What Pillow has to say of odd files is of no use here. Once for all: photos are decoded in threads, and these would
# undo each other's filters.
warnings.filterwarnings("ignore", module=r"PIL\.")
# Pillow averages over all pixels that go into one when it shrinks, with each of them but "nearest".
FILTERS: dict[Resampling, Image.Resampling] = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
# How many times the sides asked for a JPEG file must still have when it is decoded at 1/2, 1/4 or 1/8 of its size. Over
# 2,750 photos of 299 x 299 decoded to 150 x 150, pixels differ from those of full decoding by 0.7 of 255 in the mean
# (44 dB) when they become 100 x 100, in two thirds of the time; when they become 149 x 149, by 1.4 (37 dB), and blur.
DECODED_TIMES = 1.4


class ImageError(Exception):
    """Bytes that are no picture this project can read; the text is the reason."""


class TooManyPixels(ImageError):
    """A picture that claims more than so many pixels."""

    def __init__(self, maximum_pixels: int) -> None:
        super().__init__(f"claims more than {maximum_pixels} pixels")


def decode_image(content: bytes, maximum_pixels: int = PIXEL_LIMIT) -> Image.Image:
    """Decode a file's bytes completely; the picture still has the file's own mode and orientation.

    Raises:
        TooManyPixels: the picture claims more pixels than `maximum_pixels`, or than Pillow's own limit against
            decompression bombs; none of them was decoded.
        ImageError: the bytes are empty, are in no known format, or are cut short or broken.
    """
    return decode_at_scale(content, maximum_pixels, least_side=None)[0]


def decode_at_scale(content: bytes, maximum_pixels: int, least_side: int | None) -> tuple[Image.Image, Box]:
    """Decode a file's bytes; a JPEG file at the smallest scale that leaves both sides `least_side` pixels, if given.

    The whole file is read at every scale, so one that is cut short is found out at each.

    Returns:
        the picture, and where it lies in the pixels. Half of 299 pixels are 149.5: the last of the 150 is half beyond.

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
        drafted = image.draft(None, (least_side, least_side)) if least_side else None
        image.load()
    except UnidentifiedImageError:
        raise ImageError(f"not a readable {', '.join(FORMATS)} file") from None
    except Image.DecompressionBombError:
        raise TooManyPixels(PIXEL_LIMIT) from None
    except (OSError, ValueError, TypeError, SyntaxError, EOFError, IndexError, OverflowError, struct.error) as error:
        # The union of what Pillow's decoders raise on hostile bytes; each of them means "cannot be read".
        raise ImageError(f"broken: {' '.join(str(error).split())}") from None
    return image, drafted[1] if drafted else (0, 0, image.width, image.height)


def prepare_image(
    content: bytes, image_size: Sequence[int], resize: Resize, resampling: Resampling, color: Color
) -> Pixels:
    """Turn a photo's bytes into a network's input: the one function of training, prediction and serving.

    EXIF orientation is applied, transparency is laid on white, 16-bit gray is brought to 8 bits, of an animation the
    first frame is taken. `preparation.py` tells each step in words.

    Args:
        content: a picture file's bytes.
        image_size: height and width of the result, in pixels.
        resize: "stretch" ignores the aspect ratio, "crop" cuts the middle out, "pad" adds black bars.
        resampling: how the pixels are weighed that go into one.
        color: "rgb" or "gray" (ITU-R 601-2 luma).

    Returns:
        uint8 pixels of shape (H, W, C), 0 to 255.

    Raises:
        ImageError: see `decode_image`.
    """
    # "nearest" takes single pixels of the photo as they are, and decoding at a smaller scale averages them.
    least_side = None if resampling == "nearest" else math.ceil(DECODED_TIMES * max(image_size))
    image, box = decode_at_scale(content, PIXEL_LIMIT, least_side)
    turn = find_turn(image)
    image = convert_to_rgb(image)
    if color == "gray":
        image = image.convert("L")
    height, width = image_size
    # Turned upright when it is small, which is sooner done.
    size, box = place_picture(box, (height, width) if turn in SIDEWAYS else (width, height), resize)
    image = image.resize(size, FILTERS[resampling], box)
    if turn is not None:
        image = image.transpose(turn)
    if image.size != (width, height):
        padded = Image.new(image.mode, (width, height))
        padded.paste(image, ((width - image.width) // 2, (height - image.height) // 2))
        image = padded
    return np.asarray(image).reshape(height, width, CHANNELS[color])


def place_picture(box: Box, size: Size, resize: Resize) -> tuple[Size, Box]:
    """Say which part of a picture, that lies in `box`, is shown in `size`, and of which size that part then is."""
    width, height = size
    _, _, right, bottom = box
    match resize:
        case "stretch":
            return size, box
        case "crop":
            kept_width, kept_height = min(right, bottom * width / height), min(bottom, right * height / width)
            left, top = (right - kept_width) / 2, (bottom - kept_height) / 2
            return size, (left, top, left + kept_width, top + kept_height)
        case "pad":
            scale = min(width / right, height / bottom)
            return (max(1, round(right * scale)), max(1, round(bottom * scale))), box


def upright_rgb(image: Image.Image) -> Image.Image:
    """Bring a picture of any of Pillow's modes to RGB, turned as its EXIF orientation says.

    Raises:
        ImageError: the pixels are 32-bit floats, which have no known range.
    """
    turn = find_turn(image)
    rgb = convert_to_rgb(image)
    return rgb if turn is None else rgb.transpose(turn)


def find_turn(image: Image.Image) -> Image.Transpose | None:
    # Not ImageOps.exif_transpose: it writes the whole block anew, and fails where any other tag in it is odd.
    try:
        return TURNS.get(image.getexif().get(ORIENTATION))
    except (SyntaxError, ValueError, OSError, KeyError, TypeError, struct.error):
        return None  # the EXIF block is broken, and a picture without one is shown as it is stored


def convert_to_rgb(image: Image.Image) -> Image.Image:
    """Bring a picture of any of Pillow's modes to RGB.

    Raises:
        ImageError: the pixels are 32-bit floats, which have no known range.
    """
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    if image.mode == "F":
        raise ImageError("pixels are floats of no known range")
    if image.mode.startswith("I"):
        # Pillow's own conversion clips at 255 instead of scaling.
        deep = np.clip(np.asarray(image).astype(np.int64), 0, 65535)
        shades = ((deep * 255 + 32767) // 65535).astype(np.uint8)
        if "transparency" in image.info:
            shades[deep == image.info["transparency"]] = 255
        image = Image.fromarray(shades)
    if image.has_transparency_data:
        pasted = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", pasted.size, WHITE), pasted)
    return image if image.mode == "RGB" else image.convert("RGB")
