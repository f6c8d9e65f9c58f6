"""Score the trained network on the test subset, which nothing has looked at before.

Reads   params.yaml                    evaluate
        data/augment/images.npy        uint8 pixels (rows, height, width, channels)
        data/augment/images.csv        photo and label of each row
        data/split/test.npy            row numbers, originals only
        data/train/model.keras         pixels in, probabilities out
        data/train/labels.json         the labels in the order of the outputs
Writes  metrics/evaluate.json          accuracy with its interval, loss, mean F1
        metrics/evaluate/classes.csv   a row per label: precision, recall, F1, photos
        data/evaluate/predictions.csv  a row per test photo: label, predicted label, all probabilities
        data/evaluate/confusion.png    the confusion matrix as a picture
Run as  python -m stages.evaluate
"""

import io
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from sklearn.metrics import ConfusionMatrixDisplay, confusion_matrix

from stages.lib.arrays import ClassNumbers, Probabilities
from stages.lib.backend import make_deterministic
from stages.lib.batches import Batches
from stages.lib.dataset import StoredImages, read_index, read_labels, read_row_numbers, write_rows
from stages.lib.files import write_bytes, write_json, write_table
from stages.lib.modelfile import load_model
from stages.lib.params import EvaluateParams, read_params
from stages.lib.paths import (
    AUGMENT_IMAGES,
    AUGMENT_INDEX,
    EVALUATE_CLASSES,
    EVALUATE_CONFUSION_PLOT,
    EVALUATE_METRICS,
    EVALUATE_PREDICTIONS,
    TRAIN_LABELS,
    TRAIN_MODEL,
    subset_rows,
)
from stages.lib.scores import ClassScores, cross_entropy, measure_accuracy, score_classes
from stages.lib.stage import run_stage
from stages.lib.targets import make_targets


def score_predictions(
    probabilities: Probabilities, targets: ClassNumbers, classes: Sequence[ClassScores], confidence_level: float
) -> dict[str, float]:
    """Score all predictions together.

    Args:
        probabilities: (N, K).
        targets: the right class numbers (N,).
        classes: the scores of the K classes.
        confidence_level: of the accuracy's interval.
    """
    accuracy = measure_accuracy(probabilities.argmax(axis=1), targets, confidence_level)
    return {
        "accuracy": accuracy.value,
        "accuracy_low": accuracy.low,
        "accuracy_high": accuracy.high,
        "loss": cross_entropy(probabilities, targets),
        "macro_f1": float(np.mean([row.f1 for row in classes])),
    }


def list_predictions(
    photos: Sequence[str], targets: ClassNumbers, probabilities: Probabilities, labels: Sequence[str]
) -> list[list[object]]:
    """List photo, label, predicted label, its probability, and the probability of each label."""
    predicted = probabilities.argmax(axis=1)
    return [
        [photo, labels[target], labels[best], row[best], *row]
        for photo, target, best, row in zip(photos, targets, predicted, probabilities, strict=True)
    ]


def draw_confusion(targets: ClassNumbers, predicted: ClassNumbers, labels: Sequence[str]) -> bytes:
    """Draw the confusion matrix, a row per true label, as a PNG file."""
    side = 2.5 + 0.45 * len(labels)
    # Not the user's own settings: they would change the bytes.
    with matplotlib.rc_context(matplotlib.rcParamsDefault):
        return draw_matrix(targets, predicted, labels, Figure(figsize=(side + 1, side), layout="constrained"))


def draw_matrix(targets: ClassNumbers, predicted: ClassNumbers, labels: Sequence[str], figure: Figure) -> bytes:
    axes = figure.add_subplot()
    display = ConfusionMatrixDisplay(
        confusion_matrix(targets, predicted, labels=range(len(labels))), display_labels=labels
    )
    display.plot(ax=axes, cmap="Blues", xticks_rotation="vertical")
    for text in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        text.set_parse_math(False)  # a label may have dollar signs
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=100)
    return file.getvalue()


def main() -> None:
    params = read_params("evaluate", EvaluateParams)

    make_deterministic(seed=0, threads=params.threads)
    index = read_index(AUGMENT_INDEX)
    images = StoredImages(AUGMENT_IMAGES, len(index))
    labels = read_labels(TRAIN_LABELS)
    rows = read_row_numbers(subset_rows("test"), len(index))
    model = load_model(TRAIN_MODEL)

    targets = np.array([labels.index(index[row].label) for row in rows], np.int64)
    probabilities = model.predict(
        Batches(images, rows, make_targets(targets, len(labels)), params.batch_size), verbose=0
    )
    predicted = probabilities.argmax(axis=1)
    classes = score_classes(labels, targets, predicted)
    scores = score_predictions(probabilities, targets, classes, params.confidence_level)

    write_json(EVALUATE_METRICS, scores)
    write_rows(EVALUATE_CLASSES, ClassScores, classes)
    write_table(
        EVALUATE_PREDICTIONS,
        ("photo", "label", "predicted", "probability", *(f"p({label})" for label in labels)),
        list_predictions([index[row].photo for row in rows], targets, probabilities, labels),
    )
    write_bytes(EVALUATE_CONFUSION_PLOT, draw_confusion(targets, predicted, labels))
    print(
        f"evaluate: {len(rows)} test photos -> {EVALUATE_METRICS}, accuracy {scores['accuracy']:.4f} "
        f"({params.confidence_level:.0%} interval {scores['accuracy_low']:.4f} to {scores['accuracy_high']:.4f})"
    )


if __name__ == "__main__":
    run_stage("evaluate", main)
