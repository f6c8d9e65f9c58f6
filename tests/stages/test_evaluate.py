import io

import numpy as np
import pytest
from PIL import Image

from stages.evaluate import draw_confusion, list_predictions, score_predictions
from stages.lib.scores import score_classes

LABELS = ["cat", "dog"]
TARGETS = np.array([0, 0, 1, 1])
PROBABILITIES = np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.3, 0.7]], np.float32)
PREDICTED = PROBABILITIES.argmax(axis=1)


def test_scores_are_those_that_one_counts_by_hand() -> None:
    scores = score_predictions(PROBABILITIES, TARGETS, score_classes(LABELS, TARGETS, PREDICTED), 0.95)
    assert scores["accuracy"] == 0.75
    # Wilson's interval of 3 out of 4, as in any table of it.
    assert (scores["accuracy_low"], scores["accuracy_high"]) == pytest.approx((0.3006, 0.9544), abs=1e-4)
    assert scores["loss"] == pytest.approx(-np.log([0.9, 0.4, 0.8, 0.7]).mean(), abs=1e-6)
    assert scores["macro_f1"] == pytest.approx((2 / 3 + 0.8) / 2)


def test_predictions_list_every_photo_with_all_probabilities_in_their_shortest_form() -> None:
    rows = list_predictions(["p1", "p2", "p3", "p4"], TARGETS, PROBABILITIES, LABELS)
    assert [list(map(str, row)) for row in rows[:2]] == [
        ["p1", "cat", "cat", "0.9", "0.9", "0.1"],
        ["p2", "cat", "dog", "0.6", "0.4", "0.6"],
    ]


def test_the_confusion_matrix_is_a_picture_and_the_same_each_time() -> None:
    picture = draw_confusion(TARGETS, PREDICTED, LABELS)
    assert Image.open(io.BytesIO(picture)).format == "PNG"
    assert draw_confusion(TARGETS, PREDICTED, LABELS) == picture
    assert draw_confusion(TARGETS, 1 - PREDICTED, LABELS) != picture


def test_a_label_that_the_test_subset_never_predicts_still_has_its_row() -> None:
    rows = score_classes(["cat", "dog", "fish"], np.array([0, 1, 2]), np.array([0, 1, 1]))
    assert [(row.label, row.precision, row.recall, row.photos) for row in rows] == [
        ("cat", 1.0, 1.0, 1),
        ("dog", 0.5, 1.0, 1),
        ("fish", 0.0, 0.0, 1),
    ]
