"""Whether a probability means what it says: of the photos told with 0.8, eight in ten should be right.

Dims: N photos, K classes.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from darkroom.pipeline.arrays import ClassIds, Probabilities
from darkroom.scores.scores import cross_entropy

# Where every validation photo is told right, lower temperatures would be better without end; or, where all are certain,
# each is as good.
LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE = 0.1, 10.0


class ConfidenceBin(NamedTuple):
    """The photos whose likeliest label has a probability between two limits; means are None where there are none."""

    middle: float
    photos: int
    confidence: float | None
    accuracy: float | None


class ReliabilityRow(NamedTuple):
    """A row of metrics/evaluate/reliability.csv: the mean probability of the likeliest labels of a bin's photos, and
    their accuracy, which is the same where the model is perfectly calibrated."""

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
    """How well probabilities of test photos are calibrated, and how well those with a temperature fitted on others."""

    temperature: float
    bins: list[ConfidenceBin]
    scaled_bins: list[ConfidenceBin]
    scaled_loss: float

    @property
    def is_at_a_bound(self) -> bool:
        """Whether a temperature beyond what is tried would be better still."""
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
    held_out_targets: ClassIds,
    bins: int,
) -> Calibration:
    """Measure the calibration before and after temperature scaling.

    Args:
        probabilities, class_ids: of the test photos, (N, K) and (N,).
        held_out, held_out_targets: of the validation photos, which the temperature is fitted on.
        bins: of the probability.
    """
    temperature = fit_temperature(held_out, held_out_targets)
    scaled = scale_probabilities(probabilities, temperature)
    return Calibration(
        temperature,
        bin_confidences(probabilities, class_ids, bins),
        bin_confidences(scaled, class_ids, bins),
        cross_entropy(scaled, class_ids),
    )


def bin_confidences(probabilities: Probabilities, class_ids: ClassIds, bins: int) -> list[ConfidenceBin]:
    """Sort photos into `bins` equally wide ones by the probability of their likeliest label.

    Args:
        probabilities: (N, K).
        class_ids: class numbers (N,).
        bins: 1 or more.
    """
    confidences = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == class_ids
    # As usual, each bin has its upper limit: (0, 0.1], (0.1, 0.2] and so on.
    # In single precision, in which a probability of 0.1 times 10 is 1.
    places = np.clip(np.ceil(confidences * np.float32(bins)).astype(int) - 1, 0, bins - 1)
    rows = []
    for number in range(bins):
        chosen = places == number
        confidence, accuracy = (
            float(values[chosen].mean(dtype=np.float64)) if chosen.any() else None for values in (confidences, right)
        )
        rows.append(ConfidenceBin((number + 0.5) / bins, int(chosen.sum()), confidence, accuracy))
    return rows


def calibration_error(bins: Sequence[ConfidenceBin]) -> float:
    """The expected calibration error: how far confidence and accuracy of a bin are apart, in the mean over photos.

    0 to 1; C. Guo et al., "On calibration of modern neural networks", 2017.
    """
    total = sum(row.photos for row in bins)
    apart = [
        row.photos * abs(row.confidence - row.accuracy)
        for row in bins
        if row.confidence is not None and row.accuracy is not None
    ]
    return sum(apart) / total


def fit_temperature(probabilities: Probabilities, class_ids: ClassIds) -> float:
    """Find the temperature whose scaling gives the least cross-entropy (C. Guo et al., 2017).

    Args:
        probabilities: of photos that no score is taken from, (N, K).
        class_ids: class numbers (N,).

    Returns:
        above 1 for a network that is too sure of itself, below 1 for one that is not sure enough; 0.1 to 10.
    """
    logits = np.log(clip(probabilities))
    places = np.arange(len(class_ids))

    def loss(log_temperature: float) -> float:
        return -float(log_softmax(logits / np.exp(log_temperature), axis=1)[places, class_ids].mean())

    bounds = (np.log(LOWEST_TEMPERATURE), np.log(HIGHEST_TEMPERATURE))
    return float(np.exp(minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6}).x))


def scale_probabilities(probabilities: Probabilities, temperature: float) -> Probabilities:
    """The softmax of the logits divided by `temperature`, (N, K).

    The labels keep their order, but for those that float32 does not tell apart any more.
    """
    scaled: Probabilities = softmax(np.log(clip(probabilities)) / temperature, axis=1).astype(np.float32)
    return scaled


def clip(probabilities: Probabilities) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    # What has become 0 in float32 has a logarithm again.
    return np.maximum(probabilities, np.finfo(np.float32).tiny).astype(np.float64)


def list_reliability(bins: Sequence[ConfidenceBin]) -> list[ReliabilityRow]:
    """List the bins that have photos."""
    return [
        ReliabilityRow(row.confidence, row.photos, row.accuracy, row.confidence)
        for row in bins
        if row.confidence is not None and row.accuracy is not None
    ]


def list_scaled_reliability(bins: Sequence[ConfidenceBin]) -> list[ScaledReliabilityRow]:
    """List the bins that have photos, of probabilities that were scaled."""
    return [ScaledReliabilityRow(row.probability, row.photos, row.accuracy) for row in list_reliability(bins)]
