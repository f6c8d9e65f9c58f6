"""Runs in a real store: live, adopted, restored and abandoned ones."""

import re
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import mlflow
import pytest
from filelock import FileLock
from mlflow.entities import Run, ViewType

from darkroom.pipeline.stage import StageError
from darkroom.recording.result import Result
from darkroom.recording.run import record_result
from darkroom.runs.lookup import find_run, open_existing
from darkroom.runs.registry import registry_lock
from darkroom.tracking.address import local_folder
from darkroom.tracking.client import connect
from darkroom.tracking.live_run import LiveRun
from darkroom.tracking.lockfile import file_digest
from darkroom.tracking.store import Store, find_recorded_run
from stages.record import main
from tests.project import ROOT
from tests.recorded_runs import create_database

pytestmark = pytest.mark.slow

CURVES = [{"loss": 2.0, "val_loss": 2.5}, {"loss": 1.0, "val_loss": 1.5}]
ARTIFACTS = [Path("dvc.lock"), Path("metrics/evaluate.json"), Path("metrics/evaluate/classes.csv")]
LEVELS = [("accuracy_by_level/noise", 0.75, 0), ("accuracy_by_level/noise", 0.5, 16)]
PARAMS = {
    "train.epochs": "2",
    "augment.resize": "crop",
    "augment.resampling": "bilinear",
    "augment.color": "rgb",
}


@pytest.fixture
def store(workspace: Path) -> Store:
    """An empty store in an empty project that has the files to record."""
    (workspace / "darkroom").symlink_to(ROOT / "darkroom")
    for file in (*ARTIFACTS, Path("data/train/model.keras"), Path("data/train/labels.json")):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"content of {file}")
    return create_database(workspace)


@pytest.fixture
def result() -> Callable[..., Result]:
    def make(key: str = "key-1", experiment: str = "", model_digest: str = "model-1", **params: str) -> Result:
        return Result(
            key=key,
            params=PARAMS | params,
            curves=CURVES,
            levels=LEVELS,
            scores={"test_accuracy": 0.75},
            datasets={"photos": ("data/acquire/photos", "0" * 32 + ".dir")},
            artifacts=ARTIFACTS,
            tags={"dvc.md5.data/train/model.keras": "model-1"},
            model_digest=model_digest,
            experiment=experiment,
        )

    return make


def train_live(store: Store, model_digest: str = "model-1", epochs: int = 2, **params: str) -> str:
    """Log a run as a training does, and return its ID."""
    with LiveRun.open(store, {"train.epochs": "2"} | params) as live_run:
        for epoch, metrics in enumerate(CURVES[:epochs], 1):
            live_run.log_epoch(epoch, metrics)
        live_run.hand_over(model_digest)
    return live_run.run_id


def all_runs(store: Store) -> dict[str, Run]:
    client, experiment_id = connect(store)
    return {run.info.run_id: run for run in client.search_runs([experiment_id], run_view_type=ViewType.ALL)}


def all_versions(store: Store) -> list[tuple[str, int, str, dict[str, str]]]:
    """Registered model, number, run and tags of each version in the registry."""
    found = connect(store)[0].search_model_versions()
    return sorted((version.name, int(version.version), version.run_id, version.tags) for version in found)


def curve(store: Store, run_id: str, metric: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in connect(store)[0].get_metric_history(run_id, metric)]


def test_a_result_adopts_the_run_of_its_training(store: Store, result: Callable[..., Result]) -> None:
    live = train_live(store)
    assert all_runs(store)[live].info.status == "RUNNING"

    assert record_result(store, result()) == (live, "adopted")

    run = all_runs(store)[live]
    assert run.info.status == "FINISHED"
    assert run.data.tags["darkroom.key"] == "key-1"
    assert "darkroom.restored" not in run.data.tags
    assert run.data.params == PARAMS
    assert curve(store, live, "loss") == [(1, 2.0), (2, 1.0)]
    assert find_recorded_run(store, "key-1") == live


def test_a_known_result_adds_no_run(store: Store, result: Callable[..., Result]) -> None:
    first, _ = record_result(store, result())
    assert record_result(store, result()) == (first, "known")
    assert list(all_runs(store)) == [first]


def test_a_result_that_an_earlier_version_recorded_is_known_by_its_earlier_key(
    store: Store, result: Callable[..., Result]
) -> None:
    first, _ = record_result(store, result("with executable bits"))
    again = replace(result("without"), earlier_keys=("with executable bits",))
    assert record_result(store, again) == (first, "known")
    shutil.rmtree(store.root / "mlartifacts")
    assert record_result(store, again) == (first, "completed")
    assert all_versions(store) == [("darkroom", 1, first, {"darkroom.key": "with executable bits"})]


def test_each_result_is_one_version_of_the_registered_model_however_often_it_is_recorded(
    store: Store, result: Callable[..., Result]
) -> None:
    keys = ("key-1", "key-2", "key-1", "key-2")
    first, second, *again = [record_result(store, result(key, model_digest=key))[0] for key in keys]
    assert again == [first, second]
    assert all_versions(store) == [
        ("darkroom", 1, first, {"darkroom.key": "key-1"}),
        ("darkroom", 2, second, {"darkroom.key": "key-2"}),
    ]
    for number, run_id in enumerate((first, second), 1):
        files = mlflow.artifacts.download_artifacts(f"models:/darkroom/{number}", tracking_uri=store.address)
        logged = all_runs(store)[run_id].outputs.model_outputs[0].model_id
        assert f"model_id: {logged}\n" in Path(files, "MLmodel").read_text()


@pytest.mark.parametrize(
    "step", ["create_model_version", "set_model_version_tag", "set_logged_model_tags", "set_terminated"]
)
def test_an_interrupted_registration_leaves_one_version_with_the_key_of_the_result(
    store: Store, result: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("gone")

    with monkeypatch.context() as broken:
        broken.setattr(f"mlflow.MlflowClient.{step}", fail)
        with pytest.raises(StageError, match="gone"):
            record_result(store, result("key-1"))
    assert not any("darkroom.key" in run.data.tags for run in all_runs(store).values())
    # The scores have changed in the meantime, so the same run records another result.
    run_id, _ = record_result(store, result("key-2"))
    assert list(all_runs(store)) == [run_id]
    assert all_versions(store) == [("darkroom", 1, run_id, {"darkroom.key": "key-2"})]


def test_another_experiment_has_another_registered_model(store: Store, result: Callable[..., Result]) -> None:
    one, _ = record_result(store, result())
    other, _ = record_result(replace(store, experiment="cats/dogs: 2"), result())
    assert [(name, number, run_id) for name, number, run_id, _ in all_versions(store)] == [
        ("cats-dogs- 2", 1, other),
        ("darkroom", 1, one),
    ]


def test_waiting_for_a_promote_prints_a_message(
    store: Store, result: Callable[..., Result], capsys: pytest.CaptureFixture[str]
) -> None:
    printed = ""
    store.locks_folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(1) as pool:
        with FileLock(registry_lock(store)):
            waiting = pool.submit(record_result, store, result())
            deadline = time.monotonic() + 60
            while "waiting" not in printed and time.monotonic() < deadline:
                time.sleep(0.05)
                printed += capsys.readouterr().err
            assert not waiting.done()
            assert all_versions(store) == []
        run_id, _ = waiting.result()
    assert printed.splitlines()[-1] == "record: waiting for a running promote to finish"
    assert [version[:3] for version in all_versions(store)] == [("darkroom", 1, run_id)]


def test_epochs_missing_after_a_store_failure_are_added(store: Store, result: Callable[..., Result]) -> None:
    live = train_live(store, epochs=1)
    record_result(store, result())
    assert curve(store, live, "loss") == [(1, 2.0), (2, 1.0)]


def test_an_identical_training_adds_no_second_run(store: Store, result: Callable[..., Result]) -> None:
    first, _ = record_result(store, result())
    again = train_live(store)
    assert find_recorded_run(store, "key-1") is None  # the live run is not closed yet

    assert record_result(store, result()) == (first, "known")

    runs = all_runs(store)
    assert (runs[again].info.status, runs[again].info.lifecycle_stage) == ("KILLED", "deleted")
    assert find_recorded_run(store, "key-1") == first


def test_a_training_with_other_params_is_not_adopted_even_if_its_model_is_the_same(
    store: Store, result: Callable[..., Result]
) -> None:
    other = train_live(store, **{"train.epochs": "9"})
    run_id, how = record_result(store, result())
    assert how == "restored"
    assert run_id != other
    # Nothing in this folder will record it.
    assert (all_runs(store)[other].info.status, all_runs(store)[other].info.lifecycle_stage) == ("KILLED", "active")
    assert find_recorded_run(store, "key-1") == run_id


def test_a_training_in_another_folder_waits_for_its_own_record(
    store: Store, result: Callable[..., Result], workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (workspace / "experiment").mkdir()
    with monkeypatch.context() as elsewhere:
        elsewhere.chdir(workspace / "experiment")
        other = train_live(store, "model-2")
    record_result(store, result())
    assert all_runs(store)[other].info.status == "RUNNING"

    (workspace / "experiment").rmdir()  # as DVC does after a failed experiment
    record_result(store, result())
    assert all_runs(store)[other].info.status == "KILLED"


def test_unusual_labels_can_be_recorded(store: Store, result: Callable[..., Result]) -> None:
    labels = ["it's", "a,b", "(1)", "x&y", "ü" * 100, "日本", "$5"]
    train_live(store, **{f"acquire.classes.{label}": "x" for label in labels})
    odd = result(**{f"acquire.classes.{label}": "x" for label in labels})
    run_id, how = record_result(store, odd)
    assert how == "adopted"
    assert len(all_runs(store)[run_id].data.params) == len(PARAMS) + len(labels)


def test_scores_of_an_interrupted_record_are_overwritten(
    store: Store, result: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr("mlflow.MlflowClient.log_inputs", lambda *_: (_ for _ in ()).throw(OSError("gone")))
        with pytest.raises(StageError, match="gone"):
            record_result(store, result())
    better = replace(result("key-2"), scores={"test_accuracy": 0.99})
    run_id, _ = record_result(store, better)
    assert all_runs(store)[run_id].data.metrics["test_accuracy"] == 0.99


def test_experiments_with_the_same_model_adopt_their_own_runs(
    store: Store, result: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    live_runs = []
    for name in ("one", "two"):
        Path(name).mkdir()
        with monkeypatch.context() as experiment:
            experiment.setenv("DVC_EXP_NAME", name)
            experiment.chdir(name)
            live_runs.append(train_live(store))
    one, two = live_runs
    assert record_result(store, result("key-one", "one")) == (one, "adopted")
    assert record_result(store, result("key-two", "two")) == (two, "adopted")
    assert {run.info.run_name for run in all_runs(store).values()} == {"one", "two"}


@pytest.mark.parametrize(("epochs", "stage"), [(0, "deleted"), (1, "active")])
def test_a_training_that_raises_leaves_a_failed_run_deleted_if_no_epoch_was_completed(
    store: Store, epochs: int, stage: str
) -> None:
    live_run = LiveRun.open(store, {})
    for epoch, metrics in enumerate(CURVES[:epochs], 1):
        live_run.log_epoch(epoch, metrics)
    with pytest.raises(ZeroDivisionError), live_run:
        raise ZeroDivisionError
    run = all_runs(store)[live_run.run_id]
    assert (run.info.status, run.info.lifecycle_stage) == ("FAILED", stage)


def test_runs_of_killed_trainings_are_closed_and_active_ones_are_not(
    store: Store, result: Callable[..., Result]
) -> None:
    killed, active = LiveRun.open(store, {}), LiveRun.open(store, {})
    assert killed.lock is not None
    killed.lock.release()  # as the system does when it kills a process

    record_result(store, result())

    runs = all_runs(store)
    assert (runs[killed.run_id].info.status, runs[active.run_id].info.status) == ("KILLED", "RUNNING")


def test_an_interrupted_record_is_completed_in_the_same_run(
    store: Store, result: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr("mlflow.MlflowClient.set_terminated", lambda *_: (_ for _ in ()).throw(OSError("gone")))
        with pytest.raises(StageError, match="gone"):
            record_result(store, result())
    (interrupted,) = all_runs(store).values()
    assert "darkroom.key" not in interrupted.data.tags

    assert record_result(store, result()) == (interrupted.info.run_id, "restored")

    (run,) = all_runs(store).values()
    assert run.data.tags["darkroom.key"] == "key-1"
    assert len(run.outputs.model_outputs) == 1
    assert curve(store, run.info.run_id, "loss") == [(1, 2.0), (2, 1.0)]
    assert curve(store, run.info.run_id, "accuracy_by_level/noise") == [(0, 0.75), (16, 0.5)]


def test_a_result_whose_run_was_deleted_is_recorded_again(store: Store, result: Callable[..., Result]) -> None:
    first, _ = record_result(store, result())
    connect(store)[0].delete_run(first)
    assert find_recorded_run(store, "key-1") is None
    second, how = record_result(store, result())
    assert (how, second != first) == ("restored", True)


@pytest.mark.parametrize("what", ["a file", "all files", "the model"])
def test_a_known_run_that_lost_its_files_gets_them_again(
    store: Store, result: Callable[..., Result], what: str
) -> None:
    run_id, _ = record_result(store, result())
    run = all_runs(store)[run_id]
    files = local_folder(run.info.artifact_uri)
    model = store.root / "mlartifacts/models"
    assert files is not None
    match what:
        case "a file":
            (files / ARTIFACTS[-1]).unlink()
        case "all files":
            shutil.rmtree(files)
        case "the model":
            shutil.rmtree(model)
    assert find_recorded_run(store, "key-1", ARTIFACTS) is None

    assert record_result(store, result()) == (run_id, "completed")

    assert find_recorded_run(store, "key-1", ARTIFACTS) == run_id
    assert (files / ARTIFACTS[-1]).read_bytes() == ARTIFACTS[-1].read_bytes()
    downloaded = mlflow.artifacts.download_artifacts("models:/darkroom/1", tracking_uri=store.address)
    assert Path(downloaded, "artifacts/model.keras").read_bytes() == Path("data/train/model.keras").read_bytes()
    assert record_result(store, result()) == (run_id, "known")
    assert len(all_versions(store)) == len(all_runs(store)) == 1


def test_a_deleted_experiment_is_named_with_the_command_that_restores_it(
    store: Store, result: Callable[..., Result], capsys: pytest.CaptureFixture[str]
) -> None:
    run_id, _ = record_result(store, result())
    client, experiment_id = connect(store)
    client.delete_experiment(experiment_id)
    said = f"the experiment darkroom of .* was deleted; `mlflow experiments restore --experiment-id {experiment_id}`"
    assert find_recorded_run(store, "key-1") is None
    with pytest.raises(StageError, match=said):
        record_result(store, result())
    with LiveRun.open(store, {}) as live_run:
        assert not live_run.run_id
    assert re.search(said, capsys.readouterr().out)
    with pytest.raises(StageError, match=said), open_existing(store) as opened:
        find_run(opened, store, "brave")
    client.restore_experiment(experiment_id)
    assert record_result(store, result()) == (run_id, "known")


def test_a_run_id_in_the_environment_changes_nothing(
    store: Store, result: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    run_id, _ = record_result(store, result())
    assert all_runs(store)[run_id].info.status == "FINISHED"


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("http://someone:secret@127.0.0.1:9", "http://127.0.0.1:9"),
        ("http://someone:secret@127.0.0.1:50x0", "http://127.0.0.1:50x0"),
        ("postgresql+psycopg://someone:secret@localhost/runs", "postgresql+psycopg://localhost/runs"),
        ("sqlite:////proc/nowhere/mlflow.db", "sqlite:////proc/nowhere/mlflow.db"),
        ("nonsense://somewhere", "nonsense://somewhere"),
    ],
)
def test_if_the_store_fails_live_logging_stops_and_training_continues(
    workspace: Path, capsys: pytest.CaptureFixture[str], address: str, shown: str
) -> None:
    unusable = Store(address, "darkroom", workspace)
    with LiveRun.open(unusable, {}) as live_run:
        live_run.log_epoch(1, CURVES[0])
        live_run.hand_over("model-1")
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    assert shown in printed
    assert "secret" not in printed


def test_recording_before_the_other_stages_is_an_error(workspace: Path) -> None:
    assert workspace.exists()
    with pytest.raises(StageError, match=r"there is no dvc\.lock in .*run `dvc repro`"):
        main()


def test_a_changed_output_is_not_recorded(workspace: Path, store: Store) -> None:
    assert store.root == workspace
    model = Path("data/train/model.keras")
    (workspace / "dvc.lock").write_text(
        "schema: '2.0'\nstages:\n  explain:\n    outs:\n"
        f"    - path: {model}\n      md5: {file_digest(model)}\n      hash: md5\n"
    )
    model.write_text("another model")
    with pytest.raises(StageError, match=r"model\.keras differs from dvc\.lock, so .*run `dvc repro`"):
        main()


@pytest.fixture(autouse=True)
def no_fluent_run() -> None:
    """MLflow has a module-wide active run; other tests must not leave one."""
    assert mlflow.active_run() is None
