"""Scores of a classifier. Dims: N photos, K classes."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import binomtest
from sklearn.metrics import log_loss, precision_recall_fscore_support

from stages.lib.arrays import ClassNumbers, Probabilities


class Interval(NamedTuple):
    low: float
    high: float


class Accuracy(NamedTuple):
    """The share of `total` that is right, 0 to 1, and the ends of its interval."""

    value: float
    low: float
    high: float
    total: int


class ClassScores(NamedTuple):
    """A row of metrics/evaluate/classes.csv: scores from 0 to 1 of one label, and how many test photos it has."""

    label: str
    precision: float
    recall: float
    f1: float
    photos: int


def accuracy_interval(correct: int, total: int, confidence_level: float) -> Interval:
    """The Wilson score interval of an accuracy (E. B. Wilson, 1927), which holds for small test sets too.

    Args:
        correct: how many of `total` photos were right.
        confidence_level: such as 0.95.
    """
    interval = binomtest(correct, total).proportion_ci(confidence_level, method="wilson")
    return Interval(float(interval.low), float(interval.high))


def measure_accuracy(predicted: ClassNumbers, targets: ClassNumbers, confidence_level: float) -> Accuracy:
    """Compare class numbers (N,) with the right ones."""
    correct = int((predicted == targets).sum())
    return Accuracy(correct / len(targets), *accuracy_interval(correct, len(targets), confidence_level), len(targets))


def cross_entropy(probabilities: Probabilities, targets: ClassNumbers) -> float:
    """The mean of -log(probability of the right class), natural logarithm; Keras's categorical cross-entropy.

    Args:
        probabilities: (N, K).
        targets: class numbers (N,).
    """
    doubles = probabilities.astype(np.float64)
    scaled = doubles / doubles.sum(axis=1, keepdims=True)
    return float(log_loss(targets, scaled, labels=range(probabilities.shape[1])))


def score_classes(labels: Sequence[str], targets: ClassNumbers, predicted: ClassNumbers) -> list[ClassScores]:
    """Precision, recall and F1 of each label; a score without any photo to count is 0.

    Args:
        labels: K labels.
        targets, predicted: class numbers (N,).
    """
    scores = precision_recall_fscore_support(targets, predicted, labels=range(len(labels)), zero_division=0)
    return [
        ClassScores(label, float(precision), float(recall), float(f1), int(photos))
        for label, precision, recall, f1, photos in zip(labels, *scores, strict=True)
    ]
