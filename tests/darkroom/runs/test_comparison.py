import pytest

from darkroom.pipeline.stage import StageError
from darkroom.runs.comparison import check_confidence_level, compare_accuracy, describe_photos
from darkroom.runs.pairs import pair_photos
from tests.recorded_runs import make_predictions


class TestDescription:
    @pytest.mark.parametrize(
        ("first", "second", "said"),
        [
            ("cat dog", "dog cat", []),
            (
                "cat dog",
                "cat dog eel",
                ["A has 2 labels, B has 3 (only B: eel); a classifier with fewer labels has an easier task"],
            ),
            ("cat dog", "cat eel", ["A has 2 labels, B has 2 (only A: dog; only B: eel)"]),
        ],
        ids=["the same", "more", "others"],
    )
    def test_different_labels_of_the_classifiers_are_reported(self, first: str, second: str, said: list[str]) -> None:
        one, other = make_predictions(first, "1 cat cat"), make_predictions(second, "1 cat cat")
        lines = describe_photos(one, other, pair_photos(one, other))
        assert lines[3:] == said

    def test_photos_with_different_labels_are_reported(self) -> None:
        one, other = (
            make_predictions("cat", "1 cat cat", "2 cat cat"),
            make_predictions("cat", "1 cat cat", "2 dog cat"),
        )
        assert describe_photos(one, other, pair_photos(one, other))[1:3] == [
            "A tested 2 photos, B 2; compared on the 1 photos that both tested",
            "left out: 1 photos whose labels differ between the runs",
        ]


class TestPairedVerdict:
    def test_a_tiny_p_value_is_shown_as_a_bound(self) -> None:
        good = make_predictions("", *(f"{number} x x" for number in range(2000)))
        poor = make_predictions("", *(f"{number} x y" for number in range(2000)))
        said = compare_accuracy("run 1", "run 2", pair_photos(good, poor), 0.95).text
        assert said.startswith(
            "run 1 and run 2 are distinguishable: 1.000 against 0.000 of 2000 photos, difference +1.000"
        )
        assert said.endswith("McNemar's test p < 1e-99")

    def test_the_test_takes_precedence_over_the_interval(self) -> None:
        shared = [f"{number} x x" for number in range(89)]
        first = make_predictions("", *shared, *(f"a{n} x x" for n in range(9)), *(f"b{n} x y" for n in range(2)))
        second = make_predictions("", *shared, *(f"a{n} x y" for n in range(9)), *(f"b{n} x x" for n in range(2)))
        said = compare_accuracy("run 1", "run 2", pair_photos(first, second), 0.95).text
        assert "are not distinguishable" in said
        assert "(95% interval +0.001 to +0.137)" in said
        assert said.endswith("McNemar's test p = 0.065, which takes precedence")

    @pytest.mark.parametrize(
        ("photos", "level", "is_better", "is_worse"),
        [(10, 0.95, True, True), (10, 0.999, False, False), (5, 0.95, False, False)],
        ids=["far apart", "not at that level", "too few photos"],
    )
    def test_a_run_is_better_only_if_the_two_are_distinguishable(
        self, photos: int, level: float, is_better: bool, is_worse: bool
    ) -> None:
        good = make_predictions("", *(f"{number} x x" for number in range(photos)))
        poor = make_predictions("", *(f"{number} x y" for number in range(photos)))
        up = compare_accuracy("run 1", "run 2", pair_photos(good, poor), level)
        down = compare_accuracy("run 2", "run 1", pair_photos(poor, good), level)
        assert (up.difference, down.difference) == (1.0, -1.0)
        assert (up.is_distinguishable, down.is_distinguishable) == (is_better, is_worse)
        assert (up.first_is_better, down.first_is_better) == (is_better, False)


class TestLevel:
    @pytest.mark.parametrize("level", [0.0, 1.0, 95.0, -0.5, float("nan")])
    def test_an_invalid_confidence_level_is_rejected(self, level: float) -> None:
        with pytest.raises(StageError, match=f"^--confidence-level: expected a number above 0 and below 1.*{level:g}$"):
            check_confidence_level(level)

    def test_a_valid_confidence_level_is_accepted(self) -> None:
        check_confidence_level(0.95)
