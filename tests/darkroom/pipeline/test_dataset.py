import io
from pathlib import Path

import numpy as np
import pytest

from darkroom.pipeline.dataset import (
    ImageRow,
    PhotoRow,
    RejectedRow,
    StoredImages,
    SubsetRow,
    read_index,
    read_labels,
    read_photos,
    read_row_numbers,
    write_labels,
    write_photos,
    write_rows,
)
from darkroom.pipeline.files import read_table, write_bytes, write_text
from darkroom.pipeline.paths import (
    ACQUIRE_PHOTOS,
    ACQUIRE_REJECTED,
    AUGMENT_IMAGES,
    AUGMENT_INDEX,
    SPLIT_PHOTOS,
    TRAIN_LABELS,
)
from darkroom.pipeline.stage import StageError
from tests.examples import noise, npy, photo_row

ODD_LABELS = ["Katze, groß", 'the "big" one', "naïve", "日本", " ", "a;b", "#1", "=SUM(A1)"]
TRAIN_ROWS = Path("data/split/train.npy")


def npz(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez(file, array)
    return file.getvalue()


IMAGES = np.stack([noise(5, 4, 3, seed) for seed in range(6)])
# The content of files that are not valid arrays, and a part of the expected message.
INVALID_ARRAYS = [
    pytest.param(npy(np.array([{"a": 1}], object)), "Python objects", id="pickled objects"),
    pytest.param(b"photo,label\n", "is not a readable .npy array", id="a text file"),
    pytest.param(b"", "is not a readable .npy array", id="an empty file"),
    pytest.param(npy(IMAGES)[:-1], "length is greater than file size", id="cut short"),
    pytest.param(npy(IMAGES)[:50], "is not a readable .npy array .*EOF", id="cut short in its header"),
    pytest.param(npy(IMAGES).replace(b"'descr': '|u1'", b"'descr': ',u1'"), "is not a readable", id="a broken type"),
    pytest.param(npy(IMAGES).replace(b"(6, 5, 4, 3)", b"(6, 5, 4, 3["), "is not a readable", id="a broken header"),
    pytest.param(npz(IMAGES), "is not a readable .npy array", id="several arrays in a zip file"),
]


class TestRows:
    def test_a_spreadsheet_takes_no_creator_for_a_formula(self, tmp_path: Path) -> None:
        names = ["=1+1", "-=DJ=-", "A. Person", ""]
        write_photos(tmp_path / "photos.csv", [photo_row(creator=name) for name in names])
        assert [row.creator for row in read_photos(tmp_path / "photos.csv")] == ["'=1+1", "'-=DJ=-", "A. Person", ""]

    def test_photos_are_read_as_written(self, workspace: Path) -> None:
        photos = [photo_row(f"{label}-1", label, creator=label, width=3000) for label in ODD_LABELS]
        write_rows(ACQUIRE_PHOTOS, PhotoRow, photos)
        assert (workspace / ACQUIRE_PHOTOS).exists()
        assert read_photos(ACQUIRE_PHOTOS) == photos

    def test_the_index_is_read_as_written(self, workspace: Path) -> None:
        index = [ImageRow(f"{label}-1", label, 0.1 + 0.2, "both") for label in ODD_LABELS]
        write_rows(AUGMENT_INDEX, ImageRow, index)
        assert (workspace / AUGMENT_INDEX).exists()
        assert read_index(AUGMENT_INDEX) == index

    @pytest.mark.parametrize(
        ("path", "row"),
        [
            (ACQUIRE_REJECTED, RejectedRow("cat-1", "cat", "the file is empty")),
            (SPLIT_PHOTOS, SubsetRow("a", "b", "test", "g")),
        ],
    )
    def test_columns_are_the_field_names(self, workspace: Path, path: Path, row: tuple) -> None:
        write_rows(path, type(row), [row])
        assert (workspace / path).exists()
        assert read_table(path, row._fields) == [row._asdict()]

    def test_a_width_that_is_not_a_number_is_an_error(self, workspace: Path) -> None:
        write_rows(workspace / ACQUIRE_PHOTOS, PhotoRow, [photo_row()._replace(width="wide")])
        with pytest.raises(StageError, match=r"^data/acquire/photos.csv: .*'wide'; `dvc repro --force .* acquire`"):
            read_photos(ACQUIRE_PHOTOS)

    def test_a_rotation_that_is_not_a_number_is_an_error(self, workspace: Path) -> None:
        write_rows(workspace / AUGMENT_INDEX, ImageRow, [("cat-1", "cat", "half", "none")])
        with pytest.raises(StageError, match=r"^data/augment/images.csv: .*'half'; `dvc repro --force .* augment`"):
            read_index(AUGMENT_INDEX)

    @pytest.mark.parametrize("line", ["cat-1,cat", "cat-1,cat,photos/cat/cat-1.png,4,3,,,,,,,,one more"])
    def test_a_photo_with_too_few_or_too_many_cells_is_an_error(self, workspace: Path, line: str) -> None:
        write_text(workspace / ACQUIRE_PHOTOS, f"{','.join(PhotoRow._fields)}\n{line}\n")
        with pytest.raises(StageError, match=r"^data/acquire/photos.csv: .+ `dvc repro --force .* acquire`"):
            read_photos(ACQUIRE_PHOTOS)

    @pytest.mark.parametrize(
        ("rotation_degrees", "flip", "expected"), [(0, "none", True), (0, "horizontal", False), (90, "none", False)]
    )
    def test_the_original_is_neither_rotated_nor_flipped(
        self, rotation_degrees: float, flip: str, expected: bool
    ) -> None:
        assert ImageRow("cat-1", "cat", rotation_degrees, flip).is_original is expected

    def test_labels_are_read_in_their_order(self, workspace: Path) -> None:
        write_labels(TRAIN_LABELS, ODD_LABELS)
        assert (workspace / TRAIN_LABELS).exists()
        assert read_labels(TRAIN_LABELS) == ODD_LABELS

    @pytest.mark.parametrize(
        "content", [None, b"", b"[]", b"{}", b'{"labels": ["cat"'], ids=["missing", "empty", "list", "no labels", "cut"]
    )
    def test_missing_or_invalid_labels_are_an_error(self, workspace: Path, content: bytes | None) -> None:
        if content is not None:
            write_bytes(workspace / TRAIN_LABELS, content)
        with pytest.raises(StageError, match=r"^data/train/labels.json.*`dvc repro --force --single-item train`"):
            read_labels(TRAIN_LABELS)


class TestRowNumbers:
    def test_row_numbers_are_read_as_written(self, workspace: Path) -> None:
        write_bytes(workspace / TRAIN_ROWS, npy(np.array([4, 0, 5], np.int64)))
        rows = read_row_numbers(TRAIN_ROWS, 6)
        assert rows.tolist() == [4, 0, 5]
        assert rows.flags.writeable

    @pytest.mark.parametrize(
        ("rows", "got"),
        [
            pytest.param(np.array([0, 1], np.int32), r"int32 \(2,\)", id="type"),
            pytest.param(np.array([0.0, 1.0]), r"float64 \(2,\)", id="floats"),
            pytest.param(np.array([[0, 1]]), r"int64 \(1, 2\)", id="shape"),
            pytest.param(np.array(3), r"int64 \(\)", id="a single number"),
            pytest.param(np.array([], np.int64), r"int64 \(0,\)", id="none"),
            pytest.param(np.array([0, 6]), r"int64 \(2,\)", id="beyond the last image"),
            pytest.param(np.array([-1, 0]), r"int64 \(2,\)", id="negative"),
        ],
    )
    def test_other_arrays_are_an_error(self, workspace: Path, rows: np.ndarray, got: str) -> None:
        write_bytes(workspace / TRAIN_ROWS, npy(rows))
        with pytest.raises(
            StageError,
            match=rf"^data/split/train.npy: expected int64 row numbers from 0 to 5, got {got}; `dvc repro .* split`",
        ):
            read_row_numbers(TRAIN_ROWS, 6)

    @pytest.mark.parametrize(("content", "reason"), INVALID_ARRAYS)
    def test_a_file_that_is_not_an_array_is_an_error(self, workspace: Path, content: bytes, reason: str) -> None:
        write_bytes(workspace / TRAIN_ROWS, content)
        with pytest.raises(StageError, match=rf"^data/split/train.npy: .*{reason}.*`dvc repro .* split`"):
            read_row_numbers(TRAIN_ROWS, 6)


class TestStoredImages:
    @pytest.mark.parametrize("channels", [1, 3])
    def test_it_has_the_shape_of_an_image(self, workspace: Path, channels: int) -> None:
        write_bytes(workspace / AUGMENT_IMAGES, npy(IMAGES[..., :channels]))
        assert StoredImages(AUGMENT_IMAGES, 6).image_shape == (5, 4, channels)

    @pytest.mark.parametrize("rows", [[2], [5, 0, 0, 3], [0, 1, 2, 3, 4, 5], []])
    def test_images_are_taken_in_the_requested_order(self, workspace: Path, rows: list[int]) -> None:
        write_bytes(workspace / AUGMENT_IMAGES, npy(IMAGES))
        taken = StoredImages(AUGMENT_IMAGES, 6).take(np.array(rows, np.int64))
        np.testing.assert_array_equal(taken, IMAGES[rows])
        assert taken.dtype == np.uint8

    def test_changing_taken_images_does_not_change_the_file(self, workspace: Path) -> None:
        write_bytes(workspace / AUGMENT_IMAGES, npy(IMAGES))
        StoredImages(AUGMENT_IMAGES, 6).take(np.arange(6))[:] = 0
        assert (workspace / AUGMENT_IMAGES).read_bytes() == npy(IMAGES)

    @pytest.mark.parametrize(
        ("images", "got"),
        [
            pytest.param(IMAGES / 255, r"float64 \(6, 5, 4, 3\)", id="type"),
            pytest.param(IMAGES[..., 0], r"uint8 \(6, 5, 4\)", id="no channels"),
            pytest.param(IMAGES[..., [0, 1, 2, 2]], r"uint8 \(6, 5, 4, 4\)", id="four channels"),
            pytest.param(IMAGES[:5], r"uint8 \(5, 5, 4, 3\)", id="a row too few"),
            pytest.param(np.uint8(3), r"uint8 \(\)", id="a single number"),
        ],
    )
    def test_an_array_that_does_not_match_the_index_is_an_error(
        self, workspace: Path, images: np.ndarray, got: str
    ) -> None:
        write_bytes(workspace / AUGMENT_IMAGES, npy(images))
        with pytest.raises(
            StageError,
            match=rf"^data/augment/images.npy: expected uint8 \(6, height, width, 1 or 3\) as images.csv has 6 rows, "
            rf"got {got}; `dvc repro --force --single-item augment`",
        ):
            StoredImages(AUGMENT_IMAGES, 6)

    @pytest.mark.parametrize(("content", "reason"), INVALID_ARRAYS)
    def test_a_file_that_is_not_an_array_is_an_error(self, workspace: Path, content: bytes, reason: str) -> None:
        write_bytes(workspace / AUGMENT_IMAGES, content)
        with pytest.raises(StageError, match=rf"^data/augment/images.npy: .*{reason}.*`dvc repro .* augment`"):
            StoredImages(AUGMENT_IMAGES, 6)

    def test_a_missing_file_is_an_error(self, workspace: Path) -> None:
        assert not (workspace / AUGMENT_IMAGES).exists()
        with pytest.raises(StageError) as caught:
            StoredImages(AUGMENT_IMAGES, 6)
        assert str(caught.value) == (
            "data/augment/images.npy is missing; `dvc repro --force --single-item augment` writes it again"
        )
