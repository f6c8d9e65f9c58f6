import math
import warnings

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, precision_score, recall_score, roc_auc_score

from darkroom.pipeline.arrays import ClassIds, Probabilities
from darkroom.pipeline.dataset import PhotoRow
from darkroom.scores.intervals import accuracy_interval, wilson_interval
from darkroom.scores.scores import (
    OTHERS,
    UNKNOWN,
    Accuracy,
    ClassScores,
    CreatorScores,
    cross_entropy,
    mean_score,
    measure_accuracy,
    score_classes,
    score_creators,
    score_predictions,
    score_sources,
    top_k_accuracy,
)
from tests.examples import photo_row

LABELS = ["cat", "dog", "eel"]


def certain(predicted: list[int], classes: int = 3) -> Probabilities:
    """Probabilities of 1 for these class IDs."""
    return np.eye(classes, dtype=np.float32)[predicted]


def draw_predictions(seed: int, photos: int = 60, classes: int = 4) -> tuple[ClassIds, Probabilities]:
    """Draw labels, each of at least one photo, and probabilities that favor them, with many ties."""
    random = np.random.default_rng(seed)
    class_ids = np.concatenate([np.arange(classes), random.integers(0, classes, photos - classes)])
    values = np.round(random.dirichlet(np.ones(classes), photos) + np.eye(classes)[class_ids] / 2, 1) + 0.1
    return class_ids, (values / values.sum(axis=1, keepdims=True)).astype(np.float32)


class TestCrossEntropy:
    def test_it_is_the_mean_of_the_negative_logarithms(self) -> None:
        probabilities = np.array([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]], np.float32)
        expected = -(math.log(0.5) + math.log(0.1)) / 2
        assert cross_entropy(probabilities, np.array([0, 2])) == pytest.approx(expected, rel=1e-6)

    def test_equal_probabilities_give_the_logarithm_of_the_number_of_classes(self) -> None:
        probabilities = np.full((7, 10), 0.1, np.float32)
        assert cross_entropy(probabilities, np.zeros(7, np.int64)) == pytest.approx(math.log(10))

    def test_a_class_without_photos_does_not_matter(self) -> None:
        probabilities = np.array([[0.7, 0.2, 0.1]], np.float32)
        assert cross_entropy(probabilities, np.array([0])) == pytest.approx(-math.log(0.7), rel=1e-6)

    def test_a_certain_but_wrong_prediction_has_a_large_finite_loss(self) -> None:
        loss = cross_entropy(np.array([[1, 0]], np.float32), np.array([1]))
        assert 10 < loss < math.inf

    @given(st.integers(1, 30), st.integers(2, 20), st.integers(0, 1000))
    @settings(deadline=None, max_examples=50)
    def test_rounding_to_single_precision_does_not_matter(self, photos: int, classes: int, seed: int) -> None:
        random = np.random.default_rng(seed)
        doubles = random.dirichlet(np.ones(classes), photos) * 0.9 + 0.1 / classes
        class_ids = random.integers(0, classes, photos)
        expected = -np.log(doubles[np.arange(photos), class_ids]).mean()
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # scikit-learn warns of rows whose sum is not 1
            loss = cross_entropy(doubles.astype(np.float32), class_ids)
        assert loss == pytest.approx(expected, rel=1e-5)


class TestClasses:
    def test_precision_recall_and_f1_of_each_label(self) -> None:
        rows = score_classes(LABELS, np.array([0, 0, 0, 1, 1, 2]), certain([0, 0, 1, 1, 0, 2]))
        assert [(row.label, row.precision, row.recall, row.f1, row.photos) for row in rows] == [
            ("cat", pytest.approx(2 / 3), pytest.approx(2 / 3), pytest.approx(2 / 3), 3),
            ("dog", 0.5, 0.5, 0.5, 2),
            ("eel", 1, 1, 1, 1),
        ]

    def test_all_scores_of_a_small_example(self) -> None:
        probabilities = np.array([[0.8, 0.2], [0.4, 0.6], [0.7, 0.3], [0.1, 0.9]], np.float32)
        # Sorted by cat's probability: a cat, a dog, a cat, a dog. So 3 of the 4 pairs of a cat and a dog are in the
        # correct order, and at the two cats, 1 of the first 1 and 2 of the first 3 photos are cats.
        cat = ClassScores("cat", 0.5, 0.5, 0.5, pytest.approx((1 + 2 / 3) / 2), 0.75, 2)
        # Sorted by dog's probability, the order is reversed: a dog, a cat, a dog, a cat.
        dog = ClassScores("dog", 0.5, 0.5, 0.5, pytest.approx((1 + 2 / 3) / 2), 0.75, 2)
        assert score_classes(["cat", "dog"], np.array([0, 0, 1, 1]), probabilities) == [cat, dog]

    @pytest.mark.parametrize("seed", range(5))
    def test_they_match_scikit_learn(self, seed: int) -> None:
        class_ids, probabilities = draw_predictions(seed)
        rows, predicted = score_classes(list("abcd"), class_ids, probabilities), probabilities.argmax(axis=1)
        assert [row.precision for row in rows] == pytest.approx(
            list(precision_score(class_ids, predicted, average=None))
        )
        assert [row.recall for row in rows] == pytest.approx(list(recall_score(class_ids, predicted, average=None)))
        average_precision = average_precision_score(np.eye(4)[class_ids], probabilities, average=None)
        assert [row.average_precision for row in rows] == pytest.approx(list(average_precision))
        area = roc_auc_score(np.eye(4)[class_ids], probabilities, average=None)
        assert [row.roc_auc for row in rows] == pytest.approx(list(area))

    @pytest.mark.parametrize("seed", range(5))
    def test_roc_auc_is_how_often_a_photo_of_the_label_has_the_higher_probability(self, seed: int) -> None:
        class_ids, probabilities = draw_predictions(seed)
        for number, row in enumerate(score_classes(list("abcd"), class_ids, probabilities)):
            own, other = probabilities[class_ids == number, number], probabilities[class_ids != number, number]
            differences = np.subtract.outer(own, other)
            assert row.roc_auc == pytest.approx((differences > 0).mean() + (differences == 0).mean() / 2)

    def test_a_label_that_is_never_predicted_scores_0(self) -> None:
        rows = score_classes(LABELS, np.array([0, 1, 2]), certain([0, 1, 1]))
        assert [(row.label, row.precision, row.recall, row.f1, row.photos) for row in rows] == [
            ("cat", 1, 1, 1, 1),
            ("dog", 0.5, 1, pytest.approx(2 / 3), 1),
            ("eel", 0, 0, 0, 1),
        ]

    @pytest.mark.filterwarnings("error")
    @pytest.mark.parametrize("predicted", [[0, 2, 0], [0, 0, 1]])
    def test_a_label_without_photos_has_no_scores(self, predicted: list[int]) -> None:
        row = score_classes(LABELS, np.array([0, 0, 1]), certain(predicted))[2]
        assert row == ClassScores("eel", None, None, None, None, None, 0)

    @pytest.mark.filterwarnings("error")
    def test_a_label_that_all_photos_have_has_no_ranking_scores(self) -> None:
        assert score_classes(LABELS, np.array([0, 0, 0, 0]), certain([0, 0, 0, 1])) == [
            ClassScores("cat", 1, 0.75, pytest.approx(6 / 7), None, None, 4),
            ClassScores("dog", None, None, None, None, None, 0),
            ClassScores("eel", None, None, None, None, None, 0),
        ]


class TestTopK:
    PROBABILITIES = np.array([[0.5, 0.3, 0.2], [0.2, 0.5, 0.3], [0.3, 0.2, 0.5], [0.2, 0.3, 0.5]], np.float32)

    def test_it_counts_true_labels_among_the_most_probable(self) -> None:
        class_ids = np.array([0, 2, 1, 0])  # first, second, last, last
        shares = [top_k_accuracy(self.PROBABILITIES, class_ids, k) for k in (1, 2, 3)]
        assert shares == [0.25, 0.5, 1]

    @given(st.integers(0, 1000))
    @settings(deadline=None, max_examples=50)
    def test_top_1_is_the_accuracy_even_with_ties(self, seed: int) -> None:
        random = np.random.default_rng(seed)
        probabilities = random.integers(1, 4, (40, 5)).astype(np.float32)
        class_ids = random.integers(0, 5, 40)
        accuracy = (probabilities.argmax(axis=1) == class_ids).mean()
        assert top_k_accuracy(probabilities, class_ids, 1) == pytest.approx(accuracy)

    def test_ties_go_to_the_first_labels(self) -> None:
        even = np.full((3, 3), 1 / 3, np.float32)
        assert top_k_accuracy(even, np.array([0, 1, 2]), 2) == pytest.approx(2 / 3)

    @pytest.mark.parametrize("k", [3, 4, 100])
    def test_with_k_of_all_labels_every_photo_counts(self, k: int) -> None:
        assert top_k_accuracy(self.PROBABILITIES, np.array([2, 0, 1, 0]), k) == 1


class TestMean:
    def test_undefined_scores_do_not_count(self) -> None:
        assert mean_score([0.5, None, 1.0, None]) == 0.75
        assert mean_score(value for value in (0.0, 0.0)) == 0

    @pytest.mark.parametrize("values", [[], [None], [None, None]])
    def test_without_scores_there_is_no_mean(self, values: list[None]) -> None:
        assert mean_score(values) is None


def correct_photos(*values: int) -> npt.NDArray[np.bool_]:
    return np.array(values, bool)


class TestAccuracy:
    def test_the_share_of_correct_photos_with_its_interval_by_group(self) -> None:
        correct, groups = correct_photos(1, 1, 1, 0), ["a", "b", "c", "d"]
        assert measure_accuracy(correct, groups, 0.95) == Accuracy(0.75, *wilson_interval(0.75, 4, 0.95), 4)
        paired = measure_accuracy(correct.repeat(2), np.repeat(groups, 2), 0.95)
        assert paired == Accuracy(0.75, *accuracy_interval(correct.repeat(2), np.repeat(groups, 2), 0.95), 8)
        assert paired.low < wilson_interval(0.75, 8, 0.95).low


def rows_of(*creators: str, source: str = "folder") -> list[PhotoRow]:
    return [photo_row(f"cat-{number}", creator=creator, source=source) for number, creator in enumerate(creators)]


class TestSources:
    def test_most_photos_come_first_with_an_interval_by_group(self) -> None:
        correct, photos = (
            correct_photos(1, 1, 1, 1, 0, 0, 1, 1),
            [*rows_of(*[""] * 6), *rows_of("", "", source="pexels")],
        )
        groups = ["a", "a", "b", "b", "c", "c", "d", "e"]
        folder, pexels = score_sources(photos, correct, groups, 0.9)
        assert (folder.name, folder.photos, pexels.name, pexels.photos) == ("folder", 6, "pexels", 2)
        assert (folder.accuracy_low, folder.accuracy_high) == accuracy_interval(correct[:6], groups[:6], 0.9)
        assert (pexels.accuracy_low, pexels.accuracy_high) == pytest.approx(wilson_interval(1, 2, 0.9))
        assert folder.accuracy_low < wilson_interval(2 / 3, 6, 0.9).low


class TestCreators:
    PHOTOS = tuple(rows_of("bo", "ann", "", "cy", "ann", "", "", "bo", "di"))
    CORRECT = correct_photos(1, 0, 1, 1, 1, 1, 0, 1, 0)

    def score(self, limit: int) -> list[CreatorScores]:
        return score_creators(self.PHOTOS, self.CORRECT, limit)

    def test_most_photos_come_first_then_names(self) -> None:
        assert self.score(30) == [
            CreatorScores(UNKNOWN, 3, pytest.approx(2 / 3)),
            CreatorScores("ann", 2, 0.5),
            CreatorScores("bo", 2, 1),
            CreatorScores("cy", 1, 1),
            CreatorScores("di", 1, 0),
        ]

    @pytest.mark.parametrize(
        ("limit", "names", "others"),
        [(1, [UNKNOWN], (6, 4)), (2, [UNKNOWN, "ann"], (4, 3)), (4, [UNKNOWN, "ann", "bo", "cy"], (1, 0))],
    )
    def test_creators_beyond_the_limit_share_a_row(self, limit: int, names: list[str], others: tuple[int, int]) -> None:
        rows = self.score(limit)
        assert rows[:-1] == self.score(30)[:limit]
        assert [row.name for row in rows] == [*names, OTHERS]
        assert (rows[-1].photos, rows[-1].accuracy * rows[-1].photos) == others

    def test_without_creators_beyond_the_limit_there_is_no_shared_row(self) -> None:
        assert self.score(5) == self.score(30)
        assert OTHERS not in {row.name for row in self.score(5)}

    def test_all_photos_are_counted_once(self) -> None:
        for limit in range(1, 7):
            assert sum(row.photos for row in self.score(limit)) == len(self.PHOTOS)

    def test_creators_of_the_same_name_are_separate_and_an_address_replaces_a_missing_name(self) -> None:
        photos = [
            photo_row("cat-1", creator="ann", creator_url="https://a.example/ann"),
            photo_row("cat-2", creator="ann", creator_url="https://a.example/other"),
            photo_row("cat-3", creator_url="https://a.example/quiet"),
            photo_row("cat-4", creator="ann", creator_url="https://a.example/ann"),
        ]
        rows = score_creators(photos, correct_photos(1, 0, 1, 1), 30)
        assert [(row.name, row.photos, row.accuracy) for row in rows] == [
            ("ann", 2, 1),
            ("ann", 1, 0),
            ("https://a.example/quiet", 1, 1),
        ]


class TestAllTogether:
    LABELS = ("cat", "dog")
    CLASS_IDS = np.array([0, 0, 1, 1])
    PROBABILITIES = np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.3, 0.7]], np.float32)

    def test_they_match_a_computation_by_hand(self) -> None:
        classes = score_classes(self.LABELS, self.CLASS_IDS, self.PROBABILITIES)
        scores = score_predictions(self.PROBABILITIES, self.CLASS_IDS, list("abcd"), classes, 0.95, 1)
        assert list(scores) == [
            *("accuracy", "accuracy_low", "accuracy_high", "top_k_accuracy", "loss"),
            *("balanced_accuracy", "macro_f1", "average_precision", "roc_auc"),
        ]
        assert scores["accuracy"] == scores["top_k_accuracy"] == 0.75
        # Wilson's interval for 3 out of 4, from any table.
        assert (scores["accuracy_low"], scores["accuracy_high"]) == pytest.approx((0.3006, 0.9544), abs=1e-4)
        assert scores["loss"] == pytest.approx(-np.log([0.9, 0.4, 0.8, 0.7]).mean(), abs=1e-6)
        assert scores["balanced_accuracy"] == pytest.approx((1 / 2 + 1) / 2)
        assert scores["macro_f1"] == pytest.approx((2 / 3 + 0.8) / 2)
        # All cats have a higher probability of cat than any dog.
        assert scores["average_precision"] == scores["roc_auc"] == 1

    def test_groups_widen_the_interval_and_top_2_of_2_is_1(self) -> None:
        classes = score_classes(self.LABELS, self.CLASS_IDS, self.PROBABILITIES)
        alone, grouped = (
            score_predictions(self.PROBABILITIES, self.CLASS_IDS, groups, classes, 0.95, 2)
            for groups in (list("abcd"), list("aabb"))
        )
        assert (
            grouped["accuracy_low"] < alone["accuracy_low"] < 0.75 < alone["accuracy_high"] < grouped["accuracy_high"]
        )
        assert alone["top_k_accuracy"] == 1

    def test_a_label_without_photos_does_not_lower_the_means(self) -> None:
        probabilities = np.pad(self.PROBABILITIES, ((0, 0), (0, 1)))
        two, three = (
            score_predictions(
                values, self.CLASS_IDS, list("abcd"), score_classes(labels, self.CLASS_IDS, values), 0.95, 1
            )
            for labels, values in ((self.LABELS, self.PROBABILITIES), ([*self.LABELS, "eel"], probabilities))
        )
        assert three == pytest.approx(two)

    def test_means_that_no_label_defines_are_left_out(self) -> None:
        class_ids = np.zeros(4, np.int64)
        scores = score_predictions(
            self.PROBABILITIES,
            class_ids,
            list("abcd"),
            score_classes(self.LABELS, class_ids, self.PROBABILITIES),
            0.95,
            1,
        )
        assert scores["balanced_accuracy"] == scores["accuracy"] == 0.25
        assert {"average_precision", "roc_auc"}.isdisjoint(scores)
