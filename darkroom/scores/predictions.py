"""data/evaluate/predictions.csv: what a model told of each test photo. Dims: N photos, K classes."""

from collections.abc import Sequence

import numpy as np

from darkroom.pipeline.arrays import ClassNumbers, Probabilities
from darkroom.pipeline.dataset import PhotoRow
from darkroom.pipeline.files import read_table, write_table, written_again
from darkroom.pipeline.paths import EVALUATE_PREDICTIONS
from darkroom.pipeline.stage import StageError


def list_columns(labels: Sequence[str]) -> list[str]:
    return ["photo", "sha256", "group", "label", "predicted", "probability", *(f"p({label})" for label in labels)]


def write_predictions(
    photos: Sequence[PhotoRow],
    groups: Sequence[str],
    targets: ClassNumbers,
    probabilities: Probabilities,
    labels: Sequence[str],
) -> None:
    """Write photo, digest, group, label, predicted label, its probability, and the probability of each label.

    Args:
        photos, groups: N photos and the group of each.
        targets: class numbers (N,).
        probabilities: (N, K).
        labels: K labels.
    """
    rows = [
        [photo.photo, photo.sha256, group, labels[target], labels[row.argmax()], row.max(), *row]
        for photo, group, target, row in zip(photos, groups, targets, probabilities, strict=True)
    ]
    write_table(EVALUATE_PREDICTIONS, list_columns(labels), rows)


def read_predicted(photos: Sequence[str], labels: Sequence[str]) -> ClassNumbers:
    """Read the class numbers that were predicted for photos (N,).

    Raises:
        StageError: the table cannot be read, or is one of other photos or labels.
    """
    numbers = {label: number for number, label in enumerate(labels)}
    predicted = {row["photo"]: row["predicted"] for row in read_table(EVALUATE_PREDICTIONS, list_columns(labels))}
    try:
        return np.array([numbers[predicted[photo]] for photo in photos], np.int64)
    except KeyError as error:
        again = written_again(EVALUATE_PREDICTIONS)
        raise StageError(f"{EVALUATE_PREDICTIONS}: lacks the photo or the label {error}; {again}") from None
