"""Pictures: from a file's bytes to the pixels that a network reads, and the variants that are stored of them.

Dims: H height, W width, C channels (3 for RGB, 1 for gray), V variants of one photo.
"""

import io
import struct
import warnings
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from stages.lib.arrays import Pixels

Resize = Literal["stretch", "crop", "pad"]
Color = Literal["rgb", "gray"]
Flip = Literal["none", "horizontal", "vertical", "both"]

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
BLACK = 0
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
PIXEL_LIMIT = 89_478_485  # Pillow's own, Image.MAX_IMAGE_PIXELS: a quarter of a GiB as RGB
RESAMPLING = Image.Resampling.BILINEAR


class ImageError(Exception):
    """Bytes that are no picture this project can read; the text is the reason."""


class TooManyPixels(ImageError):
    """A picture that claims more than so many pixels."""

    def __init__(self, maximum_pixels: int) -> None:
        super().__init__(f"claims more than {maximum_pixels} pixels")


class Variant(NamedTuple):
    """A picture flipped first and then turned `rotation_degrees` counter-clockwise about its middle."""

    rotation_degrees: float
    flip: Flip


ORIGINAL = Variant(0.0, "none")


def decode_image(content: bytes, maximum_pixels: int = PIXEL_LIMIT) -> Image.Image:
    """Decode a file's bytes completely; the picture still has the file's own mode and orientation.

    Raises:
        TooManyPixels: the picture claims more pixels than `maximum_pixels`, or than Pillow's own limit against
            decompression bombs; none of them was decoded.
        ImageError: the bytes are empty, are in no known format, or are cut short or broken.
    """
    if not content:
        raise ImageError("the file is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(content), formats=FORMATS)
            if image.width * image.height > maximum_pixels:
                raise TooManyPixels(maximum_pixels)
            image.load()
    except UnidentifiedImageError:
        raise ImageError(f"not a readable {', '.join(FORMATS)} file") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise TooManyPixels(PIXEL_LIMIT) from None
    except (OSError, ValueError, TypeError, SyntaxError, EOFError, IndexError, OverflowError, struct.error) as error:
        # The union of what Pillow's decoders raise on hostile bytes; each of them means "cannot be read".
        raise ImageError(f"broken: {' '.join(str(error).split())}") from None
    return image


def prepare_image(content: bytes, image_size: Sequence[int], resize: Resize, color: Color) -> Pixels:
    """Turn a photo's bytes into a network's input: the one function of training, prediction and serving.

    EXIF orientation is applied, transparency is laid on white, 16-bit gray is brought to 8 bits, of an animation the
    first frame is taken.

    Args:
        content: a picture file's bytes.
        image_size: height and width of the result, in pixels.
        resize: "stretch" ignores the aspect ratio, "crop" cuts the middle out, "pad" adds black bars.
        color: "rgb" or "gray" (ITU-R 601-2 luma).

    Returns:
        uint8 pixels of shape (H, W, C), 0 to 255.

    Raises:
        ImageError: see `decode_image`.
    """
    upright = upright_rgb(decode_image(content))
    image = upright.convert("L") if color == "gray" else upright
    height, width = image_size
    match resize:
        case "stretch":
            image = image.resize((width, height), RESAMPLING)
        case "crop":
            image = ImageOps.fit(image, (width, height), RESAMPLING)
        case "pad":
            image = ImageOps.pad(image, (width, height), RESAMPLING)
    return np.asarray(image).reshape(height, width, CHANNELS[color])


def upright_rgb(image: Image.Image) -> Image.Image:
    """Bring a picture of any of Pillow's modes to RGB, turned as its EXIF orientation says.

    Raises:
        ImageError: the pixels are 32-bit floats, which have no known range.
    """
    if image.mode == "F":
        raise ImageError("pixels are floats of no known range")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            turn = TURNS.get(image.getexif().get(ORIENTATION))
    except (SyntaxError, ValueError, OSError, KeyError, TypeError, struct.error):
        turn = None  # the EXIF block is broken, and a picture without one is shown as it is stored
    # Not ImageOps.exif_transpose: it writes the whole block anew, and fails where any other tag in it is odd.
    upright = image if turn is None else image.transpose(turn)
    if upright.mode.startswith("I"):
        # Pillow's own conversion clips at 255 instead of scaling.
        deep = np.clip(np.asarray(upright).astype(np.int64), 0, 65535)
        shades = ((deep * 255 + 32767) // 65535).astype(np.uint8)
        if "transparency" in upright.info:
            shades[deep == upright.info["transparency"]] = 255
        upright = Image.fromarray(shades)
    if upright.has_transparency_data:
        pasted = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", pasted.size, WHITE), pasted)
    return upright if upright.mode == "RGB" else upright.convert("RGB")


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
            half_turn = 180 if flip in ("vertical", "both") else 0
            mirrored = flip in ("horizontal", "vertical")
            # Rounded: 192.1 + 180 - 360 is not quite 12.1.
            turned = round((degrees + half_turn) % 360, 6) % 360
            variants.setdefault((turned, mirrored), Variant(degrees, flip))
    return list(variants.values())


def draw_variants(pixels: Pixels, variants: Sequence[Variant]) -> Pixels:
    """Draw each variant of a picture; corners that a rotation uncovers are black.

    Args:
        pixels: shape (H, W, C).
        variants: V variants.

    Returns:
        shape (V, H, W, C).
    """
    drawn = np.empty((len(variants), *pixels.shape), np.uint8)
    for number, (degrees, flip) in enumerate(variants):
        flipped = flip_pixels(pixels, flip)
        drawn[number] = rotate_pixels(flipped, degrees) if degrees % 360 else flipped
    return drawn


def flip_pixels(pixels: Pixels, flip: Flip) -> Pixels:
    rows = slice(None, None, -1 if flip in ("vertical", "both") else 1)
    columns = slice(None, None, -1 if flip in ("horizontal", "both") else 1)
    return pixels[rows, columns]


def rotate_pixels(pixels: Pixels, degrees: float) -> Pixels:
    image = Image.fromarray(np.squeeze(pixels, axis=2) if pixels.shape[2] == 1 else np.ascontiguousarray(pixels))
    return np.asarray(image.rotate(degrees, RESAMPLING, fillcolor=BLACK)).reshape(pixels.shape)
