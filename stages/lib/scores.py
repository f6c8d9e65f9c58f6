"""Scores of a classifier. Dims: N photos, K classes."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.metrics import average_precision_score, log_loss, precision_recall_fscore_support, roc_auc_score

from stages.lib.arrays import ClassNumbers, Probabilities
from stages.lib.intervals import accuracy_interval

UNKNOWN, OTHERS = "(unknown)", "(others)"


class Accuracy(NamedTuple):
    """The share of `total` that is right, 0 to 1, and the ends of its interval."""

    value: float
    low: float
    high: float
    total: int


class ClassScores(NamedTuple):
    """A row of metrics/evaluate/classes.csv: scores from 0 to 1 of one label, and how many test photos it has.

    Average precision and ROC-AUC are those of the label against all others, over all thresholds. What the test photos
    do not define is None: all scores of a label without any, and these two of a label that all of them have.
    """

    label: str
    precision: float | None
    recall: float | None
    f1: float | None
    average_precision: float | None
    roc_auc: float | None
    photos: int


class OriginScores(NamedTuple):
    """A row of metrics/evaluate/sources.csv and creators.csv: the accuracy on what comes from there."""

    name: str
    photos: int
    accuracy: float
    accuracy_low: float
    accuracy_high: float


def measure_accuracy(right: npt.NDArray[np.bool_], groups: Sequence[str], confidence_level: float) -> Accuracy:
    """The share of the photos that is right (N,), with its interval by group."""
    return Accuracy(float(right.mean()), *accuracy_interval(right, groups, confidence_level), len(right))


def top_k_accuracy(probabilities: Probabilities, targets: ClassNumbers, k: int) -> float:
    """The share of photos (N,) whose label is among the `k` likeliest; of equally likely ones the first ones count."""
    likeliest = np.argsort(-probabilities, axis=1, kind="stable")[:, :k]
    return float((likeliest == targets[:, None]).any(axis=1).mean())


def cross_entropy(probabilities: Probabilities, targets: ClassNumbers) -> float:
    """The mean of -log(probability of the right class), natural logarithm; Keras's categorical cross-entropy.

    Args:
        probabilities: (N, K).
        targets: class numbers (N,).
    """
    doubles = probabilities.astype(np.float64)
    scaled = doubles / doubles.sum(axis=1, keepdims=True)
    return float(log_loss(targets, scaled, labels=range(probabilities.shape[1])))


def score_classes(labels: Sequence[str], targets: ClassNumbers, probabilities: Probabilities) -> list[ClassScores]:
    """Score each label; a precision without any photo to count is 0.

    Args:
        labels: K labels.
        targets: class numbers (N,).
        probabilities: (N, K).
    """
    counted = precision_recall_fscore_support(
        targets, probabilities.argmax(axis=1), labels=range(len(labels)), zero_division=0
    )
    rows = []
    for number, (label, precision, recall, f1, photos) in enumerate(zip(labels, *counted, strict=True)):
        if not photos:
            rows.append(ClassScores(label, None, None, None, None, None, 0))
            continue
        is_class, scores = targets == number, probabilities[:, number]
        area = None if is_class.all() else float(roc_auc_score(is_class, scores))
        ranked = None if is_class.all() else float(average_precision_score(is_class, scores))
        rows.append(ClassScores(label, float(precision), float(recall), float(f1), ranked, area, int(photos)))
    return rows


def mean_score(values: Iterable[float | None]) -> float | None:
    """The mean of the scores that are defined; None if none is."""
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None


def score_origins(
    names: Sequence[str], right: npt.NDArray[np.bool_], groups: Sequence[str], confidence_level: float, limit: int
) -> list[OriginScores]:
    """The accuracy by where photos come from, most photos first.

    Args:
        names: of each photo's origin, N; "" is one that nobody knows.
        right: which photos were told right (N,).
        groups: the group of each photo, N names.
        confidence_level: of the intervals.
        limit: so many origins have a row of their own; all others share one.
    """
    shown = [name or UNKNOWN for name in names]
    ranked = sorted(Counter(shown).items(), key=lambda item: (-item[1], item[0]))
    kept = [name for name, _ in ranked[:limit]]
    chosen = {name: [other == name for other in shown] for name in kept}
    rows = [score_origin(name, np.array(mask), right, groups, confidence_level) for name, mask in chosen.items()]
    rest = np.array([name not in kept for name in shown])
    return [*rows, score_origin(OTHERS, rest, right, groups, confidence_level)] if rest.any() else rows


def score_origin(
    name: str,
    chosen: npt.NDArray[np.bool_],
    right: npt.NDArray[np.bool_],
    groups: Sequence[str],
    confidence_level: float,
) -> OriginScores:
    members = [group for group, is_chosen in zip(groups, chosen, strict=True) if is_chosen]
    value, low, high, photos = measure_accuracy(right[chosen], members, confidence_level)
    return OriginScores(name, photos, value, low, high)
