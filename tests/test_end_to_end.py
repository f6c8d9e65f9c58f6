"""The pipeline as its users run it: dvc repro, dvc exp, a shared remote, a store that is away, and kills."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from mlflow.entities import Run, ViewType

from darkroom.params.section import read_document
from darkroom.pipeline.files import read_table
from darkroom.pipeline.paths import TRAIN_HISTORY
from darkroom.tracking.lockfile import file_digest, flatten_params, output_digests, recorded_params, result_key
from darkroom.training.checkpoint import CURVES
from tests.browser import free_port
from tests.built_once import build_once, shared_folder
from tests.project import ROOT, Project, copy_built, executed_stages, write_keras_settings
from tests.recorded_runs import create_database

pytestmark = pytest.mark.slow

CHAIN = ["acquire", "augment", "split", "train", "evaluate", "explain", "record"]

# What a run has of the folders of the last two stages.
DATA_IN_RUN = {
    "evaluate": {"confusion.png", "predictions.csv", "reliability.png", "top_losses.png"},
    "explain": {"corruptions.png", "filters.png", "gradcam.png", "robustness.png"},
}


@pytest.fixture(scope="session")
def saved_result(recorded_project: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A copy of the small project with its result of three epochs, that of two in DVC's cache, and an empty store."""

    def build(folder: Path) -> None:
        project = Project(folder / "project", forks=True)
        left_behind = shutil.ignore_patterns("mlflow.db*", "mlartifacts", "tmp")
        shutil.copytree(recorded_project.root, project.root, symlinks=True, ignore=left_behind)
        project.git("checkout", "--quiet", ".")
        project.dvc("repro", "explain")
        project.commit("Save the result")
        create_database(project.root)

    folder = shared_folder(tmp_path_factory) / "saved"
    build_once(folder, build)
    return Project(folder / "project", forks=True)


@pytest.fixture(scope="session")
def saved_run(saved_result: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A copy of that with the result's run in its store."""
    folder = shared_folder(tmp_path_factory) / "saved-run"
    build_once(folder, lambda folder: copy_built(saved_result, folder / "project").dvc("repro"))
    return Project(folder / "project", forks=True)


@pytest.fixture
def project(saved_result: Project, tmp_path: Path) -> Project:
    return copy_built(saved_result, tmp_path / "project")


@pytest.fixture
def recorded(saved_run: Project, tmp_path: Path) -> Project:
    return copy_built(saved_run, tmp_path / "project")


def check_complete(project: Project, run: Run) -> None:
    """The run holds what the project's files hold: params, curves, scores, data sets, files, model and key."""
    history = read_csv(project.root / "data/train/history.csv")
    scores, explained = (
        json.loads((project.root / f"metrics/{stage}.json").read_text()) for stage in ("evaluate", "explain")
    )
    digests = output_digests(project.lock)
    assert run.info.status == "FINISHED"
    assert run.data.params == recorded_params(project.lock)
    for name in CURVES:
        assert project.curve(run, name) == [(int(row["epoch"]), float(row[name])) for row in history]
    assert {name: run.data.metrics[f"test_{name}"] for name in scores} == scores
    assert {name: run.data.metrics[name] for name in explained} == explained
    for table in (project.root / "metrics/explain").glob("*.csv"):
        for score in ("accuracy", "gradcam_shift"):
            rows = read_csv(table)
            points = [(abs(int(row["level"]) - int(rows[0]["level"])), float(row[score])) for row in rows]
            assert project.curve(run, f"{score}_by_level/{table.stem}") == points
    assert {data.dataset.name: data.dataset.digest for data in run.inputs.dataset_inputs} == {
        "photos": digests["data/acquire/photos"],
        "images": digests["data/augment/images.npy"],
        **{subset: digests[f"data/split/{subset}.npy"] for subset in ("train", "validation", "test")},
    }
    assert len(run.outputs.model_outputs) == 1
    assert run.data.tags["darkroom.key"] == result_key(project.lock)
    assert run.data.tags["dvc.md5.data/train/model.keras"] == file_digest(project.root / "data/train/model.keras")
    assert run.data.tags["mlflow.source.git.commit"] == project.git("rev-parse", "HEAD").strip()


def read_csv(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def only_run(project: Project) -> Run:
    (run,) = project.runs()
    return run


def test_the_first_repro_leaves_one_complete_run_and_so_does_another_result(recorded_project: Project) -> None:
    first, second = recorded_project.runs()
    check_complete(recorded_project, second)
    assert {name: value for name, value in first.data.params.items() if second.data.params[name] != value} == {
        "train.epochs": "3"
    }
    assert len(recorded_project.curve(first, "val_loss")) == 3
    assert not any("darkroom.restored" in run.data.tags for run in (first, second))
    assert second.data.params == flatten_params(read_document(recorded_project.root / "params.yaml"))
    for stage, names in DATA_IN_RUN.items():
        files = recorded_project.client.list_artifacts(second.info.run_id, f"data/{stage}")
        assert {Path(file.path).name for file in files} == names


def test_a_second_repro_runs_record_alone_without_mlflow_or_keras(recorded: Project) -> None:
    run = only_run(recorded)

    again = recorded.dvc("repro")
    alone = recorded.run(
        "python",
        "-c",
        "import runpy, sys; runpy.run_module('stages.record', run_name='__main__'); "
        "print({'mlflow', 'keras', 'tensorflow', 'pandas'} & set(sys.modules))",
    )

    assert executed_stages(again) == ["record"]
    assert only_run(recorded).info.run_id == run.info.run_id
    assert alone.stdout.splitlines()[-1] == "set()"
    assert recorded.dvc("status", "--quiet", "explain").returncode == 0


def test_forced_reruns_give_the_same_bytes_and_no_further_run(recorded: Project) -> None:
    lock, run = (recorded.root / "dvc.lock").read_bytes(), only_run(recorded)

    # Runs in real processes what the first run made in forks; another hash seed would show an unordered collection.
    assert executed_stages(replace(recorded, forks=False).dvc("repro", "--force")) == CHAIN

    assert (recorded.root / "dvc.lock").read_bytes() == lock
    assert only_run(recorded).info.run_id == run.info.run_id
    assert not [other for other in recorded.runs(ViewType.ALL) if other.info.status == "RUNNING"]


def test_another_evaluate_param_evaluates_again_and_adds_one_complete_run(recorded: Project) -> None:
    first = only_run(recorded)

    again = recorded.dvc("exp", "run", "--name", "narrow", "--set-param", "evaluate.confidence_level=0.9")

    assert executed_stages(again) == ["evaluate", "record"]
    before, after = recorded.runs()
    assert before.info.run_id == first.info.run_id
    check_complete(recorded, after)
    assert (after.info.run_name, after.data.tags["dvc.experiment"]) == ("narrow", "narrow")
    assert after.data.metrics["test_accuracy_low"] > before.data.metrics["test_accuracy_low"]


def test_with_outputs_and_store_gone_the_cache_gives_the_same_run(recorded: Project) -> None:
    lock, run = recorded.lock, only_run(recorded)
    for path in output_digests(lock):
        shutil.rmtree(recorded.root / path) if (recorded.root / path).is_dir() else (recorded.root / path).unlink()
    (recorded.root / "mlflow.db").unlink()

    assert executed_stages(recorded.dvc("repro")) == ["record"]

    restored = only_run(recorded)
    assert recorded.lock == lock
    check_complete(recorded, restored)
    assert restored.data.tags["darkroom.restored"] == "true"
    assert (restored.data.params, restored.data.metrics) == (run.data.params, run.data.metrics)


def test_a_teammate_gets_the_result_through_a_remote_and_runs_nothing(project: Project, tmp_path: Path) -> None:
    project.dvc("remote", "add", "--default", "team", str(tmp_path / "remote"))
    project.commit("Share")
    project.dvc("push", "--run-cache")
    project.git("clone", "--quiet", str(project.root), str(tmp_path / "teammate"))
    teammate = Project(tmp_path / "teammate", forks=True)
    create_database(teammate.root)

    teammate.dvc("pull", "--run-cache")
    assert executed_stages(teammate.dvc("repro", "--pull")) == ["record"]

    assert teammate.lock == project.lock
    check_complete(teammate, only_run(teammate))


def test_queued_experiments_side_by_side_become_a_run_each(project: Project) -> None:
    numbers = (1, 4)
    for epochs in numbers:
        project.dvc("exp", "run", "--queue", "--name", f"epochs-{epochs}", "--set-param", f"train.epochs={epochs}")
    project.dvc("queue", "start", "--jobs", "2")
    wait_for(lambda: is_idle(project.dvc("queue", "status").stdout), 400, poll_seconds=1)

    status = project.dvc("queue", "status").stdout
    assert status.count("Success") == len(numbers), f"{status}\n{project.dvc('queue', 'logs', 'epochs-1').stdout}"
    runs = project.runs()
    assert sorted((run.info.run_name, run.data.tags["dvc.experiment"]) for run in runs) == [
        (f"epochs-{epochs}", f"epochs-{epochs}") for epochs in numbers
    ]
    for run in runs:
        epochs = int(run.info.run_name.removeprefix("epochs-"))
        assert run.data.params["train.epochs"] == str(epochs)
        assert [step for step, _ in project.curve(run, "loss")] == list(range(1, epochs + 1))
        assert run.data.tags["dvc.baseline"] == project.git("rev-parse", "HEAD").strip()
        assert run.info.artifact_uri.startswith((project.root / "mlartifacts").as_uri())

    columns = project.dvc("exp", "show", "--csv", "--only-changed", "--drop", EXPERIMENT_FILES).stdout.splitlines()[0]
    assert {"accuracy", "train.epochs"} <= set(columns.split(","))
    assert "stages/train.py" not in columns
    assert "darkroom/" not in columns
    assert "epochs-4" in project.dvc("exp", "list").stdout


# The pattern of the manual, which hides the columns of the files that DVC watches.
EXPERIMENT_FILES = re.search(r"--drop '([^']+)'", (ROOT / "docs/experiments.md").read_text())[1]


def is_idle(queue_status: str) -> bool:
    return "Queued" not in queue_status and "Running" not in queue_status


def wait_for(condition: object, seconds: float, poll_seconds: float = 0.2) -> None:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} seconds"
        time.sleep(poll_seconds)


@pytest.fixture
def server_port() -> int:
    return free_port()


@pytest.fixture
def start_server(project: Project, server_port: int) -> Iterator[object]:
    """A function that starts an MLflow server on `server_port`."""
    servers: list[subprocess.Popen[bytes]] = []

    def start() -> None:
        store = ["--backend-store-uri", f"sqlite:///{project.root}/mlflow.db"]
        artifacts = ["--artifacts-destination", str(project.root / "server")]
        servers.append(
            subprocess.Popen(
                ["mlflow", "server", *store, *artifacts, "--port", str(server_port), "--workers", "1"],
                env=project.command_environment(MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false"),
                cwd=project.root,
                start_new_session=True,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )
        wait_for(lambda: answers(f"http://127.0.0.1:{server_port}/health"), 90)

    yield start
    for server in servers:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


def test_an_unreachable_server_loses_no_training(project: Project, server_port: int, start_server: object) -> None:
    project.environment["MLFLOW_TRACKING_URI"] = f"http://someone:secret@127.0.0.1:{server_port}"

    without = project.dvc("repro", "--force", "--single-item", "train", "record", check=False)

    assert without.returncode != 0
    assert executed_stages(without) == ["train", "record"]
    said = [line for line in without.stderr.splitlines() if line.startswith("record:")]
    assert len(said) == 1
    assert f"http://127.0.0.1:{server_port}" in said[0]
    assert "connection failed" in said[0]
    assert "secret" not in without.stdout + without.stderr

    assert callable(start_server)
    start_server()
    recorded = project.dvc("repro")
    assert executed_stages(recorded) == ["record"]
    assert "secret" not in recorded.stdout + recorded.stderr
    project.environment["MLFLOW_TRACKING_URI"] = f"http://127.0.0.1:{server_port}"
    check_complete(project, only_run(project))

    assert executed_stages(project.dvc("repro")) == ["record"]
    assert len(project.runs()) == 1


@pytest.mark.parametrize("victim", ["stage", "dvc"])
def test_after_a_kill_the_next_repro_gives_the_same_result(project: Project, tmp_path: Path, victim: str) -> None:
    lock = project.lock
    started = project.root / "data/augment/.images.npy.partial"
    log = tmp_path / "log"
    with log.open("w") as output:
        dvc = subprocess.Popen(
            ["dvc", "repro", "--force", "--single-item", "augment"],
            cwd=project.root,
            env=killable(project).command_environment(SHELL="/bin/sh"),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    wait_for(started.exists, 120)
    worker = stage_process(dvc.pid)
    os.kill(worker if victim == "stage" else dvc.pid, signal.SIGKILL)
    assert dvc.wait(60) != 0
    wait_for(lambda: not Path(f"/proc/{worker}").exists(), 10)

    project.dvc("repro")

    assert project.lock == lock
    check_complete(project, only_run(project))


def test_a_training_whose_dvc_was_killed_resumes_in_the_same_run_to_the_same_bytes(
    project: Project, tmp_path: Path
) -> None:
    # The first epochs run with a user's own settings of Keras, which must not change them.
    epochs = 40  # training must not end before the stage notices, within half a second, that DVC is gone
    project.set_params(train__epochs=epochs, train__early_stopping_patience=epochs)
    log = tmp_path / "log"
    with log.open("w") as output:
        dvc = subprocess.Popen(
            ["dvc", "repro"],
            cwd=project.root,
            env=killable(project).command_environment(**write_keras_settings(tmp_path / "keras")),
            stdout=output,
            stderr=output,
        )
    wait_for(lambda: "epoch 3/" in log.read_text(), 120)
    worker = stage_process(dvc.pid)
    dvc.kill()
    assert dvc.wait(60) != 0
    wait_for(lambda: not Path(f"/proc/{worker}").exists(), 10)
    known = {run.info.run_id for run in project.runs() if run.info.status == "FINISHED"}
    (begun,) = [run for run in project.runs() if run.info.run_id not in known]

    said = project.dvc("repro").stdout

    assert "resuming after epoch" in said
    assert "epoch 1/" not in said
    (run,) = [run for run in project.runs() if run.info.run_id not in known]
    assert (run.info.run_id, run.info.status) == (begun.info.run_id, "FINISHED")
    history = read_table(project.root / TRAIN_HISTORY, ("epoch", *CURVES))
    assert [row["epoch"] for row in history] == [str(epoch) for epoch in range(1, epochs + 1)]
    for name in CURVES:
        assert project.curve(run, name) == [(int(row["epoch"]), float(row[name])) for row in history]
    assert not list((project.root / ".cache/train").glob("*.npz"))

    resumed = project.lock
    project.dvc("repro", "--force", "--single-item", "train")
    assert project.lock == resumed


def killable(project: Project) -> Project:
    """The project with stages that are children of DVC, as everywhere but in these tests."""
    return replace(project, forks=False)


def stage_process(dvc: int) -> int:
    """The process of the stage that a dvc process has started, perhaps through a shell."""
    return next(
        process.pid for process in psutil.Process(dvc).children(recursive=True) if process.cmdline()[1:2] == ["-m"]
    )


def test_a_changed_photo_runs_the_chain_again_and_an_equal_one_does_not(project: Project, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    shutil.copytree(read_document(project.root / "params.yaml")["acquire"]["folder"], photos)
    project.set_params(acquire__folder=str(photos))
    assert executed_stages(project.dvc("repro", "explain")) == ["acquire"]  # the folder moved, the photos are the same

    shutil.copy(photos / "circle/000.png", photos / "square/900.png")
    (photos / "square/901.png").write_bytes(b"not an image")
    changed = project.dvc("repro", "augment")

    assert executed_stages(changed) == ["acquire", "augment"]
    rejected = read_csv(project.root / "data/acquire/rejected.csv")
    assert [row["photo"] for row in rejected] == ["square-901"]
    assert json.loads((project.root / "metrics/acquire.json").read_text())["photos_accepted"] == 37


@pytest.mark.parametrize(
    ("section_key", "value", "message"),
    [
        ("train__epochs", 0, "params.yaml: train: epochs: must be at least 1, got 0"),
        ("train__epoch", 3, "params.yaml: train: epoch: is unknown; did you mean epochs?"),
        ("acquire__folder", "nowhere", "nowhere"),
    ],
)
def test_a_wrong_param_stops_the_chain_with_one_clear_line(
    project: Project, section_key: str, value: object, message: str
) -> None:
    project.set_params(**{section_key: value})

    done = project.dvc("repro", "evaluate", check=False)

    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_dvc_shows_metrics_params_and_plots(project: Project, tmp_path: Path) -> None:
    project.set_params(train__epochs=2)
    project.dvc("repro", "explain")

    metrics = json.loads(project.dvc("metrics", "show", "--json").stdout)[""]["data"]
    assert set(metrics) == {f"metrics/{stage}.json" for stage in CHAIN[:-1]}
    change = json.loads(project.dvc("metrics", "diff", "--json").stdout)
    assert change["metrics/train.json"]["epochs_run"] == {"old": 3, "new": 2, "diff": -1}
    params = json.loads(project.dvc("params", "diff", "--json").stdout)
    assert params["params.yaml"] == {"train.epochs": {"old": 3, "new": 2, "diff": -1}}
    plots = project.dvc("plots", "show", "--json", "--out", str(tmp_path / "plots")).stdout
    shown = json.loads(plots)["data"]
    assert {"loss", "accuracy", "confusion", "f1 by class", "data/evaluate/confusion.png"} <= set(shown)
    assert {"reliability", "robustness to scribbles", "data/explain/gradcam.png"} <= set(shown)
    project.dvc("plots", "show", "--out", str(tmp_path / "page"))
    page = (tmp_path / "page/index.html").read_text()
    assert all(text in page for text in ("val_loss", "val_accuracy", "predicted"))
