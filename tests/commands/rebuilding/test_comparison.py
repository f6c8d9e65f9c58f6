import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commands.rebuilding.comparison import (
    PredictionDifference,
    RebuildVerdict,
    compare_predictions,
    compare_results,
    describe_environments,
    describe_stages,
    difference,
    list_differing,
)

RECORDED = {
    "acquire": {"data/acquire/photos": "1.dir"},
    "train": {"data/train/model.keras": "2", "metrics/train.json": "3"},
    "evaluate": {"data/evaluate/predictions.csv": "4"},
}
OTHER_MODEL = RECORDED | {"train": {"data/train/model.keras": "x", "metrics/train.json": "3"}}

probabilities = st.floats(0, 1)
tables = st.lists(probabilities, min_size=1, max_size=20).map(
    lambda values: [predict(f"photo {number}", value) for number, value in enumerate(values)]
)


def predict(photo: str, cat: float, label: str = "cat") -> dict[str, str]:
    predicted, best = ("cat", cat) if cat >= 0.5 else ("dog", 1 - cat)
    names = {"photo": photo, "sha256": f"sha256 of {photo}", "group": "a group", "label": label, "predicted": predicted}
    return names | {"probability": str(best), "p(cat)": str(cat), "p(dog)": str(1 - cat)}


class TestCompareResults:
    def test_equal_digests_are_identical_whatever_the_predictions(self) -> None:
        verdict = compare_results(RECORDED, RECORDED, [], [], 0)
        assert (str(verdict), verdict.is_same, verdict.first) == ("identical to the byte", True, None)

    def test_an_output_that_only_the_rebuilt_result_has_is_a_difference(self) -> None:
        rebuilt = RECORDED | {"evaluate": RECORDED["evaluate"] | {"metrics/evaluate.json": "5"}}
        assert compare_results(RECORDED, rebuilt, [], [], 0).differing["evaluate"] == ["metrics/evaluate.json"]

    def test_a_stage_that_did_not_run_differs_in_all_its_outputs(self) -> None:
        verdict = compare_results(RECORDED, {"acquire": RECORDED["acquire"]}, [], [], 0)
        assert verdict.first == "train"
        assert verdict.differing["train"] == ["data/train/model.keras", "metrics/train.json"]

    def test_probabilities_within_the_tolerance_are_equal(self) -> None:
        verdict = compare_results(OTHER_MODEL, RECORDED, [predict("a", 0.75)], [predict("a", 0.7505)], 0.001)
        assert verdict.is_same
        assert str(verdict) == (
            "equal within 0.0005: the first stage that differs is train, but all 1 test photos have the same "
            "predicted label"
        )

    def test_probabilities_beyond_the_tolerance_are_different(self) -> None:
        verdict = compare_results(OTHER_MODEL, RECORDED, [predict("a", 0.75)], [predict("a", 0.7505)], 0.0004)
        assert not verdict.is_same
        assert str(verdict) == (
            "different: the first stage that differs is train (data/train/model.keras); 0 of 1 test photos have "
            "a different predicted label, probabilities differ by up to 0.0005 (--tolerance 0.0004)"
        )

    def test_another_predicted_label_is_different_even_for_close_probabilities(self) -> None:
        verdict = compare_results(OTHER_MODEL, RECORDED, [predict("a", 0.5)], [predict("a", 0.4999)], 1)
        assert not verdict.is_same
        assert "1 of 1 test photos have a different predicted label" in str(verdict)

    def test_other_test_photos_cannot_be_compared(self) -> None:
        verdict = compare_results(OTHER_MODEL, RECORDED, [predict("a", 0.5)], [predict("b", 0.5)], 1)
        assert not verdict.is_same
        assert str(verdict).endswith("; the predictions cannot be compared, because their photos or labels differ")

    @given(tables, st.data(), st.floats(0, 1))
    @settings(deadline=None)
    def test_with_the_same_labels_only_the_tolerance_decides(
        self, rows: list[dict[str, str]], data: st.DataObject, tolerance: float
    ) -> None:
        shares = [data.draw(st.floats(0.5, 1) if row["predicted"] == "cat" else st.floats(0, 0.49)) for row in rows]
        rebuilt = [predict(row["photo"], share) for row, share in zip(rows, shares, strict=True)]
        verdict = compare_results(OTHER_MODEL, RECORDED, rows, rebuilt, tolerance)
        largest = max(
            abs(float(one[name]) - float(other[name]))
            for one, other in zip(rows, rebuilt, strict=True)
            for name in ("probability", "p(cat)", "p(dog)")
        )
        assert verdict.is_same == (largest <= tolerance)


class TestComparePredictions:
    @given(tables, st.randoms(use_true_random=False))
    @settings(deadline=None)
    def test_a_table_is_equal_to_itself_in_any_order(self, rows: list[dict[str, str]], random: object) -> None:
        shuffled = list(rows)
        random.shuffle(shuffled)
        assert compare_predictions(rows, shuffled) == PredictionDifference(len(rows), 0, 0.0)

    @given(tables, tables)
    @settings(deadline=None)
    def test_the_comparison_is_symmetric(self, one: list[dict[str, str]], other: list[dict[str, str]]) -> None:
        assert compare_predictions(one, other) == compare_predictions(other, one)

    @pytest.mark.parametrize(
        "rebuilt",
        [
            [],
            [predict("a", 0.75)],
            [predict("a", 0.75), predict("c", 0.25)],
            [predict("a", 0.75), predict("b", 0.25, label="dog")],
            [predict("a", 0.75), predict("b", 0.25) | {"p(fish)": "0"}],
        ],
        ids=["none", "fewer", "others", "another true label", "another column"],
    )
    def test_other_photos_or_labels_are_not_compared(self, rebuilt: list[dict[str, str]]) -> None:
        assert compare_predictions([predict("a", 0.75), predict("b", 0.25)], rebuilt) is None

    def test_tables_without_rows_are_not_compared(self) -> None:
        assert compare_predictions([], []) is None

    def test_the_largest_difference_of_all_cells_is_taken(self) -> None:
        recorded = [predict("a", 0.75), predict("b", 0.25)]
        rebuilt = [predict("a", 0.76), predict("b", 0.75)]
        assert compare_predictions(recorded, rebuilt) == PredictionDifference(2, 1, 0.5)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [("0.5", "0.25", 0.25), ("nan", "nan", 0), ("nan", "0.5", math.inf), ("", "0.5", math.inf), ("1e-7", "1E-7", 0)],
)
def test_the_difference_to_a_value_that_is_not_a_number_is_infinite(one: str, other: str, expected: float) -> None:
    assert difference(one, other) == difference(other, one) == expected


def test_names_that_only_one_mapping_has_differ() -> None:
    assert list_differing({"a": "1", "b": "2", "c": "", "e": "4"}, {"b": "3", "d": "", "e": "4"}) == [
        "a",
        "b",
        "c",
        "d",
    ]


def test_each_stage_is_described_in_a_line() -> None:
    verdict = RebuildVerdict({"acquire": [], "split": [], "evaluate": ["a.csv", "b.csv"]}, None, 0.001)
    assert describe_stages(verdict, ["acquire"]) == (
        "acquire   restored from DVC\nsplit     identical\nevaluate  differs: a.csv, b.csv"
    )


def test_environments_are_compared_value_by_value() -> None:
    then = {"device": "cpu: A", "versions": {"keras": "3.15.1"}, "threads": {"requested": 2, "used": 2}}
    now = {"device": "cpu: B", "versions": {"keras": "3.15.1", "jax": "0.7"}, "threads": {"requested": 2, "used": 2}}
    assert describe_environments(then, then) == ""
    assert describe_environments(then, now) == ("device: cpu: A then, cpu: B now\nversions.jax: unknown then, 0.7 now")
