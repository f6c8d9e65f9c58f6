import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from commands.inflation import check_freshness, describe_outcomes, list_leaves, split_rows
from commands.inflation_runs import InflationExperiment, Outcome
from darkroom.pipeline.stage import StageError
from darkroom.scores.scores import Accuracy
from darkroom.tracking.store import Store
from tests.project import Project, copy_small_project
from tests.recorded_runs import create_database

CURVES = {"loss": [2.0, 1.0], "accuracy": [0.5, 0.75]}
HONEST = Outcome(Accuracy(0.5, 0.4, 0.6, 80), CURVES)
LEAKING = Outcome(Accuracy(0.93, 0.91, 0.95, 1600), CURVES)
PARAMS = {"train.epochs": "2"}
DATA = {"data/augment/images.npy": "0" * 32}


@pytest.fixture
def store(workspace: Path) -> Store:
    return create_database(workspace)


def recorded(store: Store) -> list[Run]:
    client = MlflowClient(store.address)
    return list(client.search_runs([e.experiment_id for e in client.search_experiments()]))


class TestSplit:
    def test_too_few_rows_are_rejected(self) -> None:
        with pytest.raises(
            StageError, match=r"^6 images of 2 classes are too few for a split by row \(.*\); add photos"
        ):
            split_rows(np.repeat([0, 1], 3), 0.15, 0.2, seed=3)

    def test_rows_are_split_at_random_with_the_fractions_of_the_params_and_stratified(self) -> None:
        class_ids = np.repeat([0, 1], [600, 400])
        rows = split_rows(class_ids, 0.15, 0.2, seed=3)
        assert sorted(np.concatenate(list(rows.values()))) == list(range(1000))
        assert {subset: len(numbers) for subset, numbers in rows.items()} == {
            "train": 650,
            "validation": 150,
            "test": 200,
        }
        assert np.mean(class_ids[rows["test"]]) == pytest.approx(0.4)
        np.testing.assert_array_equal(rows["test"], split_rows(class_ids, 0.15, 0.2, seed=3)["test"])
        assert list(rows["test"]) != list(split_rows(class_ids, 0.15, 0.2, seed=4)["test"])


class TestFreshness:
    def test_missing_data_is_an_error(self, workspace: Path) -> None:
        with pytest.raises(StageError, match=f"there is no dvc.lock in {workspace}"):
            check_freshness({})

    def test_changes_are_found_in_the_report_of_dvc(self) -> None:
        status = {
            "acquire": [{"changed deps": {"photos": "modified"}}],
            "split": [{"changed deps": {"params.yaml": {"split.seed": "modified"}}}, "changed command"],
        }
        assert list(list_leaves(status)) == ["photos", "split.seed", "changed command"]


def test_the_report_has_both_accuracies_with_intervals_and_the_difference() -> None:
    assert describe_outcomes(HONEST, LEAKING, 0.95) == (
        "split by photo (honest)     0.500 (95% interval 0.400 to 0.600), 80 images\n"
        "split by row (leaking)      0.930 (95% interval 0.910 to 0.950), 1600 images\n"
        "inflation                   +0.430\n"
        "(the interval by row is too narrow: it treats variants of one photo as independent)"
    )


def test_overlapping_intervals_are_reported() -> None:
    near = Outcome(Accuracy(0.55, 0.45, 0.65, 1600), CURVES)
    assert describe_outcomes(HONEST, near, 0.95).endswith(
        "(the intervals overlap: there are too few images to show a difference)"
    )


class TestRuns:
    OUTCOMES: ClassVar = {"by photo": HONEST, "by row": LEAKING}

    def test_two_linked_runs_are_recorded_in_a_separate_experiment(self, store: Store) -> None:
        honest_id, leaking_id = InflationExperiment.open(store).record("key", PARAMS, DATA, self.OUTCOMES)
        runs = {run.info.run_id: run for run in recorded(store)}
        assert set(runs) == {honest_id, leaking_id}
        honest, leaking = runs[honest_id], runs[leaking_id]
        assert MlflowClient(store.address).get_experiment(honest.info.experiment_id).name == "darkroom-inflation"
        assert honest.data.tags["darkroom.counterpart"] == leaking_id
        assert leaking.data.tags["darkroom.counterpart"] == honest_id
        assert leaking.data.tags["mlflow.parentRunId"] == honest_id
        assert honest.data.tags["mlflow.source.name"] == "darkroom inflation"
        assert honest.data.metrics["test_accuracy"] == 0.5
        assert leaking.data.metrics["test_accuracy_low"] == 0.91
        assert leaking.data.metrics["inflation"] == pytest.approx(0.43)
        assert leaking.data.params == PARAMS
        assert {run.info.status for run in runs.values()} == {"FINISHED"}
        history = MlflowClient(store.address).get_metric_history(leaking_id, "loss")
        assert [(point.step, point.value) for point in history] == [(1, 2.0), (2, 1.0)]

    def test_recorded_runs_are_found_with_their_accuracies(self, store: Store) -> None:
        experiment = InflationExperiment.open(store)
        assert experiment.find("key") == {}
        ids = experiment.record("key", PARAMS, DATA, self.OUTCOMES)
        known = experiment.find("key")
        assert [run.run_id for run in known.values()] == ids
        assert {split: run.outcome.accuracy for split, run in known.items()} == {
            split: outcome.accuracy for split, outcome in self.OUTCOMES.items()
        }
        assert experiment.find("another key") == {}

    def test_a_run_whose_counterpart_was_deleted_is_ignored(self, store: Store) -> None:
        experiment = InflationExperiment.open(store)
        _, leaking_id = experiment.record("key", PARAMS, DATA, self.OUTCOMES)
        MlflowClient(store.address).delete_run(leaking_id)
        assert experiment.find("key") == {}

    def test_an_unreachable_store_is_named(self, store: Store) -> None:
        unreachable = Store("http://127.0.0.1:9", "darkroom", store.root)
        with pytest.raises(StageError, match=r"the MLflow store http://127.0.0.1:9 .* then run this again$"):
            InflationExperiment.open(unreachable)

    def test_incomplete_runs_are_deleted(self, store: Store) -> None:
        broken = Outcome(HONEST.accuracy, {"a name that MLflow rejects: *": [1.0]})
        with pytest.raises(StageError, match="failed"):
            InflationExperiment.open(store).record("key", PARAMS, DATA, self.OUTCOMES | {"by row": broken})
        assert recorded(store) == []


@pytest.mark.slow
class TestCommand:
    @pytest.fixture(scope="class")
    def project(self, tmp_path_factory: pytest.TempPathFactory) -> Project:
        project = copy_small_project(tmp_path_factory.mktemp("inflation") / "project")
        project.forks = True
        project.set_params(augment__rotation_degrees=[-6, 6])
        project.dvc("repro", "split")
        return project

    @pytest.fixture
    def measure(self, project: Project) -> Callable[[], subprocess.CompletedProcess[str]]:
        return lambda: project.run("python", "-m", "commands", "inflation", check=False)

    def accuracy(self, printed: str, name: str) -> tuple[float, int]:
        """The accuracy and the number of test images that are printed for a split."""
        found = re.search(rf"split {re.escape(name)} +([\d.]+) \(.*\), (\d+) images", printed)
        assert found, printed
        return float(found[1]), int(found[2])

    def test_it_trains_on_both_splits_and_records_two_runs_once(
        self, project: Project, measure: Callable[[], subprocess.CompletedProcess[str]]
    ) -> None:
        lock = (project.root / "dvc.lock").read_bytes()
        first = measure()
        assert first.returncode == 0, first.stderr
        honest, leaking = (self.accuracy(first.stdout, name) for name in ("by photo (honest)", "by row (leaking)"))
        # Six of 36 photos, each without its rotated variants; a fifth of 108 rows.
        assert (honest[1], leaking[1]) == (6, 22)
        runs = {run.data.tags["darkroom.split"]: run.data.metrics["test_accuracy"] for run in project.runs()}
        assert runs["by photo"] == pytest.approx(honest[0], abs=5e-4)
        assert runs["by row"] == pytest.approx(leaking[0], abs=5e-4)
        assert first.stdout.endswith(", new\n")
        again = measure()
        assert again.stdout.endswith(", known\n")
        assert "training on" not in again.stdout
        assert again.stdout.splitlines()[0] in first.stdout
        assert len(project.runs()) == 2
        assert (project.root / "dvc.lock").read_bytes() == lock

    def test_changed_params_of_the_data_are_rejected(
        self, project: Project, measure: Callable[[], subprocess.CompletedProcess[str]]
    ) -> None:
        project.set_params(split__seed=5)
        done = measure()
        project.set_params(split__seed=42)
        assert done.returncode == 1
        assert done.stderr.endswith(
            "data/ is not up to date (changed: split): run `dvc repro split`, then run this again\n"
        )

    def test_changed_photos_are_rejected(
        self, project: Project, measure: Callable[[], subprocess.CompletedProcess[str]]
    ) -> None:
        photos = project.root.with_name("project-photos")
        added = photos / "circle" / "added.png"
        added.write_bytes((photos / "square" / "000.png").read_bytes())
        done = measure()
        added.unlink()
        assert done.returncode == 1
        assert f"data/ is not up to date (changed: {photos})" in done.stderr
