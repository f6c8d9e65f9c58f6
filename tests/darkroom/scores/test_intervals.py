import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from darkroom.scores.intervals import accuracy_interval, design_effect, few_groups_factor, wilson_interval
from tests.examples import name_groups


class TestWilson:
    @pytest.mark.parametrize(
        ("correct", "total", "low", "high"),
        [
            (81, 263, 0.2553, 0.3662),
            (15, 148, 0.0624, 0.1605),
            (0, 20, 0.0, 0.1611),
            (1, 29, 0.0061, 0.1718),
        ],
    )
    def test_it_matches_newcombe_1998(self, correct: int, total: int, low: float, high: float) -> None:
        """R. G. Newcombe, Two-sided confidence intervals for the single proportion, table I, method 3."""
        assert wilson_interval(correct / total, total, 0.95) == pytest.approx((low, high), abs=5e-5)

    @given(st.integers(1, 500), st.floats(0, 1), st.floats(0.5, 0.999))
    @settings(deadline=None, max_examples=100)
    def test_it_matches_wilsons_formula(self, total: int, share: float, confidence_level: float) -> None:
        z = normal_quantile(0.5 + confidence_level / 2)
        accuracy = round(share * total) / total
        middle = (accuracy + z**2 / (2 * total)) / (1 + z**2 / total)
        half = z / (1 + z**2 / total) * math.sqrt(accuracy * (1 - accuracy) / total + z**2 / (4 * total**2))
        interval = wilson_interval(accuracy, total, confidence_level)
        assert interval == pytest.approx((middle - half, middle + half), abs=1e-9)
        assert 0 <= interval.low <= accuracy <= interval.high <= 1

    @pytest.mark.parametrize("total", [0.3, 1, 2.5, 7, 30, 12345.6])
    @pytest.mark.parametrize("confidence_level", [0.5, 0.9, 0.95, 0.999])
    def test_0_and_1_are_exact_limits(self, total: float, confidence_level: float) -> None:
        none, every = (wilson_interval(share, total, confidence_level) for share in (0, 1))
        assert (none.low, every.high) == (0, 1)
        assert 0 < none.high < 1
        assert every.low == pytest.approx(1 - none.high)


def normal_quantile(probability: float) -> float:
    """By bisection of the error function."""
    low, high = -10.0, 10.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if (1 + math.erf(middle / math.sqrt(2))) / 2 < probability else (low, middle)
    return low


def mark_correct(count: int, total: int) -> npt.NDArray[np.bool_]:
    """Mark the first `count` of `total` photos as correct."""
    return np.arange(total) < count


class TestDesignEffect:
    @given(st.lists(st.booleans(), min_size=1, max_size=60))
    @settings(deadline=None, max_examples=100)
    def test_ungrouped_photos_have_an_effect_of_1(self, correct: list[bool]) -> None:
        assert design_effect(np.array(correct), name_groups(np.ones(len(correct), int)), (0, 1)) == pytest.approx(1)

    @pytest.mark.parametrize("correct", [[True], [True, False, True], [False] * 9])
    def test_a_single_group_counts_as_one_photo(self, correct: list[bool]) -> None:
        assert design_effect(np.array(correct), ["a"] * len(correct), (0, 1)) == len(correct)

    @pytest.mark.parametrize("size", [2, 5, 8])
    def test_groups_of_photos_that_agree_count_as_one_photo_each(self, size: int) -> None:
        correct = np.random.default_rng(size).random(400) < 0.7
        assert design_effect(correct.repeat(size), name_groups([size] * 400), (0, 1)) == pytest.approx(size, rel=0.01)

    @given(st.lists(st.tuples(st.sampled_from("abcdef"), st.booleans()), min_size=1, max_size=60))
    @settings(deadline=None, max_examples=200)
    def test_it_is_never_below_1_and_never_above_the_number_of_photos(self, photos: list[tuple[str, bool]]) -> None:
        groups, correct = zip(*photos, strict=True)
        assert 1 <= design_effect(np.array(correct), groups, (0, 1)) <= len(photos)

    def test_negative_correlation_within_groups_does_not_make_it_less_than_1(self) -> None:
        assert design_effect(np.array([1, 0] * 50), name_groups([2] * 50), (0, 1)) == 1

    def test_one_more_mistake_does_not_make_the_interval_jump(self) -> None:
        groups = name_groups([10] * 10)
        lows = [accuracy_interval(mark_correct(correct, 100), groups, 0.95).low for correct in range(80, 101)]
        assert np.abs(np.diff(lows)).max() < 0.1


class TestFewGroups:
    def test_ungrouped_photos_have_a_factor_of_1(self) -> None:
        assert few_groups_factor(np.ones(7, np.int64), 0.95) == 1

    def test_groups_of_one_size_follow_students_t(self) -> None:
        # 97.5% quantiles from any table: 2.262 with 9 degrees of freedom, 1.984 with 99.
        factor = few_groups_factor(np.full(10, 10), 0.95)
        assert factor == pytest.approx((1.984 / 2.262) ** 2, rel=1e-3)

    def test_one_group_with_most_of_the_photos_counts_as_few_groups(self) -> None:
        even, uneven = np.full(50, 2), np.array([51, *[1] * 49])
        assert few_groups_factor(uneven, 0.95) < 0.5 < few_groups_factor(even, 0.95)


class TestAccuracy:
    @given(st.integers(1, 200), st.floats(0, 1), st.floats(0.5, 0.999), st.randoms(use_true_random=False))
    @settings(deadline=None, max_examples=100)
    def test_it_is_wilsons_if_each_photo_is_a_separate_group(
        self, total: int, share: float, confidence_level: float, random: np.random.Generator
    ) -> None:
        correct = list(mark_correct(round(share * total), total))
        groups = name_groups(np.ones(total, int))
        random.shuffle(correct)
        random.shuffle(groups)
        expected = wilson_interval(round(share * total) / total, total, confidence_level)
        assert accuracy_interval(np.array(correct), groups, confidence_level) == pytest.approx(expected)

    def test_the_order_of_the_photos_does_not_matter(self) -> None:
        random = np.random.default_rng(1)
        groups = np.array(name_groups(random.integers(1, 9, 40)))
        correct = random.random(len(groups)) < 0.8
        order = random.permutation(len(groups))
        shuffled = accuracy_interval(correct[order], list(groups[order]), 0.95)
        assert shuffled == pytest.approx(accuracy_interval(correct, list(groups), 0.95))

    @pytest.mark.parametrize("count", [5, 10, 15, 19])
    @pytest.mark.parametrize("size", [2, 5])
    def test_it_is_wider_if_photos_of_a_group_agree(self, count: int, size: int) -> None:
        correct = mark_correct(count, 20).repeat(size)
        alone = accuracy_interval(correct, name_groups(np.ones(20 * size, int)), 0.95)
        together = accuracy_interval(correct, name_groups([size] * 20), 0.95)
        assert together.low < alone.low < count / 20 < alone.high < together.high
        # About the interval of one photo per group, a little wider because the variance is less certain.
        single = wilson_interval(count / 20, 20, 0.95)
        assert together.high - together.low == pytest.approx(single.high - single.low, rel=0.1)

    @pytest.mark.parametrize("is_correct", [True, False])
    def test_if_all_photos_are_correct_or_wrong_groups_still_widen_the_interval(self, is_correct: bool) -> None:
        correct = np.full(60, is_correct)
        alone, pairs, one = (
            accuracy_interval(correct, name_groups(sizes), 0.95) for sizes in (np.ones(60, int), [2] * 30, [60])
        )
        if not is_correct:  # the complement: the interval of the error rate
            alone, pairs, one = (type(alone)(1 - interval.high, 1 - interval.low) for interval in (alone, pairs, one))
        assert alone.high == pairs.high == one.high == 1
        assert one.low < pairs.low < alone.low
        assert one.low < 0.05

    def test_a_single_photo_says_little(self) -> None:
        assert accuracy_interval(np.array([True]), ["a"], 0.95) == pytest.approx(wilson_interval(1, 1, 0.95))


@pytest.mark.slow
class TestCoverage:
    """How often the 95% interval covers the accuracy that the photos are drawn with."""

    @pytest.mark.parametrize("accuracy", [0.5, 0.7, 0.9, 0.97])
    @pytest.mark.parametrize("photos", [30, 100, 400])
    def test_of_independent_photos(self, accuracy: float, photos: int) -> None:
        groups = name_groups(np.ones(photos, int))
        coverage = 0.0
        for correct in range(photos + 1):  # every outcome, weighted by its probability
            interval = accuracy_interval(mark_correct(correct, photos), groups, 0.95)
            if interval.low <= accuracy <= interval.high:
                coverage += float(binom.pmf(correct, photos, accuracy))
        assert 0.925 < coverage < 0.98

    @pytest.mark.parametrize(
        ("accuracy", "photos"),
        [(0.5, 100), (0.5, 400), (0.7, 30), (0.7, 100), (0.9, 100), (0.9, 400), (0.97, 400)],
    )
    def test_of_groups_with_correlated_photos(self, accuracy: float, photos: int) -> None:
        by_group, by_photo = measure_coverage(accuracy, photos)
        assert by_group >= 0.93
        assert by_photo < 0.85

    @pytest.mark.parametrize("accuracy", [0.7, 0.9])
    def test_of_one_large_group_and_many_ungrouped_photos(self, accuracy: float) -> None:
        random = np.random.default_rng(6)
        groups = name_groups([50, *[1] * 50])
        covered = 0
        for _ in range(400):
            correct = (random.random(51) < accuracy).repeat([50, *[1] * 50])
            interval = accuracy_interval(correct, groups, 0.95)
            covered += interval.low <= accuracy <= interval.high
        assert covered / 400 >= 0.93


def measure_coverage(accuracy: float, photos: int, trials: int = 1000, correlation: float = 0.8) -> tuple[float, float]:
    """Draw groups of 1 to 8 photos, each group with its own accuracy from a beta distribution, so that photos of a
    group have this correlation; return how often the interval by group, and Wilson's by photo, cover `accuracy`."""
    random = np.random.default_rng([photos, round(accuracy * 100)])
    covered = np.zeros(2)
    for _ in range(trials):
        members = np.repeat(np.arange(photos), random.integers(1, 9, photos))[:photos]
        strength = 1 / correlation - 1
        of_groups = random.beta(accuracy * strength, (1 - accuracy) * strength, photos)
        correct = random.random(photos) < of_groups[members]
        intervals = accuracy_interval(correct, members, 0.95), wilson_interval(float(correct.mean()), photos, 0.95)
        covered += [interval.low <= accuracy <= interval.high for interval in intervals]
    by_group, by_photo = covered / trials
    return float(by_group), float(by_photo)
