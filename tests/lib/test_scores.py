import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.lib.scores import ClassScores, accuracy_interval, cross_entropy, score_classes


class TestInterval:
    @pytest.mark.parametrize(
        ("correct", "total", "low", "high"),
        [
            (81, 263, 0.2553, 0.3662),
            (15, 148, 0.0624, 0.1605),
            (0, 20, 0.0, 0.1611),
            (1, 29, 0.0061, 0.1718),
        ],
    )
    def test_it_has_the_values_of_newcombe_1998(self, correct: int, total: int, low: float, high: float) -> None:
        """R. G. Newcombe, Two-sided confidence intervals for the single proportion, table I, method 3."""
        assert accuracy_interval(correct, total, 0.95) == pytest.approx((low, high), abs=5e-5)

    @given(st.integers(1, 500), st.floats(0, 1), st.floats(0.5, 0.999))
    @settings(deadline=None, max_examples=100)
    def test_it_follows_wilsons_formula(self, total: int, share: float, confidence_level: float) -> None:
        correct = round(share * total)
        z = normal_quantile(0.5 + confidence_level / 2)
        accuracy = correct / total
        middle = (accuracy + z**2 / (2 * total)) / (1 + z**2 / total)
        half = z / (1 + z**2 / total) * math.sqrt(accuracy * (1 - accuracy) / total + z**2 / (4 * total**2))
        interval = accuracy_interval(correct, total, confidence_level)
        assert interval == pytest.approx((middle - half, middle + half), abs=1e-9)
        assert 0 <= interval.low <= accuracy <= interval.high <= 1


def normal_quantile(probability: float) -> float:
    """By bisection of the error function."""
    low, high = -10.0, 10.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if (1 + math.erf(middle / math.sqrt(2))) / 2 < probability else (low, middle)
    return low


class TestCrossEntropy:
    def test_it_is_the_mean_of_the_negative_logarithms(self) -> None:
        probabilities = np.array([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]], np.float32)
        expected = -(math.log(0.5) + math.log(0.1)) / 2
        assert cross_entropy(probabilities, np.array([0, 2])) == pytest.approx(expected, rel=1e-6)

    def test_it_is_that_of_equal_chances_for_equal_probabilities(self) -> None:
        probabilities = np.full((7, 10), 0.1, np.float32)
        assert cross_entropy(probabilities, np.zeros(7, np.int64)) == pytest.approx(math.log(10))

    def test_a_class_that_no_photo_has_does_not_disturb(self) -> None:
        probabilities = np.array([[0.7, 0.2, 0.1]], np.float32)
        assert cross_entropy(probabilities, np.array([0])) == pytest.approx(-math.log(0.7), rel=1e-6)

    def test_a_prediction_that_is_certain_and_wrong_costs_much_but_not_infinity(self) -> None:
        loss = cross_entropy(np.array([[1, 0]], np.float32), np.array([1]))
        assert 10 < loss < math.inf

    @given(st.integers(1, 30), st.integers(2, 20), st.integers(0, 1000))
    @settings(deadline=None, max_examples=50)
    def test_sums_that_are_rounded_to_single_precision_do_not_matter(
        self, photos: int, classes: int, seed: int
    ) -> None:
        random = np.random.default_rng(seed)
        doubles = random.dirichlet(np.ones(classes), photos) * 0.9 + 0.1 / classes
        targets = random.integers(0, classes, photos)
        expected = -np.log(doubles[np.arange(photos), targets]).mean()
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # scikit-learn warns of rows whose sum is not 1
            loss = cross_entropy(doubles.astype(np.float32), targets)
        assert loss == pytest.approx(expected, rel=1e-5)


class TestClasses:
    def test_precision_recall_and_f1_of_each_label(self) -> None:
        targets = np.array([0, 0, 0, 1, 1, 2])
        predicted = np.array([0, 0, 1, 1, 0, 2])
        assert score_classes(["cat", "dog", "eel"], targets, predicted) == [
            ClassScores("cat", pytest.approx(2 / 3), pytest.approx(2 / 3), pytest.approx(2 / 3), 3),
            ClassScores("dog", 0.5, 0.5, 0.5, 2),
            ClassScores("eel", 1, 1, 1, 1),
        ]

    def test_scores_without_a_photo_to_count_are_0(self) -> None:
        targets = np.array([0, 0, 1])
        predicted = np.array([0, 2, 0])
        assert score_classes(["cat", "dog", "eel"], targets, predicted) == [
            ClassScores("cat", 0.5, 0.5, 0.5, 2),
            ClassScores("dog", 0, 0, 0, 1),
            ClassScores("eel", 0, 0, 0, 0),
        ]
