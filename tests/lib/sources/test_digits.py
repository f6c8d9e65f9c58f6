import io

import numpy as np
import pytest
from PIL import Image

from stages.lib.sources.digits import encode_png, list_digits
from stages.lib.stage import StageError


def pixels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)))


def test_all_digits_are_listed_with_their_own_names() -> None:
    candidates = list(list_digits({}))
    assert len(candidates) == 1797
    assert len({candidate.photo for candidate in candidates}) == 1797
    counts = {label: sum(candidate.label == label for candidate in candidates) for label in "0123456789"}
    # The counts that scikit-learn's description of the data set gives.
    assert list(counts.values()) == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_classes_give_digits_other_labels() -> None:
    candidates = list(list_digits({"zero": "0", "one": "1"}))
    assert {candidate.label for candidate in candidates} == {"zero", "one"}
    assert len(candidates) == 178 + 182
    assert candidates[0].photo == "zero-0000"


def test_the_order_and_the_bytes_are_the_same_every_time() -> None:
    first, again = ([(one.photo, one.label, one.read()) for one in list_digits({"a": "7"})] for _ in range(2))
    assert first == again


def test_a_digit_looks_like_itself() -> None:
    first = next(list_digits({"zero": "0"}))
    image = pixels(first.read())
    assert (image.shape, image.dtype) == ((8, 8), np.uint8)
    # scikit-learn's first digit, an open ring: a bright stroke around a dark middle.
    assert image[0].tolist() == [0, 0, 80, 207, 143, 16, 0, 0]
    assert image[3:5, 3:5].max() < 40


def test_values_from_0_to_16_become_shades_from_0_to_255() -> None:
    blocks = np.arange(64, dtype=np.float64).reshape(8, 8) % 17
    shades = pixels(encode_png(blocks))
    assert shades.ravel().tolist() == [round(value * 255 / 16) for value in blocks.ravel()]
    assert (shades.min(), shades.max()) == (0, 255)


def test_every_photo_says_whose_it_is() -> None:
    candidate = next(list_digits({}))
    assert candidate.source == "digits"
    assert "Alpaydin" in candidate.creator
    assert candidate.page_url.startswith("https://archive.ics.uci.edu/")
    assert candidate.licence == "CC BY 4.0"


@pytest.mark.parametrize("digit", ["10", "-1", "", "zero", "٣"])
def test_a_class_that_is_no_digit_is_refused(digit: str) -> None:
    with pytest.raises(StageError) as caught:
        list(list_digits({"one": "1", "other": digit}))
    assert str(caught.value) == (f"acquire.classes: the source digits has 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, got {digit}")
