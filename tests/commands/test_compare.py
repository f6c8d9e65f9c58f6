"""Comparisons of runs in a real store: the output of the command, and that it changes nothing."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from mlflow import MlflowClient

from commands.compare import tabulate_labels
from darkroom.runs.pairs import pair_photos
from darkroom.tracking.store import KEY_TAG, Store
from tests.recorded_runs import (
    GOOD,
    POOR,
    create_store,
    make_predictions,
    predict,
    record_predictions,
    record_run,
    run_app,
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return create_store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def runs(store: Store) -> dict[str, str]:
    """Run ids by name: `good` and `poor` tested the same photos; `pairs` is the good one with groups of two, `other`
    tested half of the photos, `earlier` has no digests and groups, `elsewhere` tested none of the photos."""
    return {
        "good": record_predictions(store, "good", predict(GOOD, range(40))),
        "poor": record_predictions(store, "poor", predict(POOR, range(40))),
        "pairs": record_predictions(store, "pairs", predict(GOOD, range(40), group_size=2)),
        "other": record_predictions(store, "other", predict(POOR, range(20, 60))),
        "earlier": record_predictions(
            store, "earlier", predict(POOR, range(40)), ["photo", "label", "predicted", "p(cat)", "p(dog)"]
        ),
        "elsewhere": record_predictions(store, "elsewhere", predict(POOR, range(100, 140))),
    }


@dataclass(frozen=True)
class Compare:
    """The command, for a store with runs; `runs` has their ids by name."""

    runs: dict[str, str]

    def __call__(self, *arguments: str) -> None:
        assert run_app("compare", *arguments) == 0

    def error(self, *arguments: str) -> str:
        """Run a comparison that fails, and return its error message."""
        return str(run_app("compare", *arguments))


@pytest.fixture
def compare(store: Store, runs: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Compare:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.address)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    return Compare(runs)


def printed(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()


def test_two_runs_of_the_same_photos(compare: Compare, capsys: pytest.CaptureFixture[str]) -> None:
    compare("good", "poor")

    good, poor = (f"run {compare.runs[name][:8]} ({name})" for name in ("good", "poor"))
    assert printed(capsys) == [
        f"compare: A is {good}, B is {poor}",
        "compare: A and B tested the same 40 photos",
        "",
        "                 photos  fraction",
        "A correct            36     0.900",
        "B correct            18     0.450",
        "both correct         16     0.400",
        "only A correct       20     0.500",
        "only B correct        2     0.050",
        "neither correct       2     0.050",
        "",
        "label  photos      A      B   A - B",
        "cat        20  0.900  0.450  +0.450",
        "dog        20  0.900  0.450  +0.450",
        "",
        f"compare: {good} and {poor} are distinguishable: 0.900 against 0.450 of 40 photos, difference +0.450 "
        "(95% interval +0.240 to +0.617), McNemar's test p = 0.00012",
    ]


def test_nothing_is_written(compare: Compare, store: Store) -> None:
    def state() -> object:
        client = MlflowClient(store.address)
        experiment = client.get_experiment_by_name(store.experiment)
        files = {path: path.read_bytes() for path in (store.root / "artifacts").rglob("*") if path.is_file()}
        return files, [run.to_dictionary() for run in client.search_runs([experiment.experiment_id])]

    before = state()
    compare("good", "poor")
    assert state() == before
    assert [path for path in Path().rglob("*") if path.is_file() and path.suffix != ".lock"] == []


def test_a_run_is_not_distinguishable_from_itself(compare: Compare, capsys: pytest.CaptureFixture[str]) -> None:
    compare("good", "good")
    last = printed(capsys)[-1]
    assert "(good) are not distinguishable: 0.900 against 0.900 of 40 photos, difference +0.000 (95% interval" in last
    assert last.endswith("McNemar's test p = 1")


def test_the_confidence_level_decides(compare: Compare, capsys: pytest.CaptureFixture[str]) -> None:
    compare("good", "poor", "--confidence-level", "0.9999")
    last = printed(capsys)[-1]
    assert " are not distinguishable: " in last
    assert "(99.99% interval " in last
    assert compare.error("good", "poor", "--confidence-level", "95") == (
        "compare: --confidence-level: expected a number above 0 and below 1, such as 0.95, got 95"
    )


def test_groups_count_together(compare: Compare, capsys: pytest.CaptureFixture[str]) -> None:
    compare("pairs", "poor")
    lines = printed(capsys)
    assert lines[2] == "compare: related photos, such as near duplicates, are counted as groups: 20 groups"
    assert " are distinguishable: 0.900 against 0.450 of 40 photos" in lines[-1]
    assert lines[-1].endswith(f"McNemar's test p = {2 * 12 / 2**11:.2g}")  # ten pairs for A, one for B


def test_photos_that_only_one_run_tested_are_left_out(compare: Compare, capsys: pytest.CaptureFixture[str]) -> None:
    compare("good", "other")
    lines = printed(capsys)
    assert lines[1] == "compare: A tested 40 photos, B 40; compared on the 20 photos that both tested"
    assert " of 20 photos, difference " in lines[-1]


def test_an_earlier_run_is_compared_by_name(compare: Compare, capsys: pytest.CaptureFixture[str]) -> None:
    compare("good", "earlier")
    lines = printed(capsys)
    assert lines[1:3] == [
        "compare: A and B tested the same 40 photos",
        "compare: B did not record the photos' digests: photos are matched by name",
    ]
    assert lines[-1].endswith("McNemar's test p = 0.00012")


def test_runs_that_cannot_be_compared_give_a_one_line_error(
    compare: Compare, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    record_run(store, {}, "live", {})
    record_run(store, {}, "bare", {KEY_TAG: "bare"})
    good, elsewhere = compare.runs["good"][:8], compare.runs["elsewhere"][:8]
    messages = {
        "nobody": "compare: there is no run nobody in the experiment darkroom of sqlite:///",
        "e": "compare: e matches several runs of the experiment darkroom ",
        "live": "compare: run ",
        "bare": "compare: data/evaluate/predictions.csv of run ",
        "elsewhere": f"compare: run {good} (good) tested 40 photos, run {elsewhere} (elsewhere) 40, and none is in "
        "both; use the same photos and labels",
    }
    for wanted, start in messages.items():
        error = compare.error("good", wanted)
        assert error.startswith(start)
        assert "\n" not in error
    assert "has no recorded result" in compare.error("live", "good")
    assert printed(capsys) == []


class TestTables:
    def test_labels_of_any_length_are_aligned(self) -> None:
        run = make_predictions("", "1 x x", f"2 {'long' * 20} y", f"3 {'long' * 20} {'long' * 20}")
        table = tabulate_labels(pair_photos(run, run)).splitlines()
        assert [line[80:] for line in table] == [
            "  photos      A      B   A - B",
            "       2  0.500  0.500  +0.000",
            "       1  1.000  1.000  +0.000",
        ]
