import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.lib.dataset import SUBSETS, ImageRow, PhotoRow, SubsetRow, read_row_numbers, write_rows
from stages.lib.files import read_table
from stages.lib.paths import ACQUIRE_PHOTOS, AUGMENT_INDEX, SPLIT_METRICS, SPLIT_PHOTOS, subset_rows
from stages.lib.stage import StageError
from stages.split import assign_subsets, group_photos, list_subset_rows, main, subset_sizes
from tests.lib.examples import photo_row

Photos = list[tuple[str, str]]  # (label, group) of each photo

fractions = st.floats(0.05, 0.4)
seeds = st.integers(0, 1000)


@st.composite
def single_photos(draw: st.DrawFn) -> Photos:
    """Photos of some classes, each of which is a group of its own."""
    counts = draw(st.dictionaries(st.sampled_from("abcd"), st.integers(3, 60), min_size=1))
    return [(label, f"{label}{number}") for label, count in counts.items() for number in range(count)]


@st.composite
def grouped_photos(draw: st.DrawFn) -> Photos:
    """Photos of some classes in groups of up to six, at least three groups a class."""
    sizes = draw(
        st.dictionaries(st.sampled_from("abcd"), st.lists(st.integers(1, 6), min_size=3, max_size=20), min_size=1)
    )
    return [
        (label, f"{label}{number}")
        for label, groups in sizes.items()
        for number, size in enumerate(groups)
        for _ in range(size)
    ]


@st.composite
def mixed_photos(draw: st.DrawFn) -> Photos:
    """Twenty photos of two classes each, and some groups that have photos of both."""
    shared = draw(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["shared 1", "shared 2"])), max_size=10))
    return [(label, f"{label}{number}") for label in "ab" for number in range(20)] + shared


def assign(photos: Photos, validation_fraction: float = 0.15, test_fraction: float = 0.2, seed: int = 0) -> list[str]:
    labels, groups = zip(*photos, strict=True)
    return assign_subsets(labels, groups, validation_fraction, test_fraction, seed)


class TestAssignment:
    @given(single_photos() | mixed_photos(), fractions, fractions, seeds)
    @settings(deadline=None, max_examples=60)
    def test_no_group_is_divided(
        self, photos: Photos, validation_fraction: float, test_fraction: float, seed: int
    ) -> None:
        subsets = assign(photos, validation_fraction, test_fraction, seed)
        subset_of_group = {(group, subset) for (_, group), subset in zip(photos, subsets, strict=True)}
        assert len(subset_of_group) == len({group for _, group in photos})

    @given(single_photos(), fractions, fractions, seeds)
    @settings(deadline=None, max_examples=60)
    def test_single_photos_of_a_label_get_their_shares_exactly(
        self, photos: Photos, validation_fraction: float, test_fraction: float, seed: int
    ) -> None:
        subsets = assign(photos, validation_fraction, test_fraction, seed)
        counts = Counter((label, subset) for (label, _), subset in zip(photos, subsets, strict=True))
        for label, count in Counter(label for label, _ in photos).items():
            sizes = subset_sizes(count, validation_fraction, test_fraction)
            assert {subset: counts[label, subset] for subset in SUBSETS} == sizes

    @given(grouped_photos(), seeds)
    @settings(deadline=None, max_examples=100)
    def test_three_groups_of_a_label_suffice_for_three_subsets(self, photos: Photos, seed: int) -> None:
        subsets = assign(photos, seed=seed)
        present = {(label, subset) for (label, _), subset in zip(photos, subsets, strict=True)}
        assert present == {(label, subset) for label, _ in photos for subset in SUBSETS}

    def test_three_photos_that_were_copied_suffice_for_three_subsets(self) -> None:
        copied = [("a", f"a{number}") for number in range(3) for _ in range(2)]
        subsets = assign(copied + [("b", f"b{number}") for number in range(9)])
        assert set(subsets[:6]) == set(SUBSETS)

    @given(mixed_photos(), fractions, fractions, seeds)
    @settings(deadline=None, max_examples=60)
    def test_no_subset_exceeds_its_share_by_more_than_the_shared_groups(
        self, photos: Photos, validation_fraction: float, test_fraction: float, seed: int
    ) -> None:
        subsets = assign(photos, validation_fraction, test_fraction, seed)
        counts = Counter((label, subset) for (label, _), subset in zip(photos, subsets, strict=True))
        shared = len(photos) - 40
        for label, count in Counter(label for label, _ in photos).items():
            for subset, size in subset_sizes(count, validation_fraction, test_fraction).items():
                assert counts[label, subset] <= size + shared

    @given(single_photos() | mixed_photos(), seeds, st.randoms(use_true_random=False))
    @settings(deadline=None, max_examples=60)
    def test_the_order_of_the_photos_does_not_matter(self, photos: Photos, seed: int, random) -> None:
        order = list(range(len(photos)))
        random.shuffle(order)
        subsets = assign(photos, seed=seed)
        assert assign([photos[place] for place in order], seed=seed) == [subsets[place] for place in order]

    @given(single_photos() | mixed_photos(), seeds)
    @settings(deadline=None, max_examples=30)
    def test_the_same_seed_gives_the_same_subsets(self, photos: Photos, seed: int) -> None:
        assert assign(photos, seed=seed) == assign(photos, seed=seed)

    def test_other_seeds_give_other_subsets(self) -> None:
        photos = [(label, f"{label}{number}") for label in "ab" for number in range(30)]
        assert len({tuple(assign(photos, seed=seed)) for seed in range(10)}) == 10

    def test_every_photo_has_its_chance_in_every_subset(self) -> None:
        photos = [("a", f"a{number}") for number in range(6)]
        subsets = [assign(photos, 0.3, 0.3, seed) for seed in range(100)]
        assert all({run[photo] for run in subsets} == set(SUBSETS) for photo in range(6))


class TestSizes:
    @given(st.integers(3, 5000), fractions, fractions)
    @settings(deadline=None, max_examples=100)
    def test_sizes_add_up_and_leave_no_subset_empty(
        self, count: int, validation_fraction: float, test_fraction: float
    ) -> None:
        sizes = subset_sizes(count, validation_fraction, test_fraction)
        assert tuple(sizes) == SUBSETS
        assert sum(sizes.values()) == count
        assert min(sizes.values()) >= 1

    @given(st.integers(40, 5000), fractions, fractions)
    @settings(deadline=None, max_examples=100)
    def test_sizes_are_as_near_the_fractions_as_whole_photos_allow(
        self, count: int, validation_fraction: float, test_fraction: float
    ) -> None:
        sizes = subset_sizes(count, validation_fraction, test_fraction)
        assert abs(sizes["validation"] - count * validation_fraction) <= 0.5
        assert abs(sizes["test"] - count * test_fraction) <= 0.5

    @pytest.mark.parametrize(
        ("count", "fractions", "sizes"),
        [
            (100, (0.15, 0.2), (65, 15, 20)),
            (3, (0.15, 0.2), (1, 1, 1)),
            (3, (0.9, 0.05), (1, 1, 1)),
            (10, (0.01, 0.01), (8, 1, 1)),
            (10, (0.5, 0.49), (1, 4, 5)),
        ],
    )
    def test_examples(self, count: int, fractions: tuple[float, float], sizes: tuple[int, int, int]) -> None:
        assert tuple(subset_sizes(count, *fractions).values()) == sizes


class TestFaults:
    @pytest.mark.parametrize("count", [1, 2])
    def test_a_label_with_too_few_photos_is_refused(self, count: int) -> None:
        photos = [("rare", f"r{number}") for number in range(count)] + [("b", f"b{number}") for number in range(10)]
        with pytest.raises(StageError) as caught:
            assign(photos)
        message = str(caught.value)
        assert message.startswith("every class must stand in train, validation and test: ")
        assert f"rare ({count} photo(s)) is missing from " in message
        assert message.endswith(
            "; add different photos of the class (at least three), leave it out with acquire.classes, or turn "
            "split.validation_fraction or split.test_fraction up"
        )

    def test_copies_of_one_photo_are_one(self) -> None:
        photos = [("copied", "one and the same")] * 8 + [("b", f"b{number}") for number in range(10)]
        with pytest.raises(
            StageError, match=r"copied \(8 photo\(s\)\) is missing from validation, test; add different"
        ):
            assign(photos)

    def test_all_labels_that_are_missing_are_named(self) -> None:
        photos = [("a", "a0"), ("c", "c0")] + [("b", f"b{number}") for number in range(10)]
        with pytest.raises(StageError, match=r"a \(1 photo\(s\)\) is missing from .*; c \(1 photo\(s\)\) is missing"):
            assign(photos)


def test_photos_with_the_same_bytes_are_one_group() -> None:
    photos = [photo_row("cat-1", sha256="x"), photo_row("cat-2", sha256="y"), photo_row("dog-1", "dog", sha256="x")]
    first, second, third = group_photos(photos)
    assert first == third
    assert first != second


def test_training_sees_every_variant_and_the_others_originals_only() -> None:
    variants = [(0.0, "none"), (90.0, "none"), (0.0, "horizontal")]
    index = [ImageRow(photo, "cat", *variant) for photo in ("cat-1", "cat-2", "cat-3") for variant in variants]
    rows = list_subset_rows(index, {"cat-1": "test", "cat-2": "train", "cat-3": "validation"})
    assert {subset: numbers.tolist() for subset, numbers in rows.items()} == {
        "train": [3, 4, 5],
        "validation": [6],
        "test": [0],
    }
    assert {numbers.dtype for numbers in rows.values()} == {np.dtype(np.int64)}


class TestStage:
    @pytest.fixture
    def photos(self, workspace: Path) -> list[PhotoRow]:
        """Ten photos of each of two classes, two variants of each, and the params of the stage."""
        photos = [photo_row(f"{label}-{number}", label) for label in ("cat", "dog") for number in range(10)]
        write_rows(ACQUIRE_PHOTOS, PhotoRow, photos)
        index = [ImageRow(row.photo, row.label, 0, flip) for row in photos for flip in ("none", "horizontal")]
        write_rows(AUGMENT_INDEX, ImageRow, index)
        (workspace / "params.yaml").write_text("split: {validation_fraction: 0.2, test_fraction: 0.3, seed: 1}\n")
        return photos

    def test_it_writes_its_outputs(self, photos: list[PhotoRow], capfd: pytest.CaptureFixture[str]) -> None:
        main()
        assigned = [SubsetRow(**row) for row in read_table(SPLIT_PHOTOS, SubsetRow._fields)]
        assert [row.photo for row in assigned] == [row.photo for row in photos]
        expected: dict[str, list[int]] = {subset: [] for subset in SUBSETS}
        for number, row in enumerate(assigned):
            expected[row.subset] += [2 * number, 2 * number + 1] if row.subset == "train" else [2 * number]
        assert {subset: read_row_numbers(subset_rows(subset), 40).tolist() for subset in SUBSETS} == expected
        assert {subset: len(rows) for subset, rows in expected.items()} == {"train": 20, "validation": 4, "test": 6}
        assert json.loads(SPLIT_METRICS.read_text()) == {
            "train_photos": 10,
            "validation_photos": 4,
            "test_photos": 6,
            "train_images": 20,
            "groups": 20,
        }
        assert capfd.readouterr().out == (
            "split: 20 photos -> train 10 photos / 20 images, validation 4 photos / 4 images, "
            "test 6 photos / 6 images\n"
        )

    def test_an_index_of_other_photos_is_refused(self, photos: list[PhotoRow]) -> None:
        write_rows(AUGMENT_INDEX, ImageRow, [ImageRow(row.photo, row.label, 0, "none") for row in photos[1:]])
        with pytest.raises(StageError) as caught:
            main()
        assert str(caught.value) == (
            "data/augment/images.csv and data/acquire/photos.csv name other photos; "
            "`dvc repro --force --single-item augment` writes it anew"
        )
