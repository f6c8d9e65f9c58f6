from collections.abc import Sequence
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darkroom.pipeline.dataset import ImageRow, SubsetRow
from darkroom.pipeline.paths import SUBSETS
from darkroom.pipeline.stage import StageError
from darkroom.splitting.audit import (
    ClassCount,
    DuplicateRow,
    audit_subsets,
    cluster_duplicates,
    count_classes,
    count_split,
    locate_photos,
    report_split,
)
from darkroom.splitting.duplicates import DuplicatePair
from tests.examples import photo_row

INDEX = [ImageRow(photo, "cat", 0, flip) for photo in ("cat-1", "cat-2", "cat-3") for flip in ("none", "horizontal")]


def rows_of(**numbers: list[int]) -> dict[str, np.ndarray]:
    return {subset: np.array(chosen, np.int64) for subset, chosen in numbers.items()}


def duplicate(
    photo: str, subset: str, other: str, other_subset: str, kind: str = "near", labels: tuple[str, str] = ("cat", "cat")
) -> DuplicateRow:
    return DuplicateRow(photo, labels[0], subset, other, labels[1], other_subset, kind, 0.99)


class TestLocation:
    def test_a_photo_is_in_the_subset_of_its_rows(self) -> None:
        rows = rows_of(train=[2, 3], validation=[4], test=[0])
        assert locate_photos(rows, INDEX) == {"cat-1": "test", "cat-2": "train", "cat-3": "validation"}

    def test_a_photo_without_rows_is_in_no_subset(self) -> None:
        assert locate_photos(rows_of(train=[2, 3], validation=[], test=[0]), INDEX) == {
            "cat-1": "test",
            "cat-2": "train",
        }

    def test_photos_with_rows_in_two_subsets_are_named(self) -> None:
        with pytest.raises(StageError) as caught:
            locate_photos(rows_of(train=[5, 2, 3], validation=[4, 1], test=[0]), INDEX)
        assert str(caught.value) == "rows of the same photo are in two subsets: cat-1, cat-3"

    @given(st.permutations(range(30)), st.integers(1, 28), st.integers(1, 28))
    @settings(deadline=None, max_examples=60)
    def test_any_divided_photo_is_detected(self, order: list[int], one: int, other: int) -> None:
        index = [ImageRow(f"cat-{number // 3}", "cat", 0, "none") for number in range(30)]
        cuts = sorted((one, other))
        rows = rows_of(train=order[: cuts[0]], validation=order[cuts[0] : cuts[1]], test=order[cuts[1] :])
        subset_of_row = {number: subset for subset, numbers in rows.items() for number in numbers.tolist()}
        whole = all(len({subset_of_row[3 * photo + row] for row in range(3)}) == 1 for photo in range(10))
        if whole:
            assert len(locate_photos(rows, index)) == 10
        else:
            with pytest.raises(StageError, match="^rows of the same photo are in two subsets: "):
                locate_photos(rows, index)


class TestAudit:
    """Three photos of two images each; cat-2 and cat-3 are duplicates of cat-1."""

    PHOTOS = (photo_row("cat-1"), photo_row("cat-2", "dog"), photo_row("cat-3"))
    PAIR = DuplicatePair(0, 1, "exact", 1.0)
    OTHER_PAIR = DuplicatePair(0, 2, "near", 0.9912)

    def audit(
        self,
        subsets: Sequence[str],
        pairs: Sequence[DuplicatePair] = (PAIR, OTHER_PAIR),
        groups: str = "xxx",
        given: Sequence[str] = ("", "", ""),
    ) -> list[DuplicateRow]:
        """Audit the rows of the photos' subsets: every variant in train, only originals elsewhere."""
        rows = {
            name: np.array(
                [
                    number
                    for number, row in enumerate(INDEX)
                    if subsets[number // 2] == name and (name == "train" or row.is_original)
                ],
                np.int64,
            )
            for name in SUBSETS
        }
        return audit_subsets(rows, INDEX, self.PHOTOS, pairs, groups, given)

    @pytest.mark.parametrize("subset", SUBSETS)
    def test_pairs_within_a_subset_become_rows_with_both_sides(self, subset: str) -> None:
        assert self.audit([subset] * 3) == [
            DuplicateRow("cat-1", "cat", subset, "cat-2", "dog", subset, "exact", 1.0),
            DuplicateRow("cat-1", "cat", subset, "cat-3", "cat", subset, "near", 0.9912),
        ]

    def test_without_pairs_there_are_no_rows(self) -> None:
        assert self.audit(SUBSETS, pairs=(), groups="xyz") == []

    def test_pairs_in_two_subsets_are_rejected_with_a_line_each(self) -> None:
        with pytest.raises(StageError) as caught:
            self.audit(["train", "test", "validation"])
        assert str(caught.value).splitlines() == [
            "2 pair(s) of duplicate photos are in two subsets, which would inflate the scores; "
            "remove one photo of each pair:",
            "cat-1 in train, cat-2 in test (exact)",
            "cat-1 in train, cat-3 in validation (near)",
        ]

    def test_an_exact_copy_in_test_is_rejected_beside_a_pair_that_stays_together(self) -> None:
        with pytest.raises(StageError, match=r"^1 pair\(s\) .*:\ncat-1 in train, cat-2 in test \(exact\)$"):
            self.audit(["train", "test", "train"])

    def test_all_pairs_are_named(self) -> None:
        photos = [photo_row(f"cat-{number}") for number in range(60)]
        index = [ImageRow(row.photo, row.label, 0, "none") for row in photos]
        pairs = [DuplicatePair(number, number + 30, "near", 0.99) for number in range(30)]
        rows = rows_of(train=list(range(30)), validation=[], test=list(range(30, 60)))
        with pytest.raises(StageError) as caught:
            audit_subsets(rows, index, photos, pairs, ["x"] * 60, [""] * 60)
        assert str(caught.value).splitlines()[1:] == [
            f"cat-{number} in train, cat-{number + 30} in test (near)" for number in range(30)
        ]

    @pytest.mark.parametrize("subsets", [("train", "test", "train"), ("test", "train", "train")], ids=" ".join)
    @pytest.mark.parametrize(
        "given",
        [("", "test", ""), ("test", "", ""), ("train", "", ""), ("test", "test", "test"), ("train", "train", "train")],
        ids=str,
    )
    def test_one_given_subset_does_not_permit_a_leak(self, subsets: tuple[str, ...], given: tuple[str, ...]) -> None:
        with pytest.raises(StageError, match=r"^[12] pair\(s\) of duplicate photos are in two subsets"):
            self.audit(subsets, given=given)

    @pytest.mark.parametrize(
        "given", [("train", "test", ""), ("train", "test", "test"), ("validation", "test", ""), ("train", "", "test")]
    )
    def test_a_group_with_two_given_subsets_is_listed_and_not_rejected(self, given: tuple[str, ...]) -> None:
        assert self.audit(["train", "test", "train"], given=given) == [
            DuplicateRow("cat-1", "cat", "train", "cat-2", "dog", "test", "exact", 1.0),
            DuplicateRow("cat-1", "cat", "train", "cat-3", "cat", "train", "near", 0.9912),
        ]

    def test_two_given_subsets_permit_leaks_only_in_their_own_group(self) -> None:
        photos = [photo_row(f"cat-{number}") for number in range(4)]
        index = [ImageRow(row.photo, row.label, 0, "none") for row in photos]
        pairs = [DuplicatePair(0, 1, "exact", 1.0), DuplicatePair(2, 3, "exact", 1.0)]
        rows = rows_of(train=[0, 2], validation=[], test=[1, 3])
        with pytest.raises(StageError, match=r"^1 pair\(s\) .*:\ncat-2 in train, cat-3 in test \(exact\)$"):
            audit_subsets(rows, index, photos, pairs, "xxyy", ["train", "test", "", "test"])

    def test_rows_of_one_photo_in_two_subsets_are_rejected(self) -> None:
        rows = rows_of(train=[0, 2, 3], validation=[4], test=[1])
        with pytest.raises(StageError, match=r"^rows of the same photo are in two subsets: cat-1$"):
            audit_subsets(rows, INDEX, self.PHOTOS, [], "xyz", ["train", "test", ""])


class TestClusters:
    @pytest.mark.parametrize("labels", sorted(set(permutations(("cat", "cat", "dog")))), ids=" ".join)
    @pytest.mark.parametrize("pairs", permutations(((0, 1), (1, 2), (0, 2)), 2), ids=str)
    def test_three_duplicates_are_one_conflict(
        self, labels: tuple[str, ...], pairs: tuple[tuple[int, int], ...]
    ) -> None:
        duplicates = [
            duplicate(f"photo-{one}", "train", f"photo-{other}", "train", labels=(labels[one], labels[other]))
            for one, other in pairs
        ]
        ((cluster),) = cluster_duplicates(duplicates)
        assert sorted(cluster) == [("cat", "train"), ("cat", "train"), ("dog", "train")]
        counts = count_split([SubsetRow("photo-0", "cat", "train", "x")], 1, duplicates)
        assert (counts["conflicting_clusters"], counts["leaking_clusters"]) == (1, 0)

    def test_two_copies_in_each_of_two_subsets_are_one_leak(self) -> None:
        duplicates = [
            duplicate("cat-1", "test", "cat-3", "train"),
            duplicate("cat-2", "test", "cat-4", "train"),
            duplicate("cat-1", "test", "cat-2", "test"),
        ]
        ((cluster),) = cluster_duplicates(duplicates)
        assert sorted(cluster) == [("cat", "test")] * 2 + [("cat", "train")] * 2
        counts = count_split([SubsetRow("cat-1", "cat", "test", "x")], 1, duplicates)
        assert (counts["conflicting_clusters"], counts["leaking_clusters"]) == (0, 1)

    def test_separate_clusters_stay_separate(self) -> None:
        duplicates = [
            duplicate("cat-1", "train", "cat-2", "train"),
            duplicate("cat-3", "train", "cat-4", "test"),
            duplicate("cat-5", "test", "dog-1", "test", labels=("cat", "dog")),
        ]
        assert [sorted(cluster) for cluster in cluster_duplicates(duplicates)] == [
            [("cat", "train"), ("cat", "train")],
            [("cat", "test"), ("cat", "train")],
            [("cat", "test"), ("dog", "test")],
        ]

    def test_without_pairs_there_are_no_clusters(self) -> None:
        assert cluster_duplicates([]) == []


class TestFigures:
    def test_the_class_counts(self) -> None:
        labels = ["dog"] * 6 + ["cat"] * 2
        subsets = ["train"] * 3 + ["validation", "test", "test", "train", "validation"]
        assert count_classes(labels, subsets) == [
            ClassCount("cat", 2, 0.25, 1, 1, 0),
            ClassCount("dog", 6, 0.75, 3, 1, 2),
        ]

    def test_the_counts(self) -> None:
        subsets = ["train", "train", "train", "validation", "test", "test"]
        groups = ["a", "a", "a", "b", "c", "b"]
        assigned = [SubsetRow(f"cat-{n}", "cat", *rest) for n, rest in enumerate(zip(subsets, groups, strict=True))]
        duplicates = [
            duplicate("cat-0", "train", "cat-1", "train", "exact"),
            duplicate("cat-1", "train", "cat-2", "train", labels=("cat", "dog")),
            duplicate("cat-3", "validation", "cat-5", "test"),
        ]
        assert count_split(assigned, 12, duplicates) == {
            "train_photos": 3,
            "validation_photos": 1,
            "test_photos": 2,
            "train_images": 12,
            "groups": 3,
            "largest_group": 3,
            "divided_groups": 1,
            "exact_pairs": 1,
            "near_pairs": 2,
            "conflicting_clusters": 1,
            "leaking_clusters": 1,
        }

    def test_a_split_without_duplicates_is_counted(self) -> None:
        counts = count_split([SubsetRow("cat-1", "cat", "train", "a")], 4, [])
        assert counts == dict.fromkeys(counts, 0) | {
            "train_photos": 1,
            "train_images": 4,
            "groups": 1,
            "largest_group": 1,
        }


class TestReport:
    COUNTS = {
        **{"train_photos": 8, "validation_photos": 3, "test_photos": 4, "groups": 12, "divided_groups": 0},
        **{"exact_pairs": 1, "near_pairs": 2, "conflicting_clusters": 0, "leaking_clusters": 0},
    }
    IMAGES = {"train": 16, "validation": 3, "test": 4}
    CLOSING = (
        "split: 12 groups, 1 exact and 2 near-duplicate pairs -> train 8 photos / 16 images, "
        "validation 3 photos / 3 images, test 4 photos / 4 images"
    )
    CONFLICTS = (
        "split: 5 set(s) of exact or near duplicates have different labels: check them in data/split/duplicates.csv, "
        "and remove mislabeled photos from their source"
    )
    DIVIDED = (
        "split: the source's predefined subsets divide 7 group(s) and 6 set(s) of duplicates, which inflates the "
        "scores: see data/split/duplicates.csv; set split.given_subsets to false to draw new subsets"
    )

    @pytest.mark.parametrize(
        ("found", "lines"),
        [
            ({}, []),
            ({"conflicting_clusters": 5}, [CONFLICTS]),
            ({"divided_groups": 7, "leaking_clusters": 6}, [DIVIDED]),
            ({"divided_groups": 7}, [DIVIDED.replace("6 set(s)", "0 set(s)")]),
            ({"conflicting_clusters": 5, "divided_groups": 7, "leaking_clusters": 6}, [CONFLICTS, DIVIDED]),
        ],
        ids=["nothing", "conflicts", "leaks", "creators", "both"],
    )
    def test_each_problem_has_a_line_before_the_closing_one(self, found: dict[str, int], lines: list[str]) -> None:
        assert report_split(self.COUNTS | found, self.IMAGES).splitlines() == [*lines, self.CLOSING]
