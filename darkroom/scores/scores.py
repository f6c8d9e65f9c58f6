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
    """A row of metrics/evaluate/sources.csv: the accuracy on the photos of a source, with its interval."""

    name: str
    photos: int
    accuracy: float
    accuracy_low: float
    accuracy_high: float


class CreatorScores(NamedTuple):
    """A row of metrics/evaluate/creators.csv: the accuracy on a creator's photos. It has no interval: they are a single
    group where the split keeps creators together."""

    name: str
    photos: int
    accuracy: float


def measure_accuracy(right: Correct, groups: Sequence[str], confidence_level: float) -> Accuracy:
    """The share of the photos that is right (N,), with its interval by group."""
    return Accuracy(float(right.mean()), *accuracy_interval(right, groups, confidence_level), len(right))


def top_k_accuracy(probabilities: Probabilities, class_ids: ClassIds, k: int) -> float:
    """The share of photos (N,) whose label is among the `k` likeliest; of equally likely ones the first ones count."""
    likeliest = np.argsort(-probabilities, axis=1, kind="stable")[:, :k]
    return float((likeliest == class_ids[:, None]).any(axis=1).mean())


def cross_entropy(probabilities: Probabilities, class_ids: ClassIds) -> float:
    """The mean of -log(probability of the right class), natural logarithm; Keras's categorical cross-entropy.

    Args:
        probabilities: (N, K).
        class_ids: class numbers (N,).
    """
    doubles = probabilities.astype(np.float64)
    scaled = doubles / doubles.sum(axis=1, keepdims=True)
    return float(log_loss(class_ids, scaled, labels=range(probabilities.shape[1])))


def score_classes(labels: Sequence[str], class_ids: ClassIds, probabilities: Probabilities) -> list[ClassScores]:
    """Score each label; a precision without any photo to count is 0.

    Args:
        labels: K labels.
        class_ids: class numbers (N,).
        probabilities: (N, K).
    """
    counted = precision_recall_fscore_support(
        class_ids, probabilities.argmax(axis=1), labels=range(len(labels)), zero_division=0
    )
    rows = []
    for number, (label, precision, recall, f1, photos) in enumerate(zip(labels, *counted, strict=True)):
        if not photos:
            rows.append(ClassScores(label, None, None, None, None, None, 0))
            continue
        is_class, scores = class_ids == number, probabilities[:, number]
        area = None if is_class.all() else float(roc_auc_score(is_class, scores))
        ranked = None if is_class.all() else float(average_precision_score(is_class, scores))
        rows.append(ClassScores(label, float(precision), float(recall), float(f1), ranked, area, int(photos)))
    return rows


def mean_score(values: Iterable[float | None]) -> float | None:
    """The mean of the scores that are defined; None if none is."""
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None


def score_sources(
    photos: Sequence[PhotoRow], right: Correct, groups: Sequence[str], confidence_level: float
) -> list[OriginScores]:
    """The accuracy by source, most photos first.

    Args:
        photos: N photos.
        right: which were told right (N,).
        groups: the group of each photo, N names.
        confidence_level: of the intervals.
    """
    rows = []
    for source, chosen in rank([photo.source for photo in photos]).items():
        value, low, high, total = measure_accuracy(right[chosen], [groups[place] for place in chosen], confidence_level)
        rows.append(OriginScores(source, total, value, low, high))
    return rows


def score_creators(photos: Sequence[PhotoRow], right: Correct, limit: int) -> list[CreatorScores]:
    """The accuracy by creator, most photos first.

    Args:
        photos: N photos.
        right: which were told right (N,).
        limit: so many creators have a row of their own; all others share one.
    """
    ranked = list(rank([photo.creator_key for photo in photos]).values())
    named = [(name_creator(photos[chosen[0]]), chosen) for chosen in ranked[:limit]]
    others = [place for chosen in ranked[limit:] for place in chosen]
    rows = [*named, *([(OTHERS, others)] if others else [])]
    return [CreatorScores(name, len(chosen), float(right[chosen].mean())) for name, chosen in rows]


def name_creator(photo: PhotoRow) -> str:
    return photo.creator or photo.creator_url or UNKNOWN


def rank(keys: Sequence[Any]) -> dict[Any, list[int]]:
    """The places of each key, that of most places first, else in the order of the keys."""
    places: dict[Any, list[int]] = defaultdict(list)
    for place, key in enumerate(keys):
        places[key].append(place)
    return dict(sorted(places.items(), key=lambda item: (-len(item[1]), str(item[0]))))


def score_predictions(
    probabilities: Probabilities,
    class_ids: ClassIds,
    groups: Sequence[str],
    classes: Sequence[ClassScores],
    confidence_level: float,
    top_k: int,
) -> dict[str, float]:
    """Score all predictions together; a mean is one over the labels, and left out where no label defines it.

    Args:
        probabilities: (N, K).
        class_ids: the right class numbers (N,).
        groups: the group of each photo, N names.
        classes: the scores of the K classes.
        confidence_level: of the accuracy's interval.
        top_k: among so many of the likeliest labels is the right one to be.
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
