"""Confused pairs of labels, and the worst mistakes of a classifier. Dims: N photos, K classes."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.metrics import confusion_matrix

from darkroom.contact_sheet import SheetRow, draw_contact_sheet
from darkroom.pipeline.arrays import ClassIds, Pixels, Probabilities

SHEET_COLUMNS, CAPTION_WIDTH = 5, 200  # the latter in pixels


class ConfusedPair(NamedTuple):
    """A row of metrics/evaluate/confused.csv: the number of a label's photos that were predicted as another label, and
    their fraction of the label's photos, 0 to 1."""

    pair: str
    label: str
    predicted: str
    photos: int
    fraction: float


def list_confused(labels: Sequence[str], class_ids: ClassIds, predicted: ClassIds, limit: int) -> list[ConfusedPair]:
    """List the most confused pairs, most photos first.

    Args:
        labels: K labels.
        class_ids, predicted: true and predicted class IDs (N,).
        limit: the maximum number of pairs.
    """
    counts = confusion_matrix(class_ids, predicted, labels=range(len(labels)))
    photos = counts.sum(axis=1)
    return [
        ConfusedPair(
            f"{labels[row]} → {labels[column]}",
            labels[row],
            labels[column],
            int(counts[row, column]),
            float(counts[row, column] / photos[row]),
        )
        for row, column in rank_confused(counts, labels)[:limit]
    ]


def rank_confused(counts: npt.NDArray[np.int64], labels: Sequence[str]) -> ClassIds:
    """Rank the pairs of a true and a predicted class that have photos in a confusion matrix (K, K): most photos first,
    then those with the largest fraction of the true class, then by label. The result is (pairs, 2)."""
    rows, columns = np.nonzero(counts * ~np.eye(len(counts), dtype=bool))
    photos = counts[rows, columns]
    ranks = np.empty(len(labels), np.intp)
    ranks[sorted(range(len(labels)), key=lambda class_id: labels[class_id])] = range(len(labels))
    order = np.lexsort((ranks[columns], ranks[rows], -photos / counts.sum(axis=1)[rows], -photos))
    return np.column_stack([rows, columns])[order]


def find_worst(probabilities: Probabilities, class_ids: ClassIds, limit: int) -> list[int]:
    """Find the misclassified photos with the lowest probability of their true label.

    Args:
        probabilities: (N, K).
        class_ids: true class IDs (N,).
        limit: the maximum number of photos.

    Returns:
        indices of the photos, the worst first.
    """
    misclassified = np.flatnonzero(probabilities.argmax(axis=1) != class_ids)
    order = np.argsort(probabilities[misclassified, class_ids[misclassified]], kind="stable")
    return [int(index) for index in misclassified[order][:limit]]


def draw_mistakes(
    photos: Sequence[str], images: Pixels, class_ids: ClassIds, probabilities: Probabilities, labels: Sequence[str]
) -> bytes:
    """Draw misclassified photos, (N, H, W, C), as a PNG file, with true and predicted labels and probabilities."""
    captions = [
        f"{photo}\ntrue ({row[class_id]:.3f}): {labels[class_id]}\npredicted ({row.max():.3f}): {labels[row.argmax()]}"
        for photo, class_id, row in zip(photos, class_ids, probabilities, strict=True)
    ]
    title = "Worst mistakes, with probabilities" if captions else "No test photo was misclassified"
    return draw_contact_sheet([SheetRow(title, list(images), captions)], SHEET_COLUMNS, CAPTION_WIDTH)
