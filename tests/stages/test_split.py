import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from darkroom.pipeline.arrays import Pixels
from darkroom.pipeline.dataset import ImageRow, PhotoRow, SubsetRow, read_row_numbers, write_rows
from darkroom.pipeline.files import read_table, written_again
from darkroom.pipeline.paths import (
    ACQUIRE_PHOTOS,
    AUGMENT_IMAGES,
    AUGMENT_INDEX,
    SPLIT_CLASSES,
    SPLIT_DUPLICATES,
    SPLIT_METRICS,
    SPLIT_PHOTOS,
    SUBSETS,
    subset_rows,
)
from darkroom.pipeline.stage import StageError
from darkroom.splitting.audit import ClassCount, DuplicateRow
from stages.split import find_originals, list_subset_rows, main
from tests.examples import noise, photo_row


def test_train_has_all_variants_and_the_other_subsets_only_originals() -> None:
    variants = [(0.0, "none"), (90.0, "none"), (0.0, "horizontal")]
    index = [ImageRow(photo, "cat", *variant) for photo in ("cat-1", "cat-2", "cat-3") for variant in variants]
    rows = list_subset_rows(index, {"cat-1": "test", "cat-2": "train", "cat-3": "validation"})
    assert {subset: numbers.tolist() for subset, numbers in rows.items()} == {
        "train": [3, 4, 5],
        "validation": [6],
        "test": [0],
    }
    assert {numbers.dtype for numbers in rows.values()} == {np.dtype(np.int64)}


OUTPUTS = (*map(subset_rows, SUBSETS), SPLIT_PHOTOS, SPLIT_DUPLICATES, SPLIT_CLASSES, SPLIT_METRICS)
SIDE = 32
CAT_1, CAT_2, DOG_1 = 1, 2, 11  # indices of photos


def slightly_changed(image: Pixels) -> Pixels:
    """The image in 32 shades of each color."""
    return image & 0xF8


class Workspace:
    """Ten photos of cats, then ten of dogs, all of different noise; each is stored with its flipped variant.

    A test changes some of them, writes all inputs, and runs the stage.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.photos = [photo_row(f"{label}-{number}", label) for label in ("cat", "dog") for number in range(10)]
        self.images = [noise(SIDE, SIDE, 3, seed) for seed in range(20)]
        self.params: dict[str, object] = {
            "validation_fraction": 0.2,
            "test_fraction": 0.3,
            "seed": 1,
            "given_subsets": True,
            "creators_together": True,
            "near_duplicate_similarity": 0.99,
        }

    def change_photo(self, index: int, **values: object) -> None:
        self.photos[index] = self.photos[index]._replace(**values)

    def predefine(self, subset: str, *indices: int) -> None:
        for index in indices:
            self.change_photo(index, given_subset=subset)

    def write(self) -> None:
        write_rows(ACQUIRE_PHOTOS, PhotoRow, self.photos)
        index = [ImageRow(row.photo, row.label, 0, flip) for row in self.photos for flip in ("none", "horizontal")]
        write_rows(AUGMENT_INDEX, ImageRow, index)
        images = [variant for image in self.images for variant in (image, image[:, ::-1])]
        np.save(AUGMENT_IMAGES, np.stack(images))
        (self.folder / "params.yaml").write_text(json.dumps({"split": self.params}))

    def run(self) -> None:
        self.write()
        main()

    @property
    def assigned(self) -> list[SubsetRow]:
        return [SubsetRow(**row) for row in read_table(SPLIT_PHOTOS, SubsetRow._fields)]

    @property
    def duplicates(self) -> list[dict[str, str]]:
        return read_table(SPLIT_DUPLICATES, DuplicateRow._fields)

    @property
    def metrics(self) -> dict[str, int]:
        return json.loads(SPLIT_METRICS.read_text())


@pytest.fixture
def split(workspace: Path) -> Workspace:
    return Workspace(workspace)


class TestStage:
    def test_it_writes_its_outputs(self, split: Workspace, capfd: pytest.CaptureFixture[str]) -> None:
        split.run()
        assert [(row.photo, row.label) for row in split.assigned] == [(row.photo, row.label) for row in split.photos]
        assert [row.group for row in split.assigned] == [row.sha256 for row in split.photos]
        expected: dict[str, list[int]] = {subset: [] for subset in SUBSETS}
        for number, row in enumerate(split.assigned):
            expected[row.subset] += [2 * number, 2 * number + 1] if row.subset == "train" else [2 * number]
        assert {subset: read_row_numbers(subset_rows(subset), 40).tolist() for subset in SUBSETS} == expected
        assert {subset: len(rows) for subset, rows in expected.items()} == {"train": 20, "validation": 4, "test": 6}
        assert split.duplicates == []
        counts = {"fraction": "0.5", "train": "5", "validation": "2", "test": "3"}
        assert read_table(SPLIT_CLASSES, ClassCount._fields) == [
            {"label": label, "photos": "10", **counts} for label in ("cat", "dog")
        ]
        assert split.metrics == {
            "train_photos": 10,
            "validation_photos": 4,
            "test_photos": 6,
            "train_images": 20,
            "groups": 20,
            "largest_group": 1,
            "divided_groups": 0,
            "exact_pairs": 0,
            "near_pairs": 0,
            "conflicting_clusters": 0,
            "leaking_clusters": 0,
        }
        assert capfd.readouterr().out == (
            "split: 20 groups, 0 exact and 0 near-duplicate pairs -> train 10 photos / 20 images, "
            "validation 4 photos / 4 images, test 6 photos / 6 images\n"
        )

    def test_two_runs_give_the_same_bytes(self, split: Workspace) -> None:
        split.images[CAT_2] = slightly_changed(split.images[CAT_1])
        split.images[DOG_1] = np.rot90(split.images[CAT_1])
        contents = []
        for _ in range(2):
            split.run()
            contents.append([path.read_bytes() for path in OUTPUTS])
            for path in OUTPUTS:
                path.unlink()
        assert contents[0] == contents[1]

    def test_the_order_and_names_of_the_photos_do_not_matter(self, split: Workspace) -> None:
        split.images[CAT_2] = slightly_changed(split.images[CAT_1])
        split.change_photo(DOG_1, creator="Ann")
        split.change_photo(5, creator="Ann")
        split.run()
        subset_of = {photo.sha256: row.subset for photo, row in zip(split.photos, split.assigned, strict=True)}
        order = np.random.default_rng(0).permutation(20).tolist()
        split.photos = [split.photos[index]._replace(photo=f"another name {index}") for index in order]
        split.images = [split.images[index] for index in order]
        split.run()
        assert {photo.sha256: row.subset for photo, row in zip(split.photos, split.assigned, strict=True)} == subset_of

    @pytest.mark.parametrize("seed", range(4))
    @pytest.mark.parametrize(
        ("copy", "kind"),
        [
            pytest.param(lambda image: image, "exact", id="equal"),
            pytest.param(lambda image: np.rot90(image[:, ::-1]), "exact", id="flipped and rotated"),
            pytest.param(slightly_changed, "near", id="near"),
            pytest.param(lambda image: np.rot90(slightly_changed(image)), "near", id="near and rotated"),
        ],
    )
    def test_duplicates_stay_together_and_are_listed(
        self, split: Workspace, copy: Callable[[Pixels], Pixels], kind: str, seed: int
    ) -> None:
        split.params["seed"] = seed
        split.images[CAT_2] = copy(split.images[CAT_1])
        split.run()
        one, other = split.assigned[CAT_1], split.assigned[CAT_2]
        assert (one.group, one.subset) == (other.group, other.subset)
        ((row),) = split.duplicates
        assert [row[name] for name in DuplicateRow._fields[:-1]] == [*one[:3], *other[:3], kind]
        assert float(row["similarity"]) == 1.0 if kind == "exact" else 0.99 <= float(row["similarity"]) < 1
        assert split.metrics[f"{kind}_pairs"] == 1
        assert (split.metrics["groups"], split.metrics["largest_group"]) == (19, 2)

    def test_without_a_similarity_near_duplicates_are_ignored(self, split: Workspace) -> None:
        split.params["near_duplicate_similarity"] = None
        split.images[CAT_2] = slightly_changed(split.images[CAT_1])
        split.images[DOG_1] = split.images[CAT_1][:, ::-1]
        split.run()
        assert [(row["photo"], row["duplicate"], row["kind"]) for row in split.duplicates] == [
            ("cat-1", "dog-1", "exact")
        ]

    @pytest.mark.parametrize("seed", range(4))
    def test_with_creators_together_the_photos_of_a_creator_stay_together(self, split: Workspace, seed: int) -> None:
        split.params["seed"] = seed
        for index in (0, 4, 8, 12):
            split.change_photo(index, creator="Ann", creator_url="https://example.org/ann")
        split.run()
        assert len({split.assigned[index].subset for index in (0, 4, 8, 12)}) == 1
        assert (split.metrics["groups"], split.metrics["largest_group"]) == (17, 4)
        split.params["creators_together"] = False
        split.run()
        assert (split.metrics["groups"], split.metrics["largest_group"]) == (20, 1)

    def test_a_label_conflict_is_reported(self, split: Workspace, capfd: pytest.CaptureFixture[str]) -> None:
        split.images[DOG_1] = slightly_changed(split.images[CAT_1])
        split.run()
        ((row),) = split.duplicates
        assert (row["label"], row["duplicate_label"], row["kind"]) == ("cat", "dog", "near")
        assert row["subset"] == row["duplicate_subset"]
        assert split.metrics["conflicting_clusters"] == 1
        assert capfd.readouterr().out.splitlines()[0] == (
            "split: 1 set(s) of exact or near duplicates have different labels: check them in "
            "data/split/duplicates.csv, and remove mislabeled photos from their source"
        )

    def test_duplicates_under_two_labels_count_as_one_conflict(self, split: Workspace) -> None:
        split.images[CAT_2] = split.images[CAT_1][::-1]
        split.images[DOG_1] = np.rot90(split.images[CAT_1])
        split.run()
        assert len(split.duplicates) == 2
        assert (split.metrics["exact_pairs"], split.metrics["conflicting_clusters"]) == (2, 1)


class TestGivenSubsets:
    TEST = (0, 1, 2, 10, 11)
    TRAIN = (*range(3, 10), *range(12, 20))

    def test_predefined_subsets_are_used(self, split: Workspace) -> None:
        split.predefine("test", *self.TEST)
        split.run()
        assert {index for index, row in enumerate(split.assigned) if row.subset == "test"} == set(self.TEST)
        assert read_row_numbers(subset_rows("test"), 40).tolist() == [2 * index for index in self.TEST]
        assert split.metrics["validation_photos"] == 3  # a fifth of 7 cats, and a fifth of 8 dogs

    def test_without_given_subsets_predefined_subsets_are_ignored(self, split: Workspace) -> None:
        split.params["given_subsets"] = False
        split.run()
        subsets = [row.subset for row in split.assigned]
        split.predefine("test", *self.TEST)
        split.run()
        assert [row.subset for row in split.assigned] == subsets

    @pytest.mark.parametrize("seed", range(4))
    def test_a_flipped_duplicate_of_a_test_photo_is_in_test_too(self, split: Workspace, seed: int) -> None:
        split.params["seed"] = seed
        split.predefine("test", *self.TEST)
        split.images[5] = split.images[0][:, ::-1]
        split.run()
        tested = [index for index, row in enumerate(split.assigned) if row.subset == "test"]
        assert tested == [0, 1, 2, 5, 10, 11]
        ((row,)) = split.duplicates
        assert (row["photo"], row["duplicate"]) == ("cat-0", "cat-5")
        assert row["subset"] == row["duplicate_subset"] == "test"
        assert (split.metrics["divided_groups"], split.metrics["leaking_clusters"]) == (0, 0)

    def test_a_leak_between_predefined_subsets_is_reported_but_not_an_error(
        self, split: Workspace, capfd: pytest.CaptureFixture[str]
    ) -> None:
        split.predefine("test", *self.TEST)
        split.predefine("train", *self.TRAIN)
        split.images[5] = slightly_changed(split.images[0])
        split.run()
        ((row,)) = split.duplicates
        assert (row["photo"], row["subset"], row["duplicate"]) == ("cat-0", "test", "cat-5")
        assert row["duplicate_subset"] in ("train", "validation")
        assert (split.metrics["divided_groups"], split.metrics["leaking_clusters"]) == (1, 1)
        lines = capfd.readouterr().out.splitlines()
        assert len(lines) == 2
        assert lines[0] == (
            "split: the source's predefined subsets divide 1 group(s) and 1 set(s) of duplicates, which inflates the "
            "scores: see data/split/duplicates.csv; set split.given_subsets to false to draw new subsets"
        )

    def test_a_creator_in_two_predefined_subsets_is_reported(
        self, split: Workspace, capfd: pytest.CaptureFixture[str]
    ) -> None:
        split.predefine("test", *self.TEST)
        split.predefine("train", *self.TRAIN)
        split.change_photo(0, creator="Ann")
        split.change_photo(5, creator="Ann")
        split.run()
        assert split.assigned[0].group == split.assigned[5].group
        assert split.duplicates == []
        assert (split.metrics["divided_groups"], split.metrics["leaking_clusters"]) == (1, 0)
        assert capfd.readouterr().out.startswith(
            "split: the source's predefined subsets divide 1 group(s) and 0 set(s) of duplicates, "
        )
        split.params["creators_together"] = False
        split.run()
        assert split.metrics["divided_groups"] == 0
        assert len(capfd.readouterr().out.splitlines()) == 1

    def test_without_given_subsets_there_is_no_leak(self, split: Workspace, capfd: pytest.CaptureFixture[str]) -> None:
        split.params["given_subsets"] = False
        split.predefine("test", *self.TEST)
        split.images[5] = slightly_changed(split.images[0])
        split.run()
        assert split.assigned[0].subset == split.assigned[5].subset
        assert (split.metrics["divided_groups"], split.metrics["leaking_clusters"]) == (0, 0)
        assert len(capfd.readouterr().out.splitlines()) == 1


def test_originals_are_found_at_any_row() -> None:
    variants = [("b", 90, "none"), ("b", 0, "none"), ("b", 0, "horizontal"), ("a", 0, "none"), ("a", 90, "none")]
    index = [ImageRow(photo, "cat", *variant) for photo, *variant in variants]
    assert find_originals(index, [photo_row("a"), photo_row("b")]) == [3, 1]


class TestBadInputs:
    def run_failing(self) -> str:
        with pytest.raises(StageError) as caught:
            main()
        assert not any(path.exists() for path in OUTPUTS)
        return str(caught.value)

    @pytest.mark.parametrize("side", ["photos", "index"])
    def test_an_index_of_other_photos_is_an_error(self, split: Workspace, side: str) -> None:
        split.write()
        if side == "photos":
            write_rows(ACQUIRE_PHOTOS, PhotoRow, split.photos[1:])
        else:
            del split.photos[0], split.images[0]
            split.write()
            write_rows(ACQUIRE_PHOTOS, PhotoRow, [photo_row("cat-0"), *split.photos])
        assert self.run_failing() == (
            "data/augment/images.csv and data/acquire/photos.csv list different photos; "
            "`dvc repro --force --single-item augment` writes it again"
        )

    def test_no_photos_are_an_error(self, split: Workspace) -> None:
        split.write()
        write_rows(ACQUIRE_PHOTOS, PhotoRow, [])
        assert self.run_failing() == f"data/acquire/photos.csv has no rows; {written_again(ACQUIRE_PHOTOS)}"

    def test_another_number_of_images_is_an_error(self, split: Workspace) -> None:
        split.write()
        np.save(AUGMENT_IMAGES, np.load(AUGMENT_IMAGES)[:-1])
        assert self.run_failing().startswith(f"{AUGMENT_IMAGES}: expected uint8 (40, height, width, 1 or 3)")

    @pytest.mark.parametrize("path", [ACQUIRE_PHOTOS, AUGMENT_INDEX, AUGMENT_IMAGES], ids=str)
    def test_a_missing_input_is_an_error(self, split: Workspace, path: Path) -> None:
        split.write()
        path.unlink()
        assert self.run_failing() == f"{path} is missing; {written_again(path)}"

    def test_a_label_with_too_few_groups_is_an_error(self, split: Workspace) -> None:
        for index in range(9):
            split.change_photo(index, creator="Ann")
        split.write()
        assert ": cat (10 photo(s) in 2 group(s)) is missing from " in self.run_failing()
