"""The table data/evaluate/predictions.csv, a row per test photo: its columns, and how to write and read it.

Dims: N photos, K classes.
"""

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from darkroom.pipeline.arrays import ClassIds, Probabilities
from darkroom.pipeline.dataset import PhotoRow
from darkroom.pipeline.files import read_table, write_table, written_again
from darkroom.pipeline.paths import EVALUATE_PREDICTIONS
from darkroom.pipeline.stage import StageError, name_some

# Tables of earlier versions lack these two columns.
DIGEST, GROUP = "sha256", "group"
# The columns of strings; all others are probabilities, from 0 to 1.
NAMES = ("photo", DIGEST, GROUP, "label", "predicted")
REQUIRED = tuple(name for name in NAMES if name not in (DIGEST, GROUP))
PROBABILITY_COLUMN = re.compile(r"p\((.*)\)", re.DOTALL)

Row = Mapping[str, str]  # a photo's cells by column


class PredictionTable(NamedTuple):
    """The table's rows, at least one, and the K labels of the model."""

    rows: list[Row]
    labels: list[str]


def list_columns(labels: Sequence[str]) -> list[str]:
    return [*NAMES, "probability", *(f"p({label})" for label in labels)]


def list_labels(columns: Sequence[str]) -> list[str]:
    """List the labels whose probabilities are in the columns."""
    return [match[1] for match in map(PROBABILITY_COLUMN.fullmatch, columns) if match]


def write_predictions(
    photos: Sequence[PhotoRow],
    groups: Sequence[str],
    class_ids: ClassIds,
    probabilities: Probabilities,
    labels: Sequence[str],
) -> None:
    """Write photo, digest, group, label, predicted label, its probability, and the probability of each label.

    Args:
        photos, groups: N photos and the group of each.
        class_ids: true class IDs (N,).
        probabilities: (N, K).
        labels: K labels.
    """
    rows = [
        [photo.photo, photo.sha256, group, labels[class_id], labels[row.argmax()], row.max(), *row]
        for photo, group, class_id, row in zip(photos, groups, class_ids, probabilities, strict=True)
    ]
    write_table(EVALUATE_PREDICTIONS, list_columns(labels), rows)


def read_predictions(path: Path) -> PredictionTable:
    """Read the predictions of any result, written by this version or an earlier one.

    Raises:
        StageError: the file is missing or is no such table; the message says what was expected and what was found.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            columns = list(reader.fieldnames or [])
            rows: list[Row] = list(reader)
    except (FileNotFoundError, UnicodeDecodeError, csv.Error):
        columns, rows = [], []
    is_whole = all(None not in row and None not in row.values() for row in rows)
    if not rows or not is_whole or not set(REQUIRED) <= set(columns):
        raise StageError(
            f"expected a row per photo with {', '.join(REQUIRED)}, got {len(rows)} rows with {name_some(columns, 8)}"
        )
    return PredictionTable(rows, list_labels(columns))


def read_predicted(photos: Sequence[str], labels: Sequence[str]) -> ClassIds:
    """Read the predicted class IDs of photos (N,).

    Raises:
        StageError: the table cannot be read, or has other photos or labels.
    """
    class_ids = {label: class_id for class_id, label in enumerate(labels)}
    predicted = {row["photo"]: row["predicted"] for row in read_table(EVALUATE_PREDICTIONS, list_columns(labels))}
    try:
        return np.array([class_ids[predicted[photo]] for photo in photos], np.int64)
    except KeyError as error:
        again = written_again(EVALUATE_PREDICTIONS)
        raise StageError(f"{EVALUATE_PREDICTIONS}: lacks the photo or the label {error}; {again}") from None
