import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax

from darkroom.evaluation.calibration import (
    HIGHEST_TEMPERATURE,
    LOWEST_TEMPERATURE,
    ConfidenceBin,
    ReliabilityRow,
    ScaledReliabilityRow,
    bin_confidences,
    calibrate,
    calibration_error,
    fit_temperature,
    list_reliability,
    list_scaled_reliability,
    scale_probabilities,
)
from darkroom.pipeline.arrays import ClassIds, Probabilities
from darkroom.scores.scores import cross_entropy


def predict_first(*probabilities: float) -> Probabilities:
    """Probabilities of two labels; those of the first one are given."""
    return np.array([[probability, 1 - probability] for probability in probabilities], np.float32)


def draw_photos(sharpness: float, photos: int = 20_000, classes: int = 4) -> tuple[Probabilities, ClassIds]:
    """Draw labels from the softmax of logits; return the softmax of `sharpness` times the logits, and the labels."""
    random = np.random.default_rng(8)
    logits = random.normal(0, 1.5, (photos, classes))
    # The largest of logits with Gumbel noise is a draw from their softmax.
    class_ids = (logits + random.gumbel(size=logits.shape)).argmax(axis=1)
    return softmax(logits * sharpness, axis=1).astype(np.float32), class_ids


class TestBins:
    @pytest.mark.parametrize(
        ("confidence", "bins", "index"),
        [(0.25, 4, 0), (0.26, 4, 1), (0.5, 4, 1), (0.75, 4, 2), (1, 4, 3), (1, 15, 14), (0.01, 10, 0), (0.7, 1, 0)],
    )
    def test_each_bin_includes_its_upper_limit(self, confidence: float, bins: int, index: int) -> None:
        counts = [row.photos for row in bin_confidences(np.full((1, 1), confidence, np.float32), np.array([0]), bins)]
        assert counts == [int(number == index) for number in range(bins)]

    @pytest.mark.parametrize("index", range(10))
    def test_limits_rounded_to_float32_belong_to_the_bin_below(self, index: int) -> None:
        limit = np.full((1, 1), (index + 1) / 10, np.float32)
        assert [row.photos for row in bin_confidences(limit, np.array([0]), 10)].index(1) == index

    def test_limits_in_doubles_belong_to_the_bin_below(self) -> None:
        for index in range(10):
            rows = bin_confidences(np.full((1, 1), (index + 1) / 10), np.array([0]), 10)
            assert [row.photos for row in rows].index(1) == index

    def test_they_have_the_means_of_their_photos_and_none_if_empty(self) -> None:
        rows = bin_confidences(predict_first(0.6, 0.7, 0.9, 1), np.array([0, 1, 0, 0]), 4)
        assert rows == [
            ConfidenceBin(0.125, 0, None, None),
            ConfidenceBin(0.375, 0, None, None),
            ConfidenceBin(0.625, 2, pytest.approx(0.65), 0.5),
            ConfidenceBin(0.875, 2, pytest.approx(0.95), 1),
        ]

    def test_the_confidence_is_that_of_the_most_probable_label(self) -> None:
        row = bin_confidences(predict_first(0.2), np.array([1]), 1)[0]
        assert row == ConfidenceBin(0.5, 1, pytest.approx(0.8), 1)


class TestError:
    def test_it_matches_a_computation_by_hand(self) -> None:
        rows = bin_confidences(predict_first(0.6, 0.7, 0.9, 1, 1), np.array([0, 1, 0, 0, 1]), 4)
        # Two photos with 0.65, one of them correct; three with 2.9 / 3, two of them correct.
        assert calibration_error(rows) == pytest.approx((2 * 0.15 + 3 * (2.9 / 3 - 2 / 3)) / 5)

    def test_it_is_0_for_certain_and_correct_predictions_and_1_for_certain_and_wrong_ones(self) -> None:
        assert calibration_error(bin_confidences(predict_first(1, 1), np.array([0, 0]), 15)) == 0
        assert calibration_error(bin_confidences(predict_first(1, 1), np.array([1, 1]), 15)) == 1

    def test_it_is_small_if_labels_are_drawn_with_the_probabilities(self) -> None:
        rows = bin_confidences(*draw_photos(1), 15)
        assert calibration_error(rows) < 0.015
        for row in rows:
            if row.photos > 100:
                spread = np.sqrt(row.confidence * (1 - row.confidence) / row.photos)
                assert row.accuracy == pytest.approx(row.confidence, abs=4 * spread)

    def test_overconfident_predictions_are_less_accurate_than_confident(self) -> None:
        rows = [row for row in bin_confidences(*draw_photos(3), 15) if row.photos > 100]
        assert calibration_error(rows) > 0.15
        assert all(row.accuracy < row.confidence for row in rows)


class TestTemperature:
    @pytest.mark.parametrize("temperature", [0.5, 1, 2, 4])
    def test_a_known_temperature_is_found(self, temperature: float) -> None:
        assert fit_temperature(*draw_photos(temperature)) == pytest.approx(temperature, rel=0.03)

    def test_it_minimizes_the_cross_entropy(self) -> None:
        probabilities, class_ids = draw_photos(2, photos=500)
        temperature = fit_temperature(probabilities, class_ids)
        least = cross_entropy(scale_probabilities(probabilities, temperature), class_ids)
        for other in (1, temperature * 0.9, temperature * 1.1):
            assert cross_entropy(scale_probabilities(probabilities, other), class_ids) > least

    def test_scaling_with_it_calibrates_other_photos(self) -> None:
        probabilities, class_ids = draw_photos(3)
        fitted, other = slice(0, 10_000), slice(10_000, None)
        temperature = fit_temperature(probabilities[fitted], class_ids[fitted])
        scaled = scale_probabilities(probabilities[other], temperature)
        assert calibration_error(bin_confidences(scaled, class_ids[other], 15)) < 0.02

    def test_it_stays_in_its_bounds_if_all_are_correct_or_all_are_wrong(self) -> None:
        probabilities = np.array([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1]], np.float32)
        assert fit_temperature(probabilities, np.array([0, 1])) == pytest.approx(LOWEST_TEMPERATURE, rel=1e-3)
        assert fit_temperature(probabilities, np.array([2, 2])) == pytest.approx(HIGHEST_TEMPERATURE, rel=1e-3)

    @pytest.mark.parametrize("class_ids", [[0, 1], [1, 0]])
    def test_probabilities_of_exactly_0_and_1_have_a_temperature(self, class_ids: list[int]) -> None:
        temperature = fit_temperature(np.eye(2, dtype=np.float32), np.array(class_ids))
        assert LOWEST_TEMPERATURE <= temperature <= HIGHEST_TEMPERATURE


class TestScaling:
    @given(st.integers(0, 1000), st.integers(2, 12), st.floats(LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE))
    @settings(deadline=None, max_examples=100)
    def test_the_most_probable_label_stays_and_rows_sum_to_1(self, seed: int, classes: int, temperature: float) -> None:
        random = np.random.default_rng(seed)
        probabilities = random.dirichlet(np.full(classes, 0.3), 20).astype(np.float32)
        probabilities[:5] = np.eye(classes)[random.integers(0, classes, 5)]
        scaled = scale_probabilities(probabilities, temperature)
        assert (scaled.dtype, scaled.shape) == (np.float32, probabilities.shape)
        np.testing.assert_allclose(scaled.sum(axis=1), 1, atol=1e-6)
        predicted = probabilities.argmax(axis=1)
        # Other labels may have become equally probable in float32.
        np.testing.assert_array_equal(scaled[np.arange(20), predicted], scaled.max(axis=1))

    def test_a_temperature_of_1_changes_nothing(self) -> None:
        probabilities, _ = draw_photos(2, photos=100)
        np.testing.assert_allclose(scale_probabilities(probabilities, 1), probabilities, rtol=1e-5)

    def test_it_divides_the_logits(self) -> None:
        logits = np.random.default_rng(0).normal(0, 2, (50, 4))
        scaled = scale_probabilities(softmax(logits, axis=1).astype(np.float32), 2.5)
        np.testing.assert_allclose(scaled, softmax(logits / 2.5, axis=1), rtol=1e-5)

    def test_a_probability_of_0_stays_finite_and_small(self) -> None:
        scaled = scale_probabilities(np.array([[1, 0, 0]], np.float32), 2)
        assert np.isfinite(scaled).all()
        assert scaled[0, 0] == 1
        assert 0 < scaled[0, 1] == scaled[0, 2] < 1e-15


def test_reliability_lists_the_bins_that_have_photos() -> None:
    bins = [ConfidenceBin(0.25, 0, None, None), ConfidenceBin(0.75, 3, 0.9, 1 / 3)]
    assert list_reliability(bins) == [ReliabilityRow(0.9, 3, 1 / 3, 0.9)]
    assert list_scaled_reliability(bins) == [ScaledReliabilityRow(0.9, 3, 1 / 3)]
    assert ReliabilityRow._fields == ("probability", "photos", "accuracy", "perfect")
    assert ScaledReliabilityRow._fields == ("probability", "photos", "scaled_accuracy")


def test_the_temperature_is_fitted_on_the_held_out_photos() -> None:
    """The held-out photos are overconfident by a factor of 3, the test photos by 2; all scores are of the latter."""
    held_out, held_out_class_ids = draw_photos(3)
    probabilities, class_ids = draw_photos(2)
    calibration = calibrate(probabilities, class_ids, held_out, held_out_class_ids, 10)
    assert calibration.temperature == fit_temperature(held_out, held_out_class_ids) == pytest.approx(3, rel=0.03)
    scaled = scale_probabilities(probabilities, calibration.temperature)
    assert calibration.bins == bin_confidences(probabilities, class_ids, 10)
    assert calibration.scaled_bins == bin_confidences(scaled, class_ids, 10)
    assert calibration.scores == {
        "calibration_error": calibration_error(calibration.bins),
        "temperature": calibration.temperature,
        "scaled_calibration_error": calibration_error(calibration.scaled_bins),
        "scaled_loss": cross_entropy(scaled, class_ids),
    }
