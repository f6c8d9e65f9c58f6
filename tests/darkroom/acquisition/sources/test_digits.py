import io

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from darkroom.acquisition.candidate import Candidate
from darkroom.acquisition.sources.digits import list_digits
from darkroom.pipeline.stage import StageError

LIMIT = 1_000_000


def listed(classes: dict[str, str]) -> list[Candidate]:
    return [candidate for candidates in list_digits(classes).candidates.values() for candidate in candidates]


def pixels(candidate: Candidate) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(candidate.read(LIMIT))))


def test_all_digits_are_listed_with_their_own_names() -> None:
    candidates = list_digits({}).candidates
    # The counts that scikit-learn's description of the data set gives.
    counts = dict(zip("0123456789", [178, 182, 177, 183, 181, 182, 181, 179, 174, 180], strict=True))
    assert {label: len(list(found)) for label, found in candidates.items()} == counts
    assert all(candidate.label == label for label, found in candidates.items() for candidate in found)
    assert len({candidate.photo for candidate in listed({})}) == 1797


def test_classes_give_digits_other_labels() -> None:
    candidates = listed({"zero": "0", "one": "1"})
    assert [candidate.label for candidate in candidates] == ["zero"] * 178 + ["one"] * 182
    assert candidates[0].photo == "zero-0000"


def test_the_order_and_the_bytes_are_the_same_every_time() -> None:
    first, again = ([(one.photo, one.label, one.read(LIMIT)) for one in listed({"a": "7"})] for _ in range(2))
    assert first == again


def test_a_digit_has_the_expected_pixels() -> None:
    image = pixels(listed({"zero": "0"})[0])
    assert (image.shape, image.dtype) == ((8, 8), np.uint8)
    # scikit-learn's first digit, an open ring: a bright stroke around a dark middle.
    assert image[0].tolist() == [0, 0, 80, 207, 143, 16, 0, 0]
    assert image[3:5, 3:5].max() < 40


def test_values_from_0_to_16_become_shades_from_0_to_255() -> None:
    sevens = load_digits().images[load_digits().target == 7]
    assert (sevens.min(), sevens.max()) == (0, 16)
    for candidate, blocks in zip(listed({"seven": "7"}), sevens, strict=True):
        assert pixels(candidate).tolist() == [[round(value * 255 / 16) for value in row] for row in blocks]


def test_every_photo_names_its_creator() -> None:
    candidate = listed({})[0]
    assert candidate.source == "digits"
    assert "Alpaydin" in candidate.creator
    assert candidate.page_url.startswith("https://archive.ics.uci.edu/")
    assert candidate.license == "CC BY 4.0"


@pytest.mark.parametrize("digit", ["10", "-1", "", "zero", "٣"])
def test_a_class_that_is_not_a_digit_is_refused(digit: str) -> None:
    with pytest.raises(StageError) as caught:
        list_digits({"one": "1", "other": digit})
    assert str(caught.value) == (f"acquire.classes: the source digits has 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, got {digit}")
