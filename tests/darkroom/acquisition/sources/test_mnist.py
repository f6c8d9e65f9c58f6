import gzip
import io
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from darkroom.acquisition.candidate import Candidate, Listing
from darkroom.acquisition.sources.mnist import FILES, list_mnist
from darkroom.pipeline.arrays import Pixels
from darkroom.pipeline.files import write_bytes
from darkroom.pipeline.stage import StageError
from tests.examples import noise
from tests.project import MATERIAL

MNIST_FILES = MATERIAL / "mnist"
LIMIT = 1_000_000
DIGITS = "0123456789"
TRAIN_LABELS = [5, 0, 4, 1, 9, 0, 2, 3, 6, 7, 8]
TEST_LABELS = [7, 0, 1]
TRAIN_IMAGES = "train-images-idx3-ubyte.gz"
LABEL_FILE = "train-labels-idx1-ubyte.gz"


def idx(values: Pixels) -> bytes:
    return struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape) + values.tobytes()


def images(count: int, height: int = 4, width: int = 3, seed: int = 0) -> Pixels:
    return noise(count * height, width, 1, seed).reshape(count, height, width)


def numbers(*labels: int) -> Pixels:
    return np.array(labels, np.uint8)


TRAIN, TEST = images(len(TRAIN_LABELS)), images(len(TEST_LABELS), seed=1)
CONTENTS = dict(zip(FILES, map(idx, (TRAIN, numbers(*TRAIN_LABELS), TEST, numbers(*TEST_LABELS))), strict=True))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in CONTENTS.items():
        write_bytes(tmp_path / name, gzip.compress(content))
    return tmp_path


def listed(listing: Listing) -> list[Candidate]:
    return [candidate for candidates in listing.candidates.values() for candidate in candidates]


def pixels(candidate: Candidate) -> Pixels:
    image = Image.open(io.BytesIO(candidate.read(LIMIT)))
    assert (image.format, image.mode) == ("PNG", "L")
    return np.asarray(image)


def error(folder: Path, classes: dict[str, str] | None = None) -> str:
    with pytest.raises(StageError) as caught:
        list_mnist(folder, classes or {}, None, None)
    return str(caught.value).replace(str(folder), "x")


def test_every_digit_has_its_images_with_the_training_set_first(folder: Path) -> None:
    candidates = list_mnist(folder, {}, None, None).candidates
    assert {label: [candidate.photo for candidate in found] for label, found in candidates.items()} == {
        "0": ["0-train-00001", "0-train-00005", "0-test-00001"],
        "1": ["1-train-00003", "1-test-00002"],
        "2": ["2-train-00006"],
        "3": ["3-train-00007"],
        "4": ["4-train-00002"],
        "5": ["5-train-00000"],
        "6": ["6-train-00008"],
        "7": ["7-train-00009", "7-test-00000"],
        "8": ["8-train-00010"],
        "9": ["9-train-00004"],
    }
    assert list(candidates) == list(DIGITS)


def test_a_photo_has_its_label_its_subset_and_its_source(folder: Path) -> None:
    candidates = listed(list_mnist(folder, {}, None, None))
    assert {candidate.source for candidate in candidates} == {"mnist"}
    for candidate in candidates:
        label, subset, _ = candidate.photo.split("-")
        assert (candidate.label, candidate.given_subset) == (label, subset)


def test_every_photo_has_the_exact_pixels(folder: Path) -> None:
    originals = {"train": TRAIN, "test": TEST}
    candidates = listed(list_mnist(folder, {}, None, None))
    assert len(candidates) == len(TRAIN) + len(TEST)
    for candidate in candidates:
        index = int(candidate.photo.rpartition("-")[2])
        assert np.array_equal(pixels(candidate), originals[candidate.given_subset][index])


def test_classes_choose_digits_and_give_them_labels(folder: Path) -> None:
    candidates = list_mnist(folder, {"seven": "7", "zero": "0"}, None, None).candidates
    assert {label: [candidate.photo for candidate in found] for label, found in candidates.items()} == {
        "seven": ["seven-train-00009", "seven-test-00000"],
        "zero": ["zero-train-00001", "zero-train-00005", "zero-test-00001"],
    }


@pytest.mark.parametrize(
    ("train_photos", "test_photos", "expected"),
    [
        (2, None, ["0-train-00001", "0-test-00001"]),
        (None, 1, ["0-train-00001", "0-train-00005"]),
        (1, 2, ["0-test-00001"]),
        (0, 0, []),
        (999, 999, ["0-train-00001", "0-train-00005", "0-test-00001"]),
    ],
)
def test_limits_are_counted_over_all_digits(
    folder: Path, train_photos: int | None, test_photos: int | None, expected: list[str]
) -> None:
    listing = list_mnist(folder, {"0": "0"}, train_photos, test_photos)
    assert [candidate.photo for candidate in listed(listing)] == expected


def test_files_may_be_uncompressed(folder: Path) -> None:
    compressed = [(one.photo, one.read(LIMIT)) for one in listed(list_mnist(folder, {}, None, None))]
    for name in list(FILES)[:3]:
        (folder / name).unlink()
        write_bytes(folder / name.removesuffix(".gz"), CONTENTS[name])
    assert [(one.photo, one.read(LIMIT)) for one in listed(list_mnist(folder, {}, None, None))] == compressed


def test_the_compressed_file_is_preferred(folder: Path) -> None:
    write_bytes(folder / LABEL_FILE.removesuffix(".gz"), idx(numbers(*[1] * len(TRAIN_LABELS))))
    first = listed(list_mnist(folder, {}, 1, 0))
    assert [candidate.photo for candidate in first] == ["5-train-00000"]


def test_a_set_may_be_empty(folder: Path) -> None:
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images(0))))
    (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(numbers())))
    assert {candidate.given_subset for candidate in listed(list_mnist(folder, {}, None, None))} == {"train"}


def test_another_data_set_in_these_files_has_no_credits(folder: Path) -> None:
    candidates = listed(list_mnist(folder, {}, None, None))
    assert {(one.creator, one.creator_url, one.page_url, one.license) for one in candidates} == {("", "", "", "")}


def test_a_class_that_is_not_a_digit_is_refused(folder: Path) -> None:
    assert error(folder, {"one": "1", "cat": "cat", "ten": "10", "dog": "dog", "none": "", "less": "-1"}) == (
        "acquire.classes: the source mnist has 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, got , -1, 10, cat, dog"
    )


def test_all_missing_files_are_named(folder: Path) -> None:
    (folder / "train-labels-idx1-ubyte.gz").unlink()
    (folder / "t10k-images-idx3-ubyte.gz").unlink()
    (folder / "t10k-images-idx3-ubyte.gz").mkdir()
    assert error(folder) == (
        "acquire.folder: expected the four files train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz, "
        "t10k-images-idx3-ubyte.gz, t10k-labels-idx1-ubyte.gz of MNIST in 'x', missing train-labels-idx1-ubyte.gz, "
        "t10k-images-idx3-ubyte.gz; put them there, with or without .gz, or set acquire.dataset.files to download"
    )


@pytest.mark.parametrize(("name", "state"), [("nowhere", "no such folder"), (TRAIN_IMAGES, "a file")])
def test_a_missing_folder_and_a_file_are_named(folder: Path, name: str, state: str) -> None:
    assert f"of MNIST in 'x' ({state}), missing {', '.join(FILES)}; put" in error(folder / name)


@pytest.mark.parametrize(
    ("content", "got"),
    [
        (CONTENTS[TRAIN_IMAGES], "Not a gzipped file (b'\\x00\\x00')"),
        (
            gzip.compress(CONTENTS[TRAIN_IMAGES])[:-9],
            "Compressed file ended before the end-of-stream marker was reached",
        ),
        (gzip.compress(CONTENTS[TRAIN_IMAGES])[:-8] + bytes(8), "CRC check failed"),
        (gzip.compress(CONTENTS[TRAIN_IMAGES])[:10] + b"\xff" * 99, "Error -3 while decompressing data"),
    ],
)
def test_an_incomplete_gzip_file_is_refused(folder: Path, content: bytes, got: str) -> None:
    (folder / TRAIN_IMAGES).write_bytes(content)
    message = error(folder)
    assert message.startswith(f"acquire.folder: expected a complete gzip file in 'x/{TRAIN_IMAGES}', got: {got}")
    assert message.endswith("; download it again, or remove .gz from its name if it is not compressed")


@pytest.mark.parametrize(
    ("header", "got"),
    [
        (b"", "an empty file"),
        (bytes([0, 0, 8, 3, 0, 0]), "00 00 08 03 00 00"),
        (bytes([0, 0, 8, 1]) + bytes(12), "00 00 08 01 00 00 00 00 00 00 00 00 00 00 00 00"),
        (bytes([0, 0, 13, 3]) + bytes(12), "00 00 0d 03 00 00 00 00 00 00 00 00 00 00 00 00"),
        (b"\x89PNG\r\n\x1a\n" + bytes(90), "89 50 4e 47 0d 0a 1a 0a 00 00 00 00 00 00 00 00"),
    ],
)
def test_a_file_that_is_not_an_idx_file_of_images_is_refused(folder: Path, header: bytes, got: str) -> None:
    (folder / TRAIN_IMAGES).write_bytes(gzip.compress(header))
    assert error(folder) == (
        f"acquire.folder: expected 'x/{TRAIN_IMAGES}' to begin with the bytes 00 00 08 03 (an idx file of uint8 in 3 "
        f"dimension(s)) and 3 size(s), got {got}; download it again"
    )


def test_images_instead_of_labels_are_refused(folder: Path) -> None:
    (folder / LABEL_FILE).write_bytes(gzip.compress(CONTENTS[TRAIN_IMAGES]))
    assert f"expected 'x/{LABEL_FILE}' to begin with the bytes 00 00 08 01" in error(folder)


@pytest.mark.parametrize(("change", "got"), [(-1, "only 131"), (-132, "only 0"), (1, "more")])
def test_more_or_less_than_the_header_says_is_refused(folder: Path, change: int, got: str) -> None:
    content = CONTENTS[TRAIN_IMAGES]
    (folder / TRAIN_IMAGES).write_bytes(gzip.compress(content[:change] if change < 0 else content + bytes(change)))
    assert error(folder) == (
        f"acquire.folder: expected 132 bytes after the header of 'x/{TRAIN_IMAGES}', as the header says, got {got}; "
        "download it again"
    )


@pytest.mark.parametrize("shape", [(11, 0, 3), (11, 4, 0), (40_000, 160, 160), (2**32 - 1,) * 3, (0, 2**32 - 1, 2)])
def test_a_header_that_claims_too_much_or_no_pixels_is_refused(folder: Path, shape: tuple[int, ...]) -> None:
    (folder / TRAIN_IMAGES).write_bytes(gzip.compress(struct.pack(">HBB3I", 0, 8, 3, *shape) + bytes(132)))
    assert error(folder) == (
        "acquire.folder: expected images of at least 1 x 1 pixels and at most 1,000,000,000 bytes in total in "
        f"'x/{TRAIN_IMAGES}', got a header with {' x '.join(map(str, shape))}; download it again"
    )


def test_a_decompression_bomb_is_not_decompressed(folder: Path) -> None:
    bomb = gzip.compress(CONTENTS[TRAIN_IMAGES] + bytes(50_000_000), 1)
    (folder / TRAIN_IMAGES).write_bytes(bomb)
    tracemalloc.start()
    message = error(folder)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "got more" in message
    assert most < 5_000_000


def test_images_and_labels_must_have_equal_counts(folder: Path) -> None:
    (folder / LABEL_FILE).write_bytes(gzip.compress(idx(numbers(1, 2, 3))))
    assert error(folder) == (
        f"acquire.folder: expected as many images as labels, got 11 in 'x/{TRAIN_IMAGES}' and 3 in 'x/{LABEL_FILE}'; "
        "take both files from the same data set"
    )


def test_a_label_above_9_is_refused(folder: Path) -> None:
    (folder / LABEL_FILE).write_bytes(gzip.compress(idx(numbers(*TRAIN_LABELS[:-2], 10, 26))))
    assert error(folder) == (
        f"acquire.folder: expected labels from 0 to 9 in 'x/{LABEL_FILE}', got 10 for image 9; the source mnist reads "
        "data sets of ten classes"
    )


@pytest.mark.skipif(not MNIST_FILES.is_dir(), reason="shared/material/mnist is not on this machine")
def test_the_real_data_set() -> None:
    listing = list_mnist(MNIST_FILES, {}, None, None)
    # Counts per digit in the training set and the test set together.
    assert [len(list(found)) for found in listing.candidates.values()] == [
        6903, 7877, 6990, 7141, 6824, 6313, 6876, 7293, 6825, 6958,
    ]  # fmt: skip
    candidates = {candidate.photo: candidate for candidate in listed(listing)}
    subsets = [candidate.given_subset for candidate in candidates.values()]
    assert (subsets.count("train"), subsets.count("test")) == (60_000, 10_000)
    assert all(f"{label}-train-{index:05d}" in candidates for index, label in enumerate([5, 0, 4, 1, 9]))
    five = pixels(candidates["5-train-00000"])
    # The first row with ink in the data set's first image.
    assert five.shape == (28, 28)
    assert five[5].tolist() == [0] * 12 + [3, 18, 18, 18, 126, 136, 175, 26, 166, 255, 247, 127] + [0] * 4
    assert {(one.creator, one.page_url, one.license) for one in candidates.values()} == {
        (
            "Yann LeCun, Corinna Cortes and Christopher J. C. Burges",
            "http://yann.lecun.com/exdb/mnist/",
            "CC BY-SA 3.0",
        )
    }


@pytest.mark.skipif(not MNIST_FILES.is_dir(), reason="shared/material/mnist is not on this machine")
def test_a_changed_pixel_of_the_real_data_set_removes_the_credits(tmp_path: Path) -> None:
    for name in FILES:
        content = bytearray(gzip.decompress((MNIST_FILES / name).read_bytes()))
        if name == "t10k-images-idx3-ubyte.gz":
            content[-1] ^= 1
        (tmp_path / name.removesuffix(".gz")).write_bytes(content)
    assert {one.creator for one in listed(list_mnist(tmp_path, {}, 9, 9))} == {""}
