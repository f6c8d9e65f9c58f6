"""Scores of a classifier. Dims: N photos, K classes."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from sklearn.metrics import average_precision_score, log_loss, precision_recall_fscore_support, roc_auc_score

from darkroom.pipeline.arrays import ClassIds, Correct, Probabilities
from darkroom.pipeline.dataset import PhotoRow
from darkroom.scores.intervals import accuracy_interval

UNKNOWN, OTHERS = "(unknown)", "(others)"


class Accuracy(NamedTuple):
    """The fraction of `total` photos that is correct, 0 to 1, and the ends of its interval."""

    value: float
    low: float
    high: float
    total: int


class ClassScores(NamedTuple):
    """A row of metrics/evaluate/classes.csv: scores from 0 to 1 of one label, and its number of test photos.

    Average precision and ROC-AUC are one-vs-rest, over all thresholds. Scores that the test photos do not define are
    None: all scores of a label without photos, and these two if all photos have the label.
    """

    label: str
    precision: float | None
    recall: float | None
    f1: float | None
    average_precision: float | None
    roc_auc: float | None
    photos: int


class OriginScores(NamedTuple):
    """A row of metrics/evaluate/sources.csv: the accuracy on the photos of a source, with its interval."""

    name: str
    photos: int
    accuracy: float
    accuracy_low: float
    accuracy_high: float


class CreatorScores(NamedTuple):
    """A row of metrics/evaluate/creators.csv: the accuracy on a creator's photos. There is no interval: the photos are
    a single group if the split keeps creators together."""

    name: str
    photos: int
    accuracy: float


def measure_accuracy(correct: Correct, groups: Sequence[str], confidence_level: float) -> Accuracy:
    """The fraction of the photos (N,) that is correct, with its interval, which accounts for groups."""
    return Accuracy(float(correct.mean()), *accuracy_interval(correct, groups, confidence_level), len(correct))


def top_k_accuracy(probabilities: Probabilities, class_ids: ClassIds, k: int) -> float:
    """The fraction of photos (N,) whose true label is among the `k` most probable; ties go to the first labels."""
    top = np.argsort(-probabilities, axis=1, kind="stable")[:, :k]
    return float((top == class_ids[:, None]).any(axis=1).mean())


def cross_entropy(probabilities: Probabilities, class_ids: ClassIds) -> float:
    """The mean of -log(probability of the true class), natural logarithm; Keras's categorical cross-entropy.

    Args:
        probabilities: (N, K).
        class_ids: true class IDs (N,).
    """
    doubles = probabilities.astype(np.float64)
    scaled = doubles / doubles.sum(axis=1, keepdims=True)
    return float(log_loss(class_ids, scaled, labels=range(probabilities.shape[1])))


def score_classes(labels: Sequence[str], class_ids: ClassIds, probabilities: Probabilities) -> list[ClassScores]:
    """Score each label; the precision of a label that is never predicted is 0.

    Args:
        labels: K labels.
        class_ids: true class IDs (N,).
        probabilities: (N, K).
    """
    counted = precision_recall_fscore_support(
        class_ids, probabilities.argmax(axis=1), labels=range(len(labels)), zero_division=0
    )
    rows = []
    for class_id, (label, precision, recall, f1, photos) in enumerate(zip(labels, *counted, strict=True)):
        if not photos:
            rows.append(ClassScores(label, None, None, None, None, None, 0))
            continue
        is_class, scores = class_ids == class_id, probabilities[:, class_id]
        area = None if is_class.all() else float(roc_auc_score(is_class, scores))
        ranked = None if is_class.all() else float(average_precision_score(is_class, scores))
        rows.append(ClassScores(label, float(precision), float(recall), float(f1), ranked, area, int(photos)))
    return rows


def mean_score(values: Iterable[float | None]) -> float | None:
    """The mean of the defined scores; None if there are none."""
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None


def score_sources(
    photos: Sequence[PhotoRow], correct: Correct, groups: Sequence[str], confidence_level: float
) -> list[OriginScores]:
    """Measure the accuracy by source, most photos first.

    Args:
        photos: N photos.
        correct: which photos are correct (N,).
        groups: the group of each photo, N names.
        confidence_level: confidence level of the intervals.
    """
    rows = []
    for source, chosen in rank([photo.source for photo in photos]).items():
        accuracy = measure_accuracy(correct[chosen], [groups[index] for index in chosen], confidence_level)
        value, low, high, total = accuracy
        rows.append(OriginScores(source, total, value, low, high))
    return rows


def score_creators(photos: Sequence[PhotoRow], correct: Correct, limit: int) -> list[CreatorScores]:
    """Measure the accuracy by creator, most photos first.

    Args:
        photos: N photos.
        correct: which photos are correct (N,).
        limit: the maximum number of creators with their own row; all others share one.
    """
    ranked = list(rank([photo.creator_key for photo in photos]).values())
    named = [(name_creator(photos[chosen[0]]), chosen) for chosen in ranked[:limit]]
    others = [index for chosen in ranked[limit:] for index in chosen]
    rows = [*named, *([(OTHERS, others)] if others else [])]
    return [CreatorScores(name, len(chosen), float(correct[chosen].mean())) for name, chosen in rows]


def name_creator(photo: PhotoRow) -> str:
    return photo.creator or photo.creator_url or UNKNOWN


def rank(keys: Sequence[Any]) -> dict[Any, list[int]]:
    """The indices of each key, sorted by their number, most first, then by key."""
    indices: dict[Any, list[int]] = defaultdict(list)
    for index, key in enumerate(keys):
        indices[key].append(index)
    return dict(sorted(indices.items(), key=lambda item: (-len(item[1]), str(item[0]))))


def score_predictions(
    probabilities: Probabilities,
    class_ids: ClassIds,
    groups: Sequence[str],
    classes: Sequence[ClassScores],
    confidence_level: float,
    top_k: int,
) -> dict[str, float]:
    """Score all predictions together. Means are over the labels, and are left out if no label defines them.

    Args:
        probabilities: (N, K).
        class_ids: true class IDs (N,).
        groups: the group of each photo, N names.
        classes: the scores of the K classes.
        confidence_level: confidence level of the accuracy's interval.
        top_k: the k of the top-k accuracy.
    """
    accuracy = measure_accuracy(probabilities.argmax(axis=1) == class_ids, groups, confidence_level)
    means = {
        "balanced_accuracy": mean_score(row.recall for row in classes),
        "macro_f1": mean_score(row.f1 for row in classes),
        "average_precision": mean_score(row.average_precision for row in classes),
        "roc_auc": mean_score(row.roc_auc for row in classes),
    }
    return {
        "accuracy": accuracy.value,
        "accuracy_low": accuracy.low,
        "accuracy_high": accuracy.high,
        "top_k_accuracy": top_k_accuracy(probabilities, class_ids, top_k),
        "loss": cross_entropy(probabilities, class_ids),
        **{name: value for name, value in means.items() if value is not None},
    }
