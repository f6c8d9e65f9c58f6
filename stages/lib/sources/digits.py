"""The embedded source: 1,797 handwritten digits, 8x8 gray, that come with scikit-learn. No network is needed."""

import io
from collections.abc import Iterator, Mapping
from functools import partial

import numpy as np
import numpy.typing as npt
from PIL import Image

from stages.lib.sources.candidate import Candidate
from stages.lib.stage import StageError

# Values of the data set run from 0 to 16: each counts the dark pixels of a 4x4 block of the scanned form.
BLOCK_PIXELS = 16
DIGITS = tuple(str(digit) for digit in range(10))
CREATOR = "E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits (UCI Machine Learning Repository)"
PAGE_URL = "https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits"


def list_digits(classes: Mapping[str, str]) -> Iterator[Candidate]:
    """List the digits in the data set's own order.

    Args:
        classes: label to digit, such as {"zero": "0"}; empty for all ten, each labelled with itself.

    Raises:
        StageError: a class names something that is no digit.
    """
    unknown = sorted(set(classes.values()) - set(DIGITS))
    if unknown:
        raise StageError(f"acquire.classes: the source digits has {', '.join(DIGITS)}, got {', '.join(unknown)}")
    # Importing scikit-learn takes longer than a start of the stage should; only this source needs it.
    from sklearn.datasets import load_digits

    digits = load_digits()
    wanted = classes or {digit: digit for digit in DIGITS}
    for label, digit in wanted.items():
        for number in np.flatnonzero(digits.target == int(digit)):
            yield Candidate(
                photo=f"{label}-{number:04d}",
                label=label,
                read=partial(encode_png, digits.images[number]),
                source="digits",
                creator=CREATOR,
                page_url=PAGE_URL,
                licence="CC BY 4.0",
            )


def encode_png(blocks: npt.NDArray[np.float64]) -> bytes:
    """Write an 8x8 digit with values 0..16 as a gray PNG with values 0..255."""
    file = io.BytesIO()
    Image.fromarray(np.rint(blocks * (255 / BLOCK_PIXELS)).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()
