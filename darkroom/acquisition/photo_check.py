"""Whether a file's bytes are a photo that can be used: decoded completely, once, and within the limits."""

import hashlib
import threading
from pathlib import Path
from typing import NamedTuple

import PIL

from darkroom.acquisition.ledger import Decoding, Ledger
from darkroom.photos import images
from darkroom.photos.images import FORMAT_EXTENSIONS, ImageError, TooManyPixels, decode_image, upright_rgb
from darkroom.pipeline.processors import count_processors


class PhotoLimits(NamedTuple):
    """`minimum_side` is that of the shorter side in pixels."""

    minimum_side: int
    maximum_pixels: int
    maximum_bytes: int


class CheckedPhoto(NamedTuple):
    """The digest of a photo's bytes, its upright size in pixels, and the ending of its true format."""

    sha256: str
    width: int
    height: int
    ending: str


class PhotoCheck:
    """Checks photos, and remembers in the ledger what decoding them gave."""

    def __init__(self, ledger: Ledger, limits: PhotoLimits) -> None:
        self.ledger = ledger
        self.limits = limits
        # A decoded photo may take a GB; more at once than there are processors would be no faster.
        self.decoding = threading.BoundedSemaphore(count_processors())
        # What another Pillow, or other code of ours, made of a photo is not what this one would.
        code = hashlib.sha256(Path(images.__file__).read_bytes()).hexdigest()
        self.decoder = f"pillow {PIL.__version__}, {code}"

    def check(self, content: bytes) -> CheckedPhoto:
        """Decode a photo, unless that was done before, and hold it against the limits.

        Raises:
            ImageError: see `decode`; or it is outside the limits.
        """
        sha256, decoding = self.decode(content)
        if decoding.width * decoding.height > self.limits.maximum_pixels:
            raise TooManyPixels(self.limits.maximum_pixels)
        if min(decoding.width, decoding.height) < self.limits.minimum_side:
            raise ImageError(f"smaller than {self.limits.minimum_side} pixels: {decoding.width} x {decoding.height}")
        return CheckedPhoto(sha256, decoding.width, decoding.height, decoding.ending)

    def decode(self, content: bytes) -> tuple[str, Decoding]:
        """Give the digest of a photo and what decoding it gave, now or before.

        Raises:
            TooManyPixels: it claims more pixels than allowed, and none was decoded.
            ImageError: it is no picture, or a broken one.
        """
        sha256 = hashlib.sha256(content).hexdigest()
        decoding = self.find_decoding(sha256)
        if decoding is None:
            with self.decoding:
                decoding = decode_anew(content, self.limits.maximum_pixels)
            self.ledger.keep_decoding(sha256, self.decoder, decoding)
        if decoding.reason:
            raise ImageError(decoding.reason)
        return sha256, decoding

    def find_decoding(self, sha256: str) -> Decoding | None:
        """What decoding the photo of this digest gave before, if it was decoded by this Pillow and this code."""
        return self.ledger.find_decoding(sha256, self.decoder)


def decode_anew(content: bytes, maximum_pixels: int) -> Decoding:
    try:
        image = decode_image(content, maximum_pixels)
        upright = upright_rgb(image)
    except TooManyPixels:
        raise  # with another limit the answer may be another, so it is not remembered
    except ImageError as error:
        return Decoding(0, 0, "", str(error))
    return Decoding(upright.width, upright.height, FORMAT_EXTENSIONS[image.format or ""])
