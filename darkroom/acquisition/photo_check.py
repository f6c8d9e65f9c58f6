"""Check that a file's bytes are a usable photo: decoded completely, once, and within the limits."""

import hashlib
import threading
from pathlib import Path
from typing import NamedTuple

import pi_heif
import PIL

from darkroom.acquisition.ledger import Decoding, Ledger
from darkroom.photos import formats, images
from darkroom.photos.formats import FORMAT_EXTENSIONS
from darkroom.photos.images import ImageError, TooManyPixels, decode_image, upright_rgb
from darkroom.pipeline.processors import count_processors


class PhotoLimits(NamedTuple):
    """`minimum_side` applies to the shorter side, in pixels."""

    minimum_side: int
    maximum_pixels: int
    maximum_bytes: int


class CheckedPhoto(NamedTuple):
    """The digest of a photo's bytes, its upright size in pixels, and the extension of its actual format."""

    sha256: str
    width: int
    height: int
    extension: str


class PhotoCheck:
    """Checks photos, and saves the results of decoding in the ledger."""

    def __init__(self, ledger: Ledger, limits: PhotoLimits) -> None:
        self.ledger = ledger
        self.limits = limits
        # Decoding may take more than a GB of memory; with more photos at once than processors it is not faster.
        self.decoding_slots = threading.BoundedSemaphore(count_processors())
        # Another version of a decoder or of this project may decode a photo differently.
        code = hashlib.sha256(
            b"".join(Path(str(module.__file__)).read_bytes() for module in (formats, images))
        ).hexdigest()
        self.decoder = f"pillow {PIL.__version__}, pi-heif {pi_heif.__version__}, {code}"

    def check(self, content: bytes) -> CheckedPhoto:
        """Decode a photo, unless that was done before, and check it against the limits.

        Raises:
            ImageError: see `decode`; or the photo is outside the limits.
        """
        sha256, decoding = self.decode(content)
        if decoding.width * decoding.height > self.limits.maximum_pixels:
            raise TooManyPixels(self.limits.maximum_pixels)
        if min(decoding.width, decoding.height) < self.limits.minimum_side:
            raise ImageError(f"smaller than {self.limits.minimum_side} pixels: {decoding.width} x {decoding.height}")
        return CheckedPhoto(sha256, decoding.width, decoding.height, decoding.extension)

    def decode(self, content: bytes) -> tuple[str, Decoding]:
        """Return the digest of a photo and the result of decoding it, now or before.

        Raises:
            TooManyPixels: its header claims more pixels than allowed; it was not decoded.
            ImageError: it is not an image, or it is broken.
        """
        sha256 = hashlib.sha256(content).hexdigest()
        decoding = self.find_decoding(sha256)
        if decoding is None:
            with self.decoding_slots:
                decoding = decode_photo(content, self.limits.maximum_pixels)
            self.ledger.save_decoding(sha256, self.decoder, decoding)
        if decoding.reason:
            raise ImageError(decoding.reason)
        return sha256, decoding

    def find_decoding(self, sha256: str) -> Decoding | None:
        """The saved result of decoding the photo with this digest, by this version of Pillow and of our code."""
        return self.ledger.find_decoding(sha256, self.decoder)


def decode_photo(content: bytes, maximum_pixels: int) -> Decoding:
    try:
        image = decode_image(content, maximum_pixels)
        upright = upright_rgb(image)
    except TooManyPixels:
        raise  # the result depends on the limit, so it is not saved
    except ImageError as error:
        return Decoding(0, 0, "", str(error))
    return Decoding(upright.width, upright.height, FORMAT_EXTENSIONS[image.format or ""])
