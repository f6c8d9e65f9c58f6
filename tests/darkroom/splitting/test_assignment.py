from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darkroom.pipeline.dataset import ImageRow, PhotoRow
from darkroom.pipeline.paths import SUBSETS
from darkroom.pipeline.stage import StageError
from darkroom.splitting import assignment
from darkroom.splitting.assignment import assign_groups, assign_subsets, fix_subsets, list_absent, subset_sizes
from darkroom.splitting.audit import audit_subsets
from darkroom.splitting.duplicates import DuplicatePair
from darkroom.splitting.groups import close_groups
from stages.split import list_subset_rows
from tests.examples import photo_row

Photos = list[tuple[str, str]]  # (label, group) of each photo

fractions = st.floats(0.05, 0.4)
seeds = st.integers(0, 1000)


@st.composite
def single_photos(draw: st.DrawFn) -> Photos:
    """Photos of some classes, each photo a group of its own."""
    counts = draw(st.dictionaries(st.sampled_from("abcd"), st.integers(3, 60), min_size=1))
    return [(label, f"{label}{number}") for label, count in counts.items() for number in range(count)]


@st.composite
def grouped_photos(draw: st.DrawFn) -> Photos:
    """Photos of some classes in groups of up to six, at least three groups per class."""
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
    """Twenty single photos of each of two classes, and some groups with photos of both."""
    shared = draw(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["shared 1", "shared 2"])), max_size=10))
    return [(label, f"{label}{number}") for label in "ab" for number in range(20)] + shared


@st.composite
def tangled_photos(draw: st.DrawFn) -> Photos:
    """Photos of up to three classes in groups of any size and mixture."""
    return draw(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 40).map(str)), min_size=30, max_size=80))


class RelatedPhotos(NamedTuple):
    """Photos related in every way, and the predefined subsets of some of them."""

    photos: list[PhotoRow]
    pairs: list[DuplicatePair]
    given: list[str]


@st.composite
def related_photos(draw: st.DrawFn, subsets: Sequence[str] = ("",)) -> RelatedPhotos:
    """Thirty to sixty photos of two classes; some have a creator, some are the same file, some are near duplicates."""
    rows = st.tuples(
        st.sampled_from("ab"),
        st.integers(0, 200),
        st.sampled_from(["", "", "", "", "", "", *"klmnop"]),
        st.sampled_from(subsets),
    )
    drawn = draw(st.lists(rows, min_size=30, max_size=60))
    photos = [
        photo_row(f"photo-{number}", label, sha256=f"{digest:03}", creator=creator, given_subset=subset)
        for number, (label, digest, creator, subset) in enumerate(drawn)
    ]
    indices = st.integers(0, len(photos) - 1)
    ends = draw(st.sets(st.tuples(indices, indices).filter(lambda pair: pair[0] < pair[1]), max_size=10))
    pairs = [DuplicatePair(*pair, "near", 0.995) for pair in sorted(ends)]
    return RelatedPhotos(photos, pairs, [row.given_subset for row in photos])


def assign(
    photos: Photos,
    validation_fraction: float = 0.15,
    test_fraction: float = 0.2,
    seed: int = 0,
    given: Sequence[str] | None = None,
) -> list[str]:
    labels, groups = zip(*photos, strict=True)
    return assign_subsets(labels, groups, validation_fraction, test_fraction, seed, given or [""] * len(photos))


def try_assign(photos: Photos, *arguments: object, **values: object) -> list[str]:
    """Assign photos; return [] if there are too few groups for three subsets."""
    try:
        return assign(photos, *arguments, **values)
    except StageError:
        return []


def divided(groups: Sequence[str], subsets: Sequence[str]) -> set[str]:
    """The groups with photos in two subsets."""
    counts = Counter(group for group, _ in set(zip(groups, subsets, strict=True)))
    return {group for group, count in counts.items() if count > 1}


def sizes_of(count: int, validation_fraction: float, test_fraction: float) -> dict[str, int]:
    return subset_sizes(count, {"validation": validation_fraction, "test": test_fraction})


class TestAssignment:
    @given(single_photos() | grouped_photos() | mixed_photos(), fractions, fractions, seeds)
    @settings(deadline=None, max_examples=100)
    def test_no_group_is_divided(
        self, photos: Photos, validation_fraction: float, test_fraction: float, seed: int
    ) -> None:
        subsets = assign(photos, validation_fraction, test_fraction, seed)
        assert set(subsets) == set(SUBSETS)
        assert divided([group for _, group in photos], subsets) == set()

    @given(tangled_photos(), fractions, fractions, seeds)
    @settings(deadline=None, max_examples=200)
    def test_no_group_is_divided_however_tangled(
        self, photos: Photos, validation_fraction: float, test_fraction: float, seed: int
    ) -> None:
        subsets = try_assign(photos, validation_fraction, test_fraction, seed)
        assert divided([group for _, group in photos[: len(subsets)]], subsets) == set()

    @given(single_photos(), fractions, fractions, seeds)
    @settings(deadline=None, max_examples=60)
    def test_single_photos_of_a_label_get_their_fractions_exactly(
        self, photos: Photos, validation_fraction: float, test_fraction: float, seed: int
    ) -> None:
        subsets = assign(photos, validation_fraction, test_fraction, seed)
        counts = Counter((label, subset) for (label, _), subset in zip(photos, subsets, strict=True))
        for label, count in Counter(label for label, _ in photos).items():
            sizes = sizes_of(count, validation_fraction, test_fraction)
            assert {subset: counts[label, subset] for subset in SUBSETS} == sizes

    @given(grouped_photos(), fractions, fractions, seeds)
    @settings(deadline=None, max_examples=200)
    def test_three_groups_of_a_label_suffice_and_sizes_are_exceeded_by_less_than_the_largest_group(
        self, photos: Photos, validation_fraction: float, test_fraction: float, seed: int
    ) -> None:
        subsets = assign(photos, validation_fraction, test_fraction, seed)
        assert list_absent([label for label, _ in photos], subsets) == {}
        counts = Counter((label, subset) for (label, _), subset in zip(photos, subsets, strict=True))
        largest = max(Counter(photos).values())
        for label, count in Counter(label for label, _ in photos).items():
            for subset, size in sizes_of(count, validation_fraction, test_fraction).items():
                assert counts[label, subset] - size < largest

    def test_three_photos_with_copies_suffice_for_three_subsets(self) -> None:
        copied = [("a", f"a{number}") for number in range(3) for _ in range(2)]
        subsets = assign(copied + [("b", f"b{number}") for number in range(9)])
        assert set(subsets[:6]) == set(SUBSETS)

    @given(mixed_photos(), fractions, fractions, seeds)
    @settings(deadline=None, max_examples=60)
    def test_no_subset_exceeds_its_size_by_more_than_the_shared_groups(
        self, photos: Photos, validation_fraction: float, test_fraction: float, seed: int
    ) -> None:
        subsets = assign(photos, validation_fraction, test_fraction, seed)
        counts = Counter((label, subset) for (label, _), subset in zip(photos, subsets, strict=True))
        shared = len(photos) - 40
        for label, count in Counter(label for label, _ in photos).items():
            for subset, size in sizes_of(count, validation_fraction, test_fraction).items():
                assert counts[label, subset] <= size + shared

    @pytest.mark.parametrize("seed", range(5))
    def test_a_large_group_beside_single_photos_does_not_change_the_sizes(self, seed: int) -> None:
        photos = [("a", "large")] * 20 + [("a", f"a{number}") for number in range(20)]
        assert Counter(assign(photos, 0.15, 0.2, seed)) == {"train": 26, "validation": 6, "test": 8}

    @given(single_photos() | mixed_photos(), seeds, st.randoms(use_true_random=False))
    @settings(deadline=None, max_examples=60)
    def test_the_order_of_the_photos_does_not_matter(self, photos: Photos, seed: int, random) -> None:
        order = list(range(len(photos)))
        random.shuffle(order)
        subsets = assign(photos, seed=seed)
        assert assign([photos[index] for index in order], seed=seed) == [subsets[index] for index in order]

    @given(single_photos() | mixed_photos(), seeds)
    @settings(deadline=None, max_examples=30)
    def test_the_same_seed_gives_the_same_subsets(self, photos: Photos, seed: int) -> None:
        assert assign(photos, seed=seed) == assign(photos, seed=seed)

    def test_other_seeds_give_other_subsets(self) -> None:
        photos = [(label, f"{label}{number}") for label in "ab" for number in range(30)]
        assert len({tuple(assign(photos, seed=seed)) for seed in range(10)}) == 10

    def test_every_photo_can_get_into_every_subset(self) -> None:
        photos = [("a", f"a{number}") for number in range(6)]
        subsets = [assign(photos, 0.3, 0.3, seed) for seed in range(100)]
        assert all({run[photo] for run in subsets} == set(SUBSETS) for photo in range(6))


class TestAttempts:
    """Classes a and b share groups, so that the order in which groups are assigned decides."""

    # Each case lists groups by the labels of their photos; a valid assignment exists in each case.
    CASES = (
        ("bb", "ab", "ab", "aaa"),
        ("a", "a", "bb", "bb", "ab"),
        ("a", "b", "b", "bab", "aaa"),
        ("a", "b", "b", "abb", "aaa"),
        ("a", "b", "aa", "bb", "ab"),
        ("a", "b", "bb", "bab", "aaa"),
        ("a", "b", "bb", "abb", "aaa"),
        ("b", "b", "ab", "aaa", "aaa"),
        ("b", "b", "aa", "ab", "aaa"),
    )

    @staticmethod
    def photos_of(case: Sequence[str]) -> Photos:
        return [(label, f"group {number}") for number, labels in enumerate(case) for label in labels]

    @pytest.mark.parametrize("case", CASES, ids=" ".join)
    def test_if_the_first_order_fails_another_one_succeeds(
        self, case: Sequence[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        photos = self.photos_of(case)
        for seed in range(30):
            subsets = assign(photos, seed=seed)
            assert list_absent([label for label, _ in photos], subsets) == {}
            assert divided([group for _, group in photos], subsets) == set()
        monkeypatch.setattr(assignment, "ATTEMPTS", 1)
        assert [] in [try_assign(photos, seed=seed) for seed in range(30)]

    def test_a_first_order_that_succeeds_is_used(self, monkeypatch: pytest.MonkeyPatch) -> None:
        photos = self.photos_of(("a", "a", "a", "aa", "ab", "ab", "b", "b", "bb", "bbb"))
        runs = [assign(photos, seed=seed) for seed in range(30)]
        monkeypatch.setattr(assignment, "ATTEMPTS", 1)
        alone = [try_assign(photos, seed=seed) for seed in range(30)]
        assert all(subsets in ([], run) for subsets, run in zip(alone, runs, strict=True))
        assert sum(bool(subsets) for subsets in alone) > 15

    def test_every_attempt_uses_another_order(self) -> None:
        photos = [("a", f"a{number}") for number in range(20)]
        labels, groups = zip(*photos, strict=True)
        drawn = {"validation": 0.2, "test": 0.2}
        orders = {
            tuple(assign_groups(labels, groups, [""] * 20, drawn, [0, attempt], largest_first=bool(attempt % 2)))
            for attempt in range(1, 11)
        }
        assert len(orders) == 10


class TestFixing:
    @pytest.mark.parametrize(
        ("labels", "groups", "given", "fixed"),
        [
            pytest.param("aaa", "123", "---", "---", id="nothing given"),
            pytest.param("aaaa", "1234", "rrtt", "--tt", id="train and test given: validation is drawn from train"),
            pytest.param("aaa", "123", "rrr", "---", id="only train given"),
            pytest.param("aaa", "123", "rt-", "rt-", id="photos without a given subset are drawn, train stays"),
            pytest.param("aabb", "1234", "rtr-", "-tr-", id="by label: none of a is without a given subset"),
            pytest.param("aaaa", "1234", "rvtt", "rvtt", id="all given"),
            pytest.param("aaaa", "1234", "tvt-", "tvtr", id="nothing to draw: the rest is train"),
            pytest.param("aaaa", "1233", "vvt-", "vvtt", id="a copy joins its group if nothing is drawn"),
            pytest.param("aaa", "112", "t--", "tt-", id="a copy goes to test"),
            pytest.param("aaaa", "1123", "r---", "rr--", id="a copy goes to train"),
            pytest.param("aaa", "112", "r--", "---", id="too few others to draw from: train is drawn from too"),
            pytest.param("aaa", "121", "rt-", "-t-", id="a copy of a photo to draw from is drawn with it"),
            pytest.param("aba", "112", "t--", "tt-", id="a copy under another label goes to test"),
            pytest.param("aaaaa", "11112", "ttr--", "ttrt-", id="to the most frequent one of the group, test"),
            pytest.param("aaaaa", "11112", "trr--", "trrr-", id="to the most frequent one of the group, train"),
            pytest.param("aaaaa", "11112", "tr-t-", "trtt-", id="independent of the order in the group"),
            pytest.param(
                "aaabaa", "111123", "rrt-vt", "rrtrvt", id="to the most frequent one, train, if all are given"
            ),
            pytest.param("aab", "111", "rt-", "-tt", id="photos to draw from do not count"),
        ],
    )
    def test_examples(self, labels: str, groups: str, given: str, fixed: str) -> None:
        """A letter per photo: r for train, v for validation, t for test, - for none."""
        names = {"r": "train", "v": "validation", "t": "test", "-": ""}
        assert fix_subsets(labels, groups, [names[letter] for letter in given]) == [names[letter] for letter in fixed]


class TestGiven:
    """Forty photos, the first twenty of class a, some of them with a predefined subset."""

    PHOTOS = tuple((label, f"{label}{number}") for label in "ab" for number in range(20))

    def assign(self, seed: int = 0, **given: tuple[int, ...]) -> list[str]:
        subsets = [""] * len(self.PHOTOS)
        for subset, numbers in given.items():
            for number in numbers:
                subsets[number] = subset
        return assign(list(self.PHOTOS), 0.15, 0.2, seed, subsets)

    @pytest.mark.parametrize("seed", range(5))
    def test_if_test_is_given_validation_is_drawn_from_the_rest(self, seed: int) -> None:
        chosen = (0, 1, 2, 3, 4, 5, 6, 7, 20, 21)
        subsets = self.assign(seed, test=chosen)
        assert {number for number, subset in enumerate(subsets) if subset == "test"} == set(chosen)
        # The fraction applies to the photos that are drawn from: 12 of a, 18 of b.
        assert Counter(zip((label for label, _ in self.PHOTOS), subsets, strict=True)) == {
            **{("a", "test"): 8, ("a", "validation"): 2, ("a", "train"): 10},
            **{("b", "test"): 2, ("b", "validation"): 3, ("b", "train"): 15},
        }

    def test_if_validation_is_given_test_is_drawn_from_the_rest(self) -> None:
        subsets = self.assign(validation=(0, 39))
        assert {number for number, subset in enumerate(subsets) if subset == "validation"} == {0, 39}
        assert Counter(subsets) == {"validation": 2, "test": 8, "train": 30}

    def test_if_train_and_test_are_given_validation_is_drawn_from_train(self) -> None:
        train = tuple(range(2, 20)) + tuple(range(22, 40))
        runs = [self.assign(seed, train=train, test=(0, 1, 20, 21)) for seed in range(40)]
        assert all(Counter(subsets) == {"test": 4, "validation": 6, "train": 30} for subsets in runs)
        assert {subsets[number] for subsets in runs for number in train} == {"train", "validation"}

    def test_if_all_are_given_nothing_is_drawn(self) -> None:
        named = {"validation": (0, 1, 20), "test": (2, 21, 22, 23)}
        held_out = {number for numbers in named.values() for number in numbers}
        train = tuple(number for number in range(40) if number not in held_out)
        for seed in range(5):
            subsets = self.assign(seed, train=train, **named)
            assert {
                subset: tuple(number for number in range(40) if subsets[number] == subset) for subset in SUBSETS
            } == {"train": train, **named}

    def test_if_validation_and_test_are_given_the_other_photos_are_train(self) -> None:
        subsets = self.assign(validation=(0, 20), test=(1, 21))
        assert Counter(subsets) == {"validation": 2, "test": 2, "train": 36}

    def test_if_only_train_is_given_it_is_ignored(self) -> None:
        for seed in range(5):
            assert self.assign(seed, train=tuple(range(40))) == self.assign(seed)

    @pytest.mark.parametrize("subset", ["train", "validation", "test"])
    def test_photos_without_a_given_subset_join_their_group(self, subset: str) -> None:
        photos = [*self.PHOTOS, ("a", "shared"), ("a", "shared"), ("b", "shared")]
        given = [""] * 40 + [subset, "", ""]
        given[0] = given[20] = subset
        for seed in range(10):
            assert assign(photos, seed=seed, given=given)[40:] == [subset] * 3

    def test_given_train_photos_stay_train_if_other_photos_can_be_drawn(self) -> None:
        train = (*range(2, 10), *range(22, 30))
        for seed in range(10):
            subsets = self.assign(seed, train=train, test=(0, 1, 20, 21))
            assert {subsets[number] for number in train} == {"train"}
            # The fraction applies to the photos that are drawn from, 10 of each class.
            assert Counter(subsets) == {"test": 4, "validation": 4, "train": 32}

    def test_validation_is_drawn_from_train_for_labels_without_other_photos(self) -> None:
        train = (*range(2, 20), *range(22, 30))
        runs = [self.assign(seed, train=train, test=(0, 1, 20, 21)) for seed in range(20)]
        assert {subsets[number] for subsets in runs for number in range(2, 20)} == {"train", "validation"}
        assert {subsets[number] for subsets in runs for number in range(22, 30)} == {"train"}
        assert {subsets[number] for subsets in runs for number in range(30, 40)} == {"train", "validation"}

    def test_a_group_divided_by_its_source_stays_divided(self) -> None:
        photos = [*self.PHOTOS, ("a", "shared"), ("a", "shared"), ("a", "shared"), ("b", "shared")]
        given = [""] * 40 + ["test", "test", "train", ""]
        for seed in range(10):
            assert assign(photos, seed=seed, given=given)[40:] == ["test", "test", "train", "test"]

    def test_a_group_given_only_to_train_is_not_divided(self) -> None:
        photos = [*self.PHOTOS, ("a", "shared"), ("b", "shared")]
        # Validation is drawn from the given train photos for a, and from the photos without a given subset for b.
        given = ["test"] * 2 + ["train"] * 18 + ["test"] * 2 + ["train"] * 8 + [""] * 10 + ["train"] * 2
        for seed in range(40):
            assert len(set(assign(photos, seed=seed, given=given)[40:])) == 1

    @given(tangled_photos(), st.data(), seeds)
    @settings(deadline=None, max_examples=200)
    def test_given_subsets_are_respected_and_only_the_source_divides_groups(
        self, photos: Photos, data: st.DataObject, seed: int
    ) -> None:
        kinds = st.sampled_from(["", "", "", "train", "test", *data.draw(st.sampled_from([[], ["validation"]]))])
        chosen = data.draw(st.lists(kinds, min_size=len(photos), max_size=len(photos)))
        subsets = try_assign(photos, seed=seed, given=chosen)
        if not subsets:
            return
        given_to_group: dict[str, set[str]] = {group: set() for _, group in photos}
        for (_, group), subset, wanted in zip(photos, subsets, chosen, strict=True):
            given_to_group[group] |= {wanted} - {""}
            if wanted in ("validation", "test"):
                assert subset == wanted
            elif wanted == "train":
                assert subset == "train" or subset not in chosen
        for group in divided([group for _, group in photos], subsets):
            assert len(given_to_group[group]) > 1
        for (_, group), subset, wanted in zip(photos, subsets, chosen, strict=True):
            if not wanted and given_to_group[group] & {"validation", "test"}:
                assert subset in given_to_group[group]

    def test_a_label_missing_from_a_given_subset_is_rejected(self) -> None:
        with pytest.raises(
            StageError,
            match=r": b \(20 photo\(s\) in 20 group\(s\)\) is missing from test \(predefined by the source\); add ",
        ):
            self.assign(test=(0, 1))

    def test_the_error_marks_predefined_subsets(self) -> None:
        photos = [*self.PHOTOS, ("rare", "rare")]
        with pytest.raises(
            StageError,
            match=r": rare \(1 photo\(s\) in 1 group\(s\)\) is missing from "
            r"(train|validation), test \(predefined by the source\); add ",
        ):
            assign(photos, given=["test", *[""] * 19] * 2 + [""])


class TestGroupsEndToEnd:
    """From related photos to row numbers: no group has rows in two subsets."""

    @staticmethod
    def split(drawn: RelatedPhotos, seed: int) -> tuple[list[ImageRow], dict[str, str], dict[int, str]] | None:
        photos, pairs, chosen = drawn
        groups = close_groups(photos, pairs, creators_together=True)
        variants = [(0.0, "none"), (90.0, "none"), (0.0, "horizontal")]
        index = [ImageRow(row.photo, row.label, *variant) for row in photos for variant in variants]
        subsets = try_assign(
            [(row.label, group) for row, group in zip(photos, groups, strict=True)], seed=seed, given=chosen
        )
        if not subsets:
            return None
        rows = list_subset_rows(index, {row.photo: subset for row, subset in zip(photos, subsets, strict=True)})
        group_of = {row.photo: group for row, group in zip(photos, groups, strict=True)}
        located = {number: subset for subset, numbers in rows.items() for number in numbers.tolist()}
        assert sum(map(len, rows.values())) == len(located), "a row is in two subsets"
        return index, group_of, located

    @given(related_photos(), seeds)
    @settings(deadline=None, max_examples=200)
    def test_no_group_has_rows_in_two_subsets(self, drawn: RelatedPhotos, seed: int) -> None:
        outcome = self.split(drawn, seed)
        if outcome is None:
            return
        index, group_of, located = outcome
        assert divided([group_of[index[number].photo] for number in located], list(located.values())) == set()
        for pair in drawn.pairs:
            sides = {drawn.photos[pair.first].photo, drawn.photos[pair.second].photo}
            assert len({subset for number, subset in located.items() if index[number].photo in sides}) == 1
        for key in ("sha256", "creator"):
            values = {row.photo: getattr(row, key) for row in drawn.photos if getattr(row, key)}
            known = {number: values[index[number].photo] for number in located if index[number].photo in values}
            assert divided(list(known.values()), [located[number] for number in known]) == set()

    @given(related_photos(("", "", "train", "test")), seeds)
    @settings(deadline=None, max_examples=200)
    def test_only_the_source_may_divide_a_group_and_the_audit_passes(self, drawn: RelatedPhotos, seed: int) -> None:
        outcome = self.split(drawn, seed)
        if outcome is None:
            return
        index, group_of, located = outcome
        wanted = {row.photo: row.given_subset for row in drawn.photos}
        given_to_group = {
            name: {wanted[photo] for photo, group in group_of.items() if group == name} - {""}
            for name in group_of.values()
        }
        for number, subset in located.items():
            photo = index[number].photo
            assert subset == "test" or wanted[photo] != "test"
            # A copy of a test photo without a predefined subset is not trained on.
            assert subset == "test" or wanted[photo] or given_to_group[group_of[photo]] != {"test"}
        groups = [group_of[index[number].photo] for number in located]
        assert all(len(given_to_group[group]) > 1 for group in divided(groups, list(located.values())))
        rows = {
            name: np.array([number for number, subset in located.items() if subset == name], np.int64)
            for name in SUBSETS
        }
        audited = audit_subsets(rows, index, drawn.photos, drawn.pairs, list(group_of.values()), drawn.given)
        assert len(audited) == len(drawn.pairs)


class TestSizes:
    @given(st.integers(3, 5000), fractions, fractions)
    @settings(deadline=None, max_examples=100)
    def test_sizes_add_up_and_leave_no_subset_empty(
        self, count: int, validation_fraction: float, test_fraction: float
    ) -> None:
        sizes = sizes_of(count, validation_fraction, test_fraction)
        assert tuple(sizes) == SUBSETS
        assert sum(sizes.values()) == count
        assert min(sizes.values()) >= 1

    @given(st.integers(40, 5000), fractions, fractions)
    @settings(deadline=None, max_examples=100)
    def test_sizes_are_as_near_the_fractions_as_whole_photos_allow(
        self, count: int, validation_fraction: float, test_fraction: float
    ) -> None:
        sizes = sizes_of(count, validation_fraction, test_fraction)
        assert abs(sizes["validation"] - count * validation_fraction) <= 0.5
        assert abs(sizes["test"] - count * test_fraction) <= 0.5

    @pytest.mark.parametrize(
        ("count", "fractions", "sizes"),
        [
            (100, {"validation": 0.15, "test": 0.2}, {"train": 65, "validation": 15, "test": 20}),
            (3, {"validation": 0.15, "test": 0.2}, {"train": 1, "validation": 1, "test": 1}),
            (3, {"validation": 0.9, "test": 0.05}, {"train": 1, "validation": 1, "test": 1}),
            (10, {"validation": 0.01, "test": 0.01}, {"train": 8, "validation": 1, "test": 1}),
            (10, {"validation": 0.5, "test": 0.49}, {"train": 1, "validation": 4, "test": 5}),
            (20, {"validation": 0.15}, {"train": 17, "validation": 3}),
            (2, {"test": 0.9}, {"train": 1, "test": 1}),
            (7, {}, {"train": 7}),
        ],
    )
    def test_examples(self, count: int, fractions: Mapping[str, float], sizes: Mapping[str, int]) -> None:
        assert list(subset_sizes(count, fractions).items()) == list(sizes.items())


class TestErrors:
    @pytest.mark.parametrize("count", [1, 2])
    def test_a_label_with_too_few_photos_is_rejected(self, count: int) -> None:
        photos = [("rare", f"r{number}") for number in range(count)] + [("b", f"b{number}") for number in range(10)]
        with pytest.raises(StageError) as caught:
            assign(photos)
        message = str(caught.value)
        assert message.startswith("every class needs photos in train, validation and test: ")
        assert f"rare ({count} photo(s) in {count} group(s)) is missing from " in message
        assert message.endswith(
            "; add different photos of the class (at least three), leave it out with acquire.classes, increase "
            "split.validation_fraction or split.test_fraction, or group fewer photos together "
            "(split.creators_together, split.given_subsets, split.near_duplicate_similarity)"
        )

    def test_copies_of_a_photo_count_as_one(self) -> None:
        photos = [("copied", "one and the same")] * 8 + [("b", f"b{number}") for number in range(10)]
        with pytest.raises(
            StageError, match=r"copied \(8 photo\(s\) in 1 group\(s\)\) is missing from validation, test; add different"
        ):
            assign(photos)

    def test_all_labels_that_are_missing_are_named(self) -> None:
        photos = [("a", "a0"), ("c", "c0")] + [("b", f"b{number}") for number in range(10)]
        with pytest.raises(
            StageError,
            match=r": a \(1 photo\(s\) in 1 group\(s\)\) is missing from .*; c \(1 photo\(s\) in 1 group\(s\)\) is",
        ):
            assign(photos)
