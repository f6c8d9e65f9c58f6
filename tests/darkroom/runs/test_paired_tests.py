import itertools

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from darkroom.runs.paired_tests import Cells, Correct, count_cells, difference_interval, mcnemar_p_value, unite_groups
from tests.examples import name_groups

TRIALS = 1000


def fill(both: int, only_first: int, only_second: int, neither: int) -> tuple[Correct, Correct]:
    """Two classifiers with these counts."""
    counts = [both, only_first, only_second, neither]
    first, second = (np.repeat(correct, counts) for correct in ([True, True, False, False], [True, False, True, False]))
    return first, second


def draw_correct(
    random: np.random.Generator, accuracies: tuple[float, float], sizes: npt.ArrayLike, alike: float
) -> tuple[Correct, Correct]:
    """Draw which photos two classifiers get right.

    In half of the groups, both use the same random numbers. In a fraction `alike` of the groups, one random number
    decides all photos.
    """
    members = np.repeat(np.arange(np.size(sizes)), sizes)
    whole = (random.random(np.size(sizes)) < alike)[members]
    draws = [np.where(whole, random.random(np.size(sizes))[members], random.random(len(members))) for _ in range(2)]
    together = (random.random(np.size(sizes)) < 0.5)[members]
    return draws[0] < accuracies[0], np.where(together, draws[0], draws[1]) < accuracies[1]


def test_cells_are_counted() -> None:
    assert count_cells(*fill(4, 3, 2, 1)) == Cells(4, 3, 2, 1)


class TestGroups:
    def test_groups_that_share_a_photo_are_merged(self) -> None:
        united = unite_groups(["a", "a", "b", "c", "d"], ["v", "w", "w", "x", "y"])
        assert united[0] == united[1] == united[2]
        assert len(set(united)) == 3

    def test_names_of_the_two_groupings_are_unrelated(self) -> None:
        assert len(set(unite_groups(["a", "b"], ["b", "a"]))) == 2


class TestMcNemar:
    @given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 5))
    @settings(deadline=None, max_examples=100)
    def test_for_single_photos_it_is_the_binomial_test(self, only_first: int, only_second: int, others: int) -> None:
        first, second = fill(others + 1, only_first, only_second, others)
        found = mcnemar_p_value(first, second, name_groups(np.ones(len(first), int)))
        discordant = only_first + only_second
        expected = binomtest(only_first, discordant, 0.5).pvalue if discordant else 1.0
        assert found == pytest.approx(expected, rel=1e-9)

    @given(st.lists(st.integers(1, 4), min_size=1, max_size=8), st.integers(0, 1000))
    @settings(deadline=None, max_examples=100)
    def test_for_groups_it_counts_all_choices_of_signs(self, sizes: list[int], seed: int) -> None:
        first, second = draw_correct(np.random.default_rng(seed), (0.8, 0.4), sizes, 0.5)
        groups = np.repeat(np.arange(len(sizes)), sizes)
        surplus = [int(first[groups == g].sum()) - int(second[groups == g].sum()) for g in range(len(sizes))]
        sums = [abs(np.dot(signs, surplus)) for signs in itertools.product((1, -1), repeat=len(sizes))]
        assert mcnemar_p_value(first, second, name_groups(sizes)) == pytest.approx(
            np.mean(np.array(sums) >= abs(sum(surplus)))
        )

    def test_photos_of_a_group_are_not_independent_evidence(self) -> None:
        first, second = fill(0, 12, 0, 0)
        assert mcnemar_p_value(first, second, name_groups([1] * 12)) == pytest.approx(2 / 2**12)
        assert mcnemar_p_value(first, second, name_groups([4] * 3)) == pytest.approx(2 / 2**3)
        assert mcnemar_p_value(first, second, name_groups([12])) == 1

    def test_equal_results_give_1(self) -> None:
        first, _ = fill(5, 3, 0, 0)
        assert mcnemar_p_value(first, first, name_groups([2] * 4)) == 1

    def test_small_values_are_exact(self) -> None:
        first, second = fill(0, 240, 0, 0)
        assert mcnemar_p_value(first, second, name_groups([1, 3] * 60)) == pytest.approx(2 / 2**120, rel=1e-9)

    def test_it_works_for_many_photos(self) -> None:
        sizes = [1, 3] * 5000
        first, second = draw_correct(np.random.default_rng(1), (0.51, 0.5), sizes, 0)
        p_value = mcnemar_p_value(first, second, name_groups(sizes))
        low, high = difference_interval(first, second, name_groups(sizes), 1 - p_value)
        assert 0.001 < p_value < 0.2
        assert min(abs(low), abs(high)) < 0.0003  # the test and the interval agree


class TestInterval:
    def test_it_equals_a_published_value(self) -> None:
        """The example of ci.prop.ps in D. G. Bonett's R package statpsych."""
        first, second = fill(6, 26, 4, 12)
        interval = difference_interval(first, second, name_groups(np.ones(48, int)), 0.95)
        assert interval == pytest.approx((0.2548067, 0.6251933), abs=5e-8)

    def test_swapping_the_classifiers_negates_it(self) -> None:
        first, second = fill(6, 26, 4, 12)
        groups = name_groups([2] * 24)
        low, high = difference_interval(first, second, groups, 0.9)
        assert difference_interval(second, first, groups, 0.9) == pytest.approx((-high, -low))

    def test_it_stays_between_minus_1_and_1(self) -> None:
        first, second = fill(0, 3, 0, 0)
        assert difference_interval(first, second, name_groups([1] * 3), 0.95).high == 1
        assert difference_interval(second, first, name_groups([1] * 3), 0.95).low == -1

    def test_a_single_group_gives_the_whole_range(self) -> None:
        first, second = fill(2, 3, 1, 0)
        assert difference_interval(first, second, name_groups([6]), 0.95) == (-1, 1)

    @pytest.mark.parametrize("cells", [(5, 20, 8, 7), (20, 0, 0, 20), (0, 40, 0, 0)], ids=["some", "none", "all"])
    def test_groups_of_copies_make_it_wider(self, cells: tuple[int, int, int, int]) -> None:
        first, second = (np.repeat(correct, 3) for correct in fill(*cells))
        apart = difference_interval(first, second, name_groups([1] * 120), 0.95)
        together = difference_interval(first, second, name_groups([3] * 40), 0.95)
        assert together.high - together.low > 1.3 * (apart.high - apart.low) or together.high == 1
        assert together.low < apart.low


@pytest.mark.slow
class TestBySimulation:
    """Error rates of the test and coverage of the interval, on simulated photos."""

    @pytest.mark.parametrize(
        ("accuracies", "sizes", "alike"),
        [
            ((0.7, 0.7), [1] * 84, 0),
            ((0.9, 0.6), [1] * 84, 0),
            ((0.7, 0.7), [1, 2, 3, 4, 5, 6] * 10, 0.8),
            ((0.9, 0.6), [1, 2, 3, 4, 5, 6] * 10, 0.8),
            ((0.8, 0.7), [5] * 12, 1),
            ((0.99, 0.95), [8] * 40, 1),
        ],
        ids=["equal", "different", "equal, in groups", "different, in groups", "few groups", "few disagreements"],
    )
    def test_intervals_cover_the_difference_and_tests_reject_as_often_as_they_should(
        self, accuracies: tuple[float, float], sizes: list[int], alike: float
    ) -> None:
        random = np.random.default_rng(7)
        groups = name_groups(sizes)
        difference = accuracies[0] - accuracies[1]
        covered = rejected = 0
        for _ in range(TRIALS):
            first, second = draw_correct(random, accuracies, sizes, alike)
            low, high = difference_interval(first, second, groups, 0.95)
            covered += low <= difference <= high
            rejected += mcnemar_p_value(first, second, groups) < 0.05
        # If the groups say little about the within-group correlation, the interval covers more than it has to.
        assert 0.93 <= covered / TRIALS <= (0.985 if len(sizes) == sum(sizes) else 1)
        if not difference:
            assert rejected / TRIALS <= 0.06
        elif len(sizes) > 50:
            assert rejected / TRIALS >= 0.8
