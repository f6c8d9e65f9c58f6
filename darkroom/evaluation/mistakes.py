"""What a classifier takes for what. Dims: N photos, K classes."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from sklearn.metrics import confusion_matrix

from darkroom.contact_sheet import SheetRow, draw_contact_sheet
from darkroom.pipeline.arrays import ClassIds, Pixels, Probabilities

SHEET_COLUMNS, CAPTION_WIDTH = 5, 200  # the latter in pixels


class ConfusedPair(NamedTuple):
    """A row of metrics/evaluate/confused.csv: so many photos of a label were taken for another, and their share of
    its photos, 0 to 1."""

    pair: str
    label: str
    predicted: str
    photos: int
    share: float


def list_confused(labels: Sequence[str], class_ids: ClassIds, predicted: ClassIds, limit: int) -> list[ConfusedPair]:
    """List the pairs that are confused most, at most `limit`, the most photos first.

    Args:
        labels: K labels.
        class_ids, predicted: class numbers (N,).
        limit: how many pairs at most.
    """
    counts = confusion_matrix(class_ids, predicted, labels=range(len(labels)))
    photos = counts.sum(axis=1)
    pairs = [
        ConfusedPair(
            f"{labels[row]} → {labels[column]}",
            labels[row],
            labels[column],
            int(counts[row, column]),
            float(counts[row, column] / photos[row]),
        )
        for row, column in np.argwhere(counts)
        if row != column
    ]
    return sorted(pairs, key=lambda pair: (-pair.photos, -pair.share, pair.label, pair.predicted))[:limit]


def find_worst(probabilities: Probabilities, class_ids: ClassIds, limit: int) -> list[int]:
    """The places of the photos that were told wrong and give their own label the least probability, the worst first.

    Args:
        probabilities: (N, K).
        class_ids: class numbers (N,).
        limit: how many at most.
    """
    wrong = np.flatnonzero(probabilities.argmax(axis=1) != class_ids)
    order = np.argsort(probabilities[wrong, class_ids[wrong]], kind="stable")
    return [int(place) for place in wrong[order][:limit]]


def draw_mistakes(
    photos: Sequence[str], pictures: Pixels, class_ids: ClassIds, probabilities: Probabilities, labels: Sequence[str]
) -> bytes:
    """Draw photos that were told wrong, (N, H, W, C), as a PNG file, with truth, prediction and their probabilities."""
    captions = [
        f"{photo}\ntruth ({row[class_id]:.3f}): {labels[class_id]}\ntold ({row.max():.3f}): {labels[row.argmax()]}"
        for photo, class_id, row in zip(photos, class_ids, probabilities, strict=True)
    ]
    title = "The worst mistakes, with probabilities" if captions else "No test photo was told wrong"
    return draw_contact_sheet([SheetRow(title, list(pictures), captions)], SHEET_COLUMNS, CAPTION_WIDTH)
