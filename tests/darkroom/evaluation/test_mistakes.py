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
TARGETS = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 2])
PREDICTED = np.array([0, 1, 1, 2, 1, 0, 2, 2, 0, 1])


class TestConfused:
    def test_most_photos_come_first_then_the_largest_share_then_the_names(self) -> None:
        assert list_confused(LABELS, TARGETS, PREDICTED, 20) == [
            ConfusedPair("cat → dog", "cat", "dog", 2, 0.5),
            ConfusedPair("dog → cat", "dog", "cat", 1, pytest.approx(1 / 3)),
            ConfusedPair("dog → eel", "dog", "eel", 1, pytest.approx(1 / 3)),
            ConfusedPair("eel → cat", "eel", "cat", 1, pytest.approx(1 / 3)),
            ConfusedPair("eel → dog", "eel", "dog", 1, pytest.approx(1 / 3)),
            ConfusedPair("cat → eel", "cat", "eel", 1, 0.25),
        ]

    def test_labels_that_are_numbered_otherwise_stand_in_the_same_order(self) -> None:
        other = np.array([2, 0, 1])
        pairs = list_confused([LABELS[1], LABELS[2], LABELS[0]], other[TARGETS], other[PREDICTED], 20)
        assert pairs == list_confused(LABELS, TARGETS, PREDICTED, 20)

    @pytest.mark.parametrize("limit", [0, 1, 3])
    def test_only_the_first_ones_are_listed(self, limit: int) -> None:
        assert list_confused(LABELS, TARGETS, PREDICTED, limit) == list_confused(LABELS, TARGETS, PREDICTED, 20)[:limit]

    def test_what_is_told_right_is_no_pair(self) -> None:
        assert list_confused(LABELS, TARGETS, TARGETS, 20) == []

    def test_a_label_without_photos_can_be_predicted(self) -> None:
        assert list_confused(LABELS, np.array([0, 0]), np.array([0, 2]), 20) == [
            ConfusedPair("cat → eel", "cat", "eel", 1, 0.5)
        ]


class TestWorst:
    PROBABILITIES = np.array(
        [
            [0.90, 0.05, 0.05],  # right
            [0.30, 0.60, 0.10],  # the label has 0.3
            [0.05, 0.90, 0.05],  # right, however little the first one has
            [0.40, 0.10, 0.50],  # 0.1
            [0.10, 0.60, 0.30],  # 0.3
            [0.80, 0.19, 0.01],  # 0.01
        ],
        np.float32,
    )
    TARGETS = np.array([0, 0, 1, 1, 2, 2])

    def test_the_least_probability_of_the_right_label_comes_first_and_equal_ones_in_their_order(self) -> None:
        assert find_worst(self.PROBABILITIES, self.TARGETS, 25) == [5, 3, 1, 4]

    def test_only_the_first_ones_are_found(self) -> None:
        assert find_worst(self.PROBABILITIES, self.TARGETS, 3) == [5, 3, 1]
        assert find_worst(self.PROBABILITIES, self.TARGETS, 0) == []

    def test_many_equal_ones_stay_in_their_order(self) -> None:
        own = np.random.default_rng(0).choice(np.float32([0.1, 0.2, 0.3]), 100)
        found = find_worst(np.stack([own, 1 - own], axis=1), np.zeros(100, np.int64), 50)
        assert found == sorted(range(100), key=lambda place: own[place])[:50]

    def test_none_is_found_where_all_are_right(self) -> None:
        assert find_worst(self.PROBABILITIES, self.PROBABILITIES.argmax(axis=1), 25) == []


class TestSheet:
    def test_captions_tell_the_photo_and_the_probabilities_of_truth_and_mistake(self) -> None:
        pictures = np.stack([noise(10, 12, seed=seed) for seed in range(2)])
        probabilities = np.array([[0.3, 0.6, 0.1], [0.0004, 0.0, 0.9996]], np.float32)
        title = "The worst mistakes, with probabilities"
        captions = ["p2\ntruth (0.300): cat\ntold (0.600): dog", "p5\ntruth (0.000): cat\ntold (1.000): eel"]
        expected = draw_contact_sheet([SheetRow(title, list(pictures), captions)], SHEET_COLUMNS, CAPTION_WIDTH)
        assert draw_mistakes(["p2", "p5"], pictures, np.array([0, 0]), probabilities, LABELS) == expected

    def test_no_mistake_gives_a_sheet_that_says_so(self) -> None:
        pictures, targets = np.empty((0, 10, 12, 3), np.uint8), np.empty(0, np.int64)
        expected = draw_contact_sheet([SheetRow("No test photo was told wrong", [], [])], SHEET_COLUMNS, CAPTION_WIDTH)
        assert draw_mistakes([], pictures, targets, np.empty((0, 3), np.float32), LABELS) == expected
