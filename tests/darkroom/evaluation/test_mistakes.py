import numpy as np
import pytest

from darkroom.contact_sheet import SheetRow, draw_contact_sheet
from darkroom.evaluation.mistakes import (
    CAPTION_WIDTH,
    SHEET_COLUMNS,
    ConfusedPair,
    draw_mistakes,
    find_worst,
    list_confused,
)
from tests.examples import noise

LABELS = ["cat", "dog", "eel"]
CLASS_IDS = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 2])
PREDICTED = np.array([0, 1, 1, 2, 1, 0, 2, 2, 0, 1])


class TestConfused:
    def test_pairs_are_sorted_by_photos_then_fraction_then_labels(self) -> None:
        assert list_confused(LABELS, CLASS_IDS, PREDICTED, 20) == [
            ConfusedPair("cat → dog", "cat", "dog", 2, 0.5),
            ConfusedPair("dog → cat", "dog", "cat", 1, pytest.approx(1 / 3)),
            ConfusedPair("dog → eel", "dog", "eel", 1, pytest.approx(1 / 3)),
            ConfusedPair("eel → cat", "eel", "cat", 1, pytest.approx(1 / 3)),
            ConfusedPair("eel → dog", "eel", "dog", 1, pytest.approx(1 / 3)),
            ConfusedPair("cat → eel", "cat", "eel", 1, 0.25),
        ]

    def test_the_order_of_the_labels_does_not_matter(self) -> None:
        other = np.array([2, 0, 1])
        pairs = list_confused([LABELS[1], LABELS[2], LABELS[0]], other[CLASS_IDS], other[PREDICTED], 20)
        assert pairs == list_confused(LABELS, CLASS_IDS, PREDICTED, 20)

    @pytest.mark.parametrize("limit", [0, 1, 3])
    def test_the_limit_keeps_the_first_pairs(self, limit: int) -> None:
        assert (
            list_confused(LABELS, CLASS_IDS, PREDICTED, limit)
            == list_confused(LABELS, CLASS_IDS, PREDICTED, 20)[:limit]
        )

    def test_correct_photos_give_no_pairs(self) -> None:
        assert list_confused(LABELS, CLASS_IDS, CLASS_IDS, 20) == []

    def test_a_label_without_photos_can_be_predicted(self) -> None:
        assert list_confused(LABELS, np.array([0, 0]), np.array([0, 2]), 20) == [
            ConfusedPair("cat → eel", "cat", "eel", 1, 0.5)
        ]


class TestWorst:
    PROBABILITIES = np.array(
        [
            [0.90, 0.05, 0.05],  # correct
            [0.30, 0.60, 0.10],  # the true label has 0.3
            [0.05, 0.90, 0.05],  # correct
            [0.40, 0.10, 0.50],  # the true label has 0.1
            [0.10, 0.60, 0.30],  # the true label has 0.3
            [0.80, 0.19, 0.01],  # the true label has 0.01
        ],
        np.float32,
    )
    CLASS_IDS = np.array([0, 0, 1, 1, 2, 2])

    def test_the_lowest_probability_of_the_true_label_comes_first_and_ties_stay_in_order(self) -> None:
        assert find_worst(self.PROBABILITIES, self.CLASS_IDS, 25) == [5, 3, 1, 4]

    def test_the_limit_keeps_the_worst_photos(self) -> None:
        assert find_worst(self.PROBABILITIES, self.CLASS_IDS, 3) == [5, 3, 1]
        assert find_worst(self.PROBABILITIES, self.CLASS_IDS, 0) == []

    def test_many_ties_stay_in_order(self) -> None:
        own = np.random.default_rng(0).choice(np.float32([0.1, 0.2, 0.3]), 100)
        found = find_worst(np.stack([own, 1 - own], axis=1), np.zeros(100, np.int64), 50)
        assert found == sorted(range(100), key=lambda index: own[index])[:50]

    def test_none_is_found_if_all_are_correct(self) -> None:
        assert find_worst(self.PROBABILITIES, self.PROBABILITIES.argmax(axis=1), 25) == []


class TestSheet:
    def test_captions_have_the_photo_and_the_true_and_predicted_labels_with_probabilities(self) -> None:
        images = np.stack([noise(10, 12, seed=seed) for seed in range(2)])
        probabilities = np.array([[0.3, 0.6, 0.1], [0.0004, 0.0, 0.9996]], np.float32)
        title = "Worst mistakes, with probabilities"
        captions = ["p2\ntrue (0.300): cat\npredicted (0.600): dog", "p5\ntrue (0.000): cat\npredicted (1.000): eel"]
        expected = draw_contact_sheet([SheetRow(title, list(images), captions)], SHEET_COLUMNS, CAPTION_WIDTH)
        assert draw_mistakes(["p2", "p5"], images, np.array([0, 0]), probabilities, LABELS) == expected

    def test_without_mistakes_the_sheet_says_so(self) -> None:
        images, class_ids = np.empty((0, 10, 12, 3), np.uint8), np.empty(0, np.int64)
        expected = draw_contact_sheet(
            [SheetRow("No test photo was misclassified", [], [])], SHEET_COLUMNS, CAPTION_WIDTH
        )
        assert draw_mistakes([], images, class_ids, np.empty((0, 3), np.float32), LABELS) == expected
