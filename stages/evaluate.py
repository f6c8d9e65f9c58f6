"""Evaluate the trained model on the test subset, which training has not used.

Reads   params.yaml                       evaluate
        data/acquire/photos.csv           where each photo comes from
        data/augment/images.npy           uint8 pixels (images, height, width, channels)
        data/augment/images.csv           photo and label of each image
        data/split/validation.npy         row numbers, used only to fit the temperature
        data/split/test.npy               row numbers, originals only
        data/split/photos.csv             the group of each photo
        data/train/model.keras            pixels in, probabilities out
        data/train/labels.json            the labels in the order of the outputs
Writes  metrics/evaluate.json             accuracy with its interval, loss, means over the labels, calibration
        metrics/evaluate/classes.csv      a row per label: precision, recall, F1, average precision, ROC-AUC
        metrics/evaluate/confused.csv     the most confused pairs of labels
        metrics/evaluate/reliability.csv  accuracy by probability
        metrics/evaluate/reliability_scaled.csv  the same after temperature scaling
        metrics/evaluate/sources.csv      accuracy by source
        metrics/evaluate/creators.csv     accuracy by creator
        data/evaluate/predictions.csv     a row per test photo: label, predicted label, all probabilities
        data/evaluate/confusion.png       the confusion matrix
        data/evaluate/reliability.png     the reliability diagram
        data/evaluate/top_losses.png      the misclassified photos with the highest loss
Run as  python -m stages.evaluate
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from darkroom.evaluation.calibration import (
    Calibration,
    ReliabilityRow,
    ScaledReliabilityRow,
    calibrate,
    list_reliability,
    list_scaled_reliability,
)
from darkroom.evaluation.mistakes import ConfusedPair, draw_mistakes, find_worst, list_confused
from darkroom.evaluation.score_charts import draw_confusion, draw_reliability
from darkroom.models.backend import make_deterministic
from darkroom.models.batches import Batches
from darkroom.models.targets import make_targets
from darkroom.params.evaluate import EvaluateParams
from darkroom.params.section import read_params
from darkroom.pipeline.arrays import Probabilities
from darkroom.pipeline.dataset import write_rows
from darkroom.pipeline.files import write_bytes, write_json
from darkroom.pipeline.paths import (
    EVALUATE_CLASSES,
    EVALUATE_CONFUSED,
    EVALUATE_CONFUSION_PLOT,
    EVALUATE_CREATORS,
    EVALUATE_METRICS,
    EVALUATE_RELIABILITY,
    EVALUATE_RELIABILITY_PLOT,
    EVALUATE_SCALED_RELIABILITY,
    EVALUATE_SOURCES,
    EVALUATE_TOP_LOSSES,
)
from darkroom.pipeline.stage import name_some, refuse_arguments, run_stage
from darkroom.scores.predictions import write_predictions
from darkroom.scores.scores import (
    ClassScores,
    CreatorScores,
    OriginScores,
    score_classes,
    score_creators,
    score_predictions,
    score_sources,
)
from darkroom.scores.trained_model import (
    LabelledImages,
    ModelWithData,
    read_photo_groups,
    read_photo_rows,
    read_trained_model,
)

MOST_CONFUSED_PAIRS, MOST_CREATORS, MOST_MISTAKES = 20, 30, 25


def predict_subset(trained: ModelWithData, subset: LabelledImages, batch_size: int) -> Probabilities:
    batches = Batches(subset.images, subset.rows, make_targets(subset.class_ids, len(trained.labels)), batch_size)
    probabilities: Probabilities = trained.model.predict(batches, verbose=0)
    return probabilities


def draw_plots(
    test: LabelledImages, probabilities: Probabilities, labels: Sequence[str], calibration: Calibration
) -> dict[Path, bytes]:
    """Draw all plots of the stage as PNG files, by path."""
    worst = np.array(find_worst(probabilities, test.class_ids, MOST_MISTAKES), np.int64)
    images = test.images.take(test.rows[worst])
    photos = [test.photos[index] for index in worst]
    titles = [
        f"as trained, calibration error {calibration.scores['calibration_error']:.3f}",
        f"temperature {calibration.temperature:.2f}, error {calibration.scores['scaled_calibration_error']:.3f}",
    ]
    return {
        EVALUATE_CONFUSION_PLOT: draw_confusion(test.class_ids, probabilities.argmax(axis=1), labels),
        EVALUATE_RELIABILITY_PLOT: draw_reliability(calibration.bins, calibration.scaled_bins, titles),
        EVALUATE_TOP_LOSSES: draw_mistakes(photos, images, test.class_ids[worst], probabilities[worst], labels),
    }


def main() -> None:
    params = read_params("evaluate", EvaluateParams)

    make_deterministic(seed=0, threads=params.threads)
    trained = read_trained_model()
    labels = trained.labels
    validation, test = trained.subset("validation"), trained.subset("test")
    photos, groups = read_photo_rows(test.photos), read_photo_groups(test.photos)

    held_out, probabilities = (predict_subset(trained, subset, params.batch_size) for subset in (validation, test))
    predicted = probabilities.argmax(axis=1)
    correct, level = predicted == test.class_ids, params.confidence_level
    classes = score_classes(labels, test.class_ids, probabilities)
    calibration = calibrate(probabilities, test.class_ids, held_out, validation.class_ids, params.calibration_bins)
    scores = score_predictions(probabilities, test.class_ids, groups, classes, level, params.top_k)
    confused = list_confused(labels, test.class_ids, predicted, MOST_CONFUSED_PAIRS)

    write_json(EVALUATE_METRICS, scores | calibration.scores)
    write_rows(EVALUATE_CLASSES, ClassScores, classes)
    write_rows(EVALUATE_CONFUSED, ConfusedPair, confused)
    write_rows(EVALUATE_RELIABILITY, ReliabilityRow, list_reliability(calibration.bins))
    write_rows(EVALUATE_SCALED_RELIABILITY, ScaledReliabilityRow, list_scaled_reliability(calibration.scaled_bins))
    write_rows(EVALUATE_SOURCES, OriginScores, score_sources(photos, correct, groups, level))
    write_rows(EVALUATE_CREATORS, CreatorScores, score_creators(photos, correct, MOST_CREATORS))
    write_predictions(photos, groups, test.class_ids, probabilities, labels)
    for path, png in draw_plots(test, probabilities, labels, calibration).items():
        write_bytes(path, png)
    if calibration.is_at_a_bound:
        print(
            f"evaluate: the fitted temperature hit its limit ({calibration.temperature:g}), as happens when every "
            "validation photo is classified correctly or accuracy is at chance; do not rely on the scaled probabilities"
        )
    without = [row.label for row in classes if not row.photos]
    if without:
        print(f"evaluate: there are no test photos of {name_some(without)}; scores of these labels are empty")
    print(
        f"evaluate: {len(photos)} test photos -> {EVALUATE_METRICS}, accuracy {scores['accuracy']:.4f} "
        f"({level * 100:g}% interval {scores['accuracy_low']:.4f} to {scores['accuracy_high']:.4f})"
    )


if __name__ == "__main__":
    refuse_arguments("evaluate", __doc__)
    run_stage("evaluate", main)
