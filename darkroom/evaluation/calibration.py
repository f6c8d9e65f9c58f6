"""Calibration: of the photos predicted with a probability of 0.8, eight in ten should be correct.

Dims: N photos, K classes.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from darkroom.pipeline.arrays import ClassIds, Probabilities
from darkroom.scores.scores import cross_entropy

# If all validation photos are correct, lower temperatures are always better; if all probabilities are 1 as well, all
# temperatures are equally good.
LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE = 0.1, 10.0


class ConfidenceBin(NamedTuple):
    """The photos whose predicted label has a probability between two limits; the means are None if there are none."""

    middle: float
    photos: int
    confidence: float | None
    accuracy: float | None


class ReliabilityRow(NamedTuple):
    """A row of metrics/evaluate/reliability.csv: the mean probability of the predicted labels of a bin's photos, and
    their accuracy, which is the same if the model is perfectly calibrated."""

    probability: float
    photos: int
    accuracy: float
    perfect: float


class ScaledReliabilityRow(NamedTuple):
    """A row of metrics/evaluate/reliability_scaled.csv: the same after temperature scaling."""

    probability: float
    photos: int
    scaled_accuracy: float


class Calibration(NamedTuple):
    """The calibration of test probabilities, before and after scaling with a temperature fitted on other photos."""

    temperature: float
    bins: list[ConfidenceBin]
    scaled_bins: list[ConfidenceBin]
    scaled_loss: float

    @property
    def is_at_a_bound(self) -> bool:
        """Whether the best temperature is at or beyond a limit of the search."""
        return not LOWEST_TEMPERATURE * 1.001 < self.temperature < HIGHEST_TEMPERATURE / 1.001

    @property
    def scores(self) -> dict[str, float]:
        return {
            "calibration_error": calibration_error(self.bins),
            "temperature": self.temperature,
            "scaled_calibration_error": calibration_error(self.scaled_bins),
            "scaled_loss": self.scaled_loss,
        }


def calibrate(
    probabilities: Probabilities,
    class_ids: ClassIds,
    held_out: Probabilities,
    held_out_class_ids: ClassIds,
    bins: int,
) -> Calibration:
    """Measure the calibration before and after temperature scaling.

    Args:
        probabilities, class_ids: of the test photos, (N, K) and (N,).
        held_out, held_out_class_ids: of the validation photos, which the temperature is fitted on.
        bins: the number of bins.
    """
    temperature = fit_temperature(held_out, held_out_class_ids)
    scaled = scale_probabilities(probabilities, temperature)
    return Calibration(
        temperature,
        bin_confidences(probabilities, class_ids, bins),
        bin_confidences(scaled, class_ids, bins),
        cross_entropy(scaled, class_ids),
    )


def bin_confidences(probabilities: Probabilities, class_ids: ClassIds, bins: int) -> list[ConfidenceBin]:
    """Sort photos into bins of equal width by the probability of their predicted label.

    Args:
        probabilities: (N, K).
        class_ids: true class IDs (N,).
        bins: the number of bins, 1 or more.
    """
    confidences = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == class_ids
    # As usual, each bin includes its upper limit: (0, 0.1], (0.1, 0.2] and so on.
    # In single precision, in which a probability of 0.1 times 10 is 1.
    indices = np.clip(np.ceil(confidences * np.float32(bins)).astype(int) - 1, 0, bins - 1)
    rows = []
    for number in range(bins):
        chosen = indices == number
        confidence, accuracy = (
            float(values[chosen].mean(dtype=np.float64)) if chosen.any() else None for values in (confidences, correct)
        )
        rows.append(ConfidenceBin((number + 0.5) / bins, int(chosen.sum()), confidence, accuracy))
    return rows


def calibration_error(bins: Sequence[ConfidenceBin]) -> float:
    """The expected calibration error, 0 to 1: the mean over photos of the gap between confidence and accuracy of a bin.

    C. Guo et al., "On calibration of modern neural networks", 2017.
    """
    total = sum(row.photos for row in bins)
    gaps = [
        row.photos * abs(row.confidence - row.accuracy)
        for row in bins
        if row.confidence is not None and row.accuracy is not None
    ]
    return sum(gaps) / total


def fit_temperature(probabilities: Probabilities, class_ids: ClassIds) -> float:
    """Find the temperature that minimizes the cross-entropy of the scaled probabilities (C. Guo et al., 2017).

    Args:
        probabilities: of photos that are not used for scoring, (N, K).
        class_ids: true class IDs (N,).

    Returns:
        0.1 to 10: above 1 for an overconfident network, below 1 for an underconfident one.
    """
    logits = np.log(clip(probabilities))
    indices = np.arange(len(class_ids))

    def loss(log_temperature: float) -> float:
        return -float(log_softmax(logits / np.exp(log_temperature), axis=1)[indices, class_ids].mean())

    bounds = (np.log(LOWEST_TEMPERATURE), np.log(HIGHEST_TEMPERATURE))
    return float(np.exp(minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6}).x))


def scale_probabilities(probabilities: Probabilities, temperature: float) -> Probabilities:
    """The softmax of the logits divided by `temperature`, (N, K).

    The labels keep their order, except where the scaled probabilities are equal in float32.
    """
    scaled: Probabilities = softmax(np.log(clip(probabilities)) / temperature, axis=1).astype(np.float32)
    return scaled


def clip(probabilities: Probabilities) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    # Probabilities that were rounded to 0 in float32 need a finite logarithm.
    return np.maximum(probabilities, np.finfo(np.float32).tiny).astype(np.float64)


def list_reliability(bins: Sequence[ConfidenceBin]) -> list[ReliabilityRow]:
    """List the bins that have photos."""
    return [
        ReliabilityRow(row.confidence, row.photos, row.accuracy, row.confidence)
        for row in bins
        if row.confidence is not None and row.accuracy is not None
    ]


def list_scaled_reliability(bins: Sequence[ConfidenceBin]) -> list[ScaledReliabilityRow]:
    """List the bins that have photos, for scaled probabilities."""
    return [ScaledReliabilityRow(row.probability, row.photos, row.accuracy) for row in list_reliability(bins)]
