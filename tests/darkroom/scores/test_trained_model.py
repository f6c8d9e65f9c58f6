from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from darkroom.pipeline.dataset import ImageRow, PhotoRow, StoredImages, SubsetRow, write_rows
from darkroom.pipeline.files import write_bytes
from darkroom.pipeline.paths import ACQUIRE_PHOTOS, AUGMENT_IMAGES, SPLIT_PHOTOS, subset_rows
from darkroom.pipeline.stage import StageError
from darkroom.scores.trained_model import LabelledImages, read_photo_groups, read_photo_rows, read_subset
from tests.examples import noise, npy, photo_row

PIXELS = np.stack([noise(4, 5, 3, seed) for seed in range(5)])
INDEX = [
    ImageRow("cat-1", "cat", 0, "none"),
    ImageRow("cat-1", "cat", 90, "none"),
    ImageRow("dog-1", "dog", 0, "none"),
    ImageRow("dog-2", "dog", 0, "none"),
    ImageRow("eel-1", "eel", 0, "none"),
]
LABELS = ["eel", "dog", "cat"]  # a model's labels need not be sorted


@pytest.fixture
def images(workspace: Path) -> StoredImages:
    """The stored images, with a test subset of rows 3, 0 and 4."""
    write_bytes(workspace / AUGMENT_IMAGES, npy(PIXELS))
    write_bytes(workspace / subset_rows("test"), npy(np.array([3, 0, 4])))
    return StoredImages(AUGMENT_IMAGES, len(INDEX))


class TestSubset:
    def test_photos_and_class_ids_are_in_the_order_of_the_rows(self, images: StoredImages) -> None:
        subset = read_subset("test", INDEX, images, LABELS)
        assert subset.photos == ["dog-2", "cat-1", "eel-1"]
        assert subset.rows.tolist() == [3, 0, 4]
        assert (subset.class_ids.tolist(), subset.class_ids.dtype) == ([1, 2, 0], np.int64)
        np.testing.assert_array_equal(subset.images.take(subset.rows), PIXELS[[3, 0, 4]])

    @pytest.mark.parametrize("indices", [[2, 0], [1, 1], []])
    def test_images_are_chosen_in_the_given_order(self, images: StoredImages, indices: list[int]) -> None:
        subset = read_subset("test", INDEX, images, LABELS)
        chosen = subset.choose(np.array(indices, np.int64))
        assert isinstance(chosen, LabelledImages)
        assert chosen.photos == [subset.photos[index] for index in indices]
        assert chosen.class_ids.tolist() == [subset.class_ids[index] for index in indices]
        np.testing.assert_array_equal(chosen.images.take(chosen.rows), PIXELS[[3, 0, 4]][indices])

    def test_labels_unknown_to_the_model_are_named_once(self, images: StoredImages) -> None:
        write_bytes(subset_rows("validation"), npy(np.array([2, 3, 0, 4])))
        message = (
            r"data/train/labels\.json: the model was not trained on dog, eel, but validation photos have these labels; "
            r"run `dvc repro`"
        )
        with pytest.raises(StageError, match=message):
            read_subset("validation", INDEX, images, ["cat", "fox"])

    def test_a_label_of_other_subsets_may_be_unknown(self, images: StoredImages) -> None:
        write_bytes(subset_rows("test"), npy(np.array([2, 3])))
        assert read_subset("test", INDEX, images, ["dog"]).class_ids.tolist() == [0, 0]

    def test_a_missing_file_is_named_with_the_stage_that_writes_it(self, images: StoredImages) -> None:
        with pytest.raises(StageError, match=r"data/split/train\.npy is missing; .*--single-item split"):
            read_subset("train", INDEX, images, LABELS)

    def test_row_numbers_beyond_the_index_are_rejected(self, images: StoredImages) -> None:
        write_bytes(subset_rows("test"), npy(np.array([0, 5])))
        with pytest.raises(StageError, match=r"data/split/test\.npy: expected int64 row numbers from 0 to 4"):
            read_subset("test", INDEX, images, LABELS)


class TestOrigins:
    PHOTOS = (photo_row("cat-1"), photo_row("dog-1", "dog", creator="Ann"), photo_row("eel-1", "eel", source="other"))
    GROUPS = (
        SubsetRow("eel-1", "eel", "test", "g2"),
        SubsetRow("cat-1", "cat", "test", "g1"),
        SubsetRow("dog-1", "dog", "train", "g1"),
    )

    def write(self, photos: int = 3, groups: int = 3) -> None:
        write_rows(ACQUIRE_PHOTOS, PhotoRow, self.PHOTOS[:photos])
        write_rows(SPLIT_PHOTOS, SubsetRow, self.GROUPS[:groups])

    @pytest.mark.usefixtures("workspace")
    def test_they_are_in_the_order_of_the_photos(self) -> None:
        self.write()
        assert read_photo_rows(["eel-1", "cat-1"]) == [self.PHOTOS[2], self.PHOTOS[0]]
        assert read_photo_groups(["eel-1", "cat-1"]) == ["g2", "g1"]

    @pytest.mark.usefixtures("workspace")
    def test_photos_missing_from_a_table_are_named(self) -> None:
        self.write(photos=1)
        advice = "`dvc repro --force --single-item acquire` writes it again"
        with pytest.raises(StageError, match=rf"^data/acquire/photos\.csv: lacks .* dog-1, eel-1; {advice}$"):
            read_photo_rows(["eel-1", "cat-1", "dog-1"])
        self.write(groups=2)
        with pytest.raises(StageError, match=r"^data/split/photos\.csv: lacks .* dog-1; .*--single-item split"):
            read_photo_groups(["eel-1", "cat-1", "dog-1"])

    @pytest.mark.usefixtures("workspace")
    @pytest.mark.parametrize(("read", "path"), [(read_photo_rows, ACQUIRE_PHOTOS), (read_photo_groups, SPLIT_PHOTOS)])
    def test_a_missing_table_is_named(self, read: Callable[[list[str]], object], path: Path) -> None:
        self.write()
        path.unlink()
        with pytest.raises(StageError, match=rf"^{path} is missing; "):
            read(["cat-1"])
