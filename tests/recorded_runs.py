"""Runs in the MLflow store of a test, as the stage record leaves them."""

import itertools
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput

from commands.command_line import APP
from darkroom.pipeline.files import format_row
from darkroom.pipeline.paths import EVALUATE_PREDICTIONS
from darkroom.runs.pairs import RunPredictions
from darkroom.tracking.store import KEY_TAG, Store

numbers = itertools.count()
COLUMNS = ["photo", "sha256", "group", "label", "predicted", "probability", "p(cat)", "p(dog)"]
# Which of 40 photos are correct: 36 in the good run, 18 in the poor one, and 16 in both.
GOOD, POOR = [number < 36 for number in range(40)], [number < 16 or number >= 38 for number in range(40)]


@cache
def new_database() -> bytes:
    """An empty MLflow database. Creating it takes MLflow seconds; a copy takes no time."""
    with TemporaryDirectory() as folder:
        MlflowClient(f"sqlite:///{folder}/mlflow.db").search_experiments()
        return Path(folder, "mlflow.db").read_bytes()


def create_database(root: Path) -> Store:
    """A store without any experiment of this project."""
    (root / "mlflow.db").write_bytes(new_database())
    return Store(f"sqlite:///{root}/mlflow.db", "darkroom", root)


def create_store(root: Path, experiment: str = "darkroom") -> Store:
    store = replace(create_database(root), experiment=experiment)
    MlflowClient(store.address).create_experiment(store.experiment, (root / "artifacts").as_uri())
    return store


def add_experiment(store: Store) -> Store:
    """Add a new experiment to a store, which gives each test its own registered model."""
    added = replace(store, experiment=f"animals-{next(numbers)}")
    MlflowClient(added.address).create_experiment(added.experiment, (added.root / "artifacts").as_uri())
    return added


def run_app(command: str, *arguments: str) -> int | str:
    """Run a command, and return its exit code, or the error message that it exits with."""
    with pytest.raises(SystemExit) as exited:
        APP([command, *arguments])
    return exited.value.code or 0


def record_run(store: Store, files: Mapping[str, str], name: str, tags: Mapping[str, str]) -> str:
    """Record a finished run with text files by path, and return its id."""
    client = MlflowClient(store.address)
    experiment = client.get_experiment_by_name(store.experiment)
    run_id: str = client.create_run(experiment.experiment_id, run_name=name, tags=dict(tags)).info.run_id
    for path, text in files.items():
        client.log_text(run_id, text, path)
    client.set_terminated(run_id)
    return run_id


def predict(correct: list[bool], numbers: range, group_size: int = 1) -> list[list[object]]:
    """The rows of predictions for photos with these numbers, alternately cats and dogs."""
    rows: list[list[object]] = []
    for number, is_correct in zip(numbers, correct, strict=True):
        label, other = ("cat", "dog") if number % 2 == 0 else ("dog", "cat")
        predicted = label if is_correct else other
        group = number // group_size
        rows.append([f"{label}-{number}", f"s{number}", f"g{group}", label, predicted, 0.9, 0.9, 0.1])
    return rows


def record_predictions(store: Store, name: str, rows: list[list[object]], columns: list[str] = COLUMNS) -> str:
    """Record a run whose result has nothing but predictions, and return its id."""
    indices = [COLUMNS.index(column) for column in columns]
    table = "".join(map(format_row, [columns, *([row[index] for index in indices] for row in rows)]))
    return record_run(store, {EVALUATE_PREDICTIONS.as_posix(): table}, name, {KEY_TAG: name})


def make_predictions(labels: str, *rows: str) -> RunPredictions:
    """The predictions of a run with `labels`: photo, label and predicted label in each of `rows`."""
    names = ("photo", "label", "predicted")
    return RunPredictions("run", [dict(zip(names, row.split(), strict=True)) for row in rows], labels.split())


def log_model_of(store: Store, run_id: str) -> str:
    """Log a model of one small file for a run, and return the model's id."""
    client = MlflowClient(store.address)
    experiment_id = client.get_run(run_id).info.experiment_id
    model_id: str = client.create_logged_model(experiment_id, name="model", source_run_id=run_id).model_id
    file = store.root / "MLmodel"
    file.write_text(f"run_id: {run_id}\n")
    client.log_model_artifact(model_id, str(file))
    file.unlink()
    client.finalize_logged_model(model_id, "READY")
    client.log_outputs(run_id, models=[LoggedModelOutput(model_id, step=0)])
    return model_id
