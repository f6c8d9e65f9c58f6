"""The embedded source: 1,797 handwritten digits, 8x8 gray, that come with scikit-learn. Works offline."""

from collections.abc import Mapping
from functools import partial

import numpy as np

from darkroom.acquisition.candidate import Candidate, Listing
from darkroom.acquisition.sources.dataset_photos import choose_classes
from darkroom.acquisition.sources.png import read_png
from darkroom.acquisition.sources.source import ListedSource

# Values are 0 to 16: each counts the dark pixels in a 4x4 block of the scanned form.
BLOCK_PIXELS = 16
DIGITS = tuple("0123456789")
CREATOR = "E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits (UCI Machine Learning Repository)"
PAGE_URL = "https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits"


def list_digits(classes: Mapping[str, str]) -> Listing:
    """List the digits in the data set's own order, as gray images with values 0 to 255.

    Args:
        classes: label to digit, such as {"zero": "0"}; empty for all ten, each labeled with itself.

    Raises:
        StageError: a class is not a digit.
    """
    class_ids = choose_classes("digits", DIGITS, classes)
    # Importing scikit-learn is slow, and only this source needs it.
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = np.rint(digits.images * (255 / BLOCK_PIXELS)).astype(np.uint8)
    return Listing(
        {
            label: [
                Candidate(
                    photo=f"{label}-{index:04d}",
                    label=label,
                    read=partial(read_png, pixels[index]),
                    source="digits",
                    creator=CREATOR,
                    page_url=PAGE_URL,
                    license="CC BY 4.0",
                )
                for index in np.flatnonzero(digits.target == class_id).tolist()
            ]
            for label, class_id in class_ids.items()
        }
    )


SOURCE = ListedSource(list_photos=lambda params, _ledger, _clock: list_digits(params.classes))
