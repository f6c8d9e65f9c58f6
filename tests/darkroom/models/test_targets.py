from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight

from darkroom.models.targets import balance_classes, make_targets, mix_pairs, smooth

CLASS_IDS = st.lists(st.integers(0, 4), min_size=1, max_size=40).map(np.array)
FRACTIONS = st.floats(0, 0.99)


def test_the_true_class_has_probability_one() -> None:
    targets = make_targets(np.array([2, 0]), 3)
    assert targets.dtype == np.float32
    assert targets.tolist() == [[0, 0, 1], [1, 0, 0]]


def test_smoothing_spreads_a_fraction_evenly_over_all_classes() -> None:
    smoothed = smooth(make_targets(np.array([1]), 4), 0.2)
    assert smoothed.dtype == np.float32
    assert smoothed[0] == pytest.approx([0.05, 0.85, 0.05, 0.05])


def test_no_smoothing_leaves_targets_as_they_are() -> None:
    targets = make_targets(np.array([1, 0, 1]), 2)
    np.testing.assert_array_equal(smooth(targets, 0), targets)


@given(CLASS_IDS, FRACTIONS)
def test_smoothed_targets_sum_to_one_and_peak_at_the_true_class(class_ids: np.ndarray, fraction: float) -> None:
    smoothed = smooth(make_targets(class_ids, 5), fraction)
    np.testing.assert_allclose(smoothed.sum(axis=1), 1, atol=1e-6)
    assert smoothed.argmax(axis=1).tolist() == class_ids.tolist()


def test_a_rare_class_has_a_larger_weight() -> None:
    # Four images: 4 / (2 * 3) and 4 / (2 * 1).
    assert balance_classes(np.array([0, 0, 1, 0]), 2) == pytest.approx([2 / 3, 2])


@given(CLASS_IDS)
def test_balanced_weights_equalize_the_classes_and_match_scikit_learn(class_ids: np.ndarray) -> None:
    class_ids = np.concatenate([class_ids, np.arange(5)])  # scikit-learn requires every class to occur
    weights = balance_classes(class_ids, 5)
    assert weights.dtype == np.float32
    np.testing.assert_allclose(weights * np.bincount(class_ids), len(class_ids) / 5, rtol=1e-6)
    np.testing.assert_allclose(weights, compute_class_weight("balanced", classes=np.arange(5), y=class_ids), rtol=1e-6)


def test_a_class_without_images_has_a_finite_weight() -> None:
    assert np.isfinite(balance_classes(np.array([0, 0]), 2)).all()


@given(CLASS_IDS, st.floats(0.01, 10), st.integers(0, 9))
def test_mixed_targets_sum_to_one(class_ids: np.ndarray, alpha: float, seed: int) -> None:
    targets = make_targets(class_ids, 5)
    _, mixed = mix_pairs(targets, targets, alpha, np.random.default_rng(seed))
    assert mixed.dtype == np.float32
    assert mixed.min() >= 0
    np.testing.assert_allclose(mixed.sum(axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("shape", [(), (3,), (2, 2, 3)])
def test_images_and_their_targets_are_mixed_in_the_same_proportion(shape: tuple[int, ...]) -> None:
    images: np.ndarray[Any, Any] = np.arange(20, dtype=np.uint8).reshape(-1, *[1] * len(shape)) * np.ones(
        (1, *shape), np.uint8
    )
    mixed, targets = mix_pairs(images, make_targets(np.arange(20), 20), 1, np.random.default_rng(3))
    assert mixed.dtype == np.float32
    # The brightness of an image is its class ID, so the brightness of a mixture follows from its targets.
    expected = (targets @ np.arange(20)).reshape(-1, *[1] * len(shape)) * np.ones(shape)
    np.testing.assert_allclose(mixed, expected, rtol=1e-5)
    assert (np.diag(targets) > 0).all()
    assert len(np.unique(np.diag(targets))) > 10  # one proportion per image


def test_mixing_matches_a_calculation_with_the_same_draws() -> None:
    random = np.random.default_rng(7)
    proportions, others = random.beta(0.4, 0.4, 9), random.permutation(9)
    images = np.arange(0, 180, 20, dtype=np.uint8)
    mixed, _ = mix_pairs(images, make_targets(np.arange(9), 9), 0.4, np.random.default_rng(7))
    assert others.tolist() != list(range(9))
    assert mixed == pytest.approx(proportions * images + (1 - proportions) * images[others], rel=1e-5)
