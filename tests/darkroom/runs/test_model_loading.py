"""Load the model of a recorded run from a real store; tests/commands/test_predict.py loads that of the workspace."""

import os
from pathlib import Path

import keras
import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.entities import LoggedModelStatus

from darkroom.models.model_file import save_model
from darkroom.pipeline.dataset import write_labels
from darkroom.pipeline.paths import TRAIN_LABELS, TRAIN_MODEL
from darkroom.pipeline.stage import StageError
from darkroom.recording.logged_model import log_model
from darkroom.runs.model_loading import choose_model, find_origin
from darkroom.tracking.lockfile import file_digest
from darkroom.tracking.store import KEY_TAG, Store, find_store
from tests.examples import encode, noise
from tests.project import ROOT
from tests.recorded_runs import create_store, record_run

PARAMS = {"augment.resize": "pad", "augment.resampling": "nearest", "augment.color": "gray"}
MODEL_DIGEST, LABELS_DIGEST = (f"dvc.md5.{path.as_posix()}" for path in (TRAIN_MODEL, TRAIN_LABELS))


@pytest.fixture
def store(workspace: Path) -> Store:
    """A store in a workspace with a model and the code that is logged with it."""
    os.symlink(ROOT / "darkroom", workspace / "darkroom")
    pixels = keras.Input((6, 4, 1))
    values = keras.layers.Flatten()(pixels)
    save_model(keras.Model(pixels, keras.layers.Dense(2, activation="softmax")(values)), TRAIN_MODEL)
    write_labels(TRAIN_LABELS, ["cat", "dog"])
    create_store(workspace)
    return find_store()


def record(store: Store, **tags: str) -> str:
    digests = {MODEL_DIGEST: file_digest(TRAIN_MODEL), LABELS_DIGEST: file_digest(TRAIN_LABELS)}
    run_id = record_run(store, {}, "good", {KEY_TAG: "key-1"} | digests | tags)
    client = MlflowClient(store.address)
    client.log_metric(run_id, "test_accuracy", 0.75)
    log_model(client, client.get_run(run_id), PARAMS)
    return run_id


def test_a_run_s_model_comes_with_its_labels_its_preparation_and_its_origin(store: Store) -> None:
    run_id = record(store, **{"mlflow.source.git.commit": "c0ffee"})
    size = TRAIN_MODEL.stat().st_size
    TRAIN_MODEL.unlink()
    loaded = choose_model(run_id)
    assert list(loaded.classifier.labels) == ["cat", "dog"]
    assert loaded.classifier.preparation == {"resize": "pad", "resampling": "nearest", "color": "gray"}
    assert (loaded.key, loaded.size) == ("key-1", size)
    assert loaded.origin == (run_id, "good", "darkroom", 0.75, "c0ffee")
    (batch,) = loaded.classifier.classify([lambda: encode(noise(12, 9))])
    assert batch.probabilities.shape == (1, 2)


def test_a_store_that_the_process_used_before_is_ignored(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = record(store)
    mlflow.set_tracking_uri("sqlite:///of-another-project.db")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    try:
        assert choose_model(run_id).key == "key-1"
    finally:
        mlflow.set_tracking_uri(None)


@pytest.mark.parametrize(("tag", "name"), [(MODEL_DIGEST, "model.keras"), (LABELS_DIGEST, "labels.json")])
def test_a_model_or_labels_that_were_not_recorded_are_rejected(store: Store, tag: str, name: str) -> None:
    run_id = record(store, **{tag: "0" * 32})
    with pytest.raises(
        StageError, match=f"^{name} in the model of run {run_id} is not the recorded file .* dvc repro`$"
    ):
        choose_model(run_id)


def test_a_model_that_could_not_be_logged_is_marked_and_the_next_one_is_complete(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut_off(*_: object) -> None:
        raise OSError("gone")

    with monkeypatch.context() as broken:
        broken.setattr("mlflow.MlflowClient.log_model_artifacts", cut_off)
        with pytest.raises(OSError, match="gone"):
            record(store)
    run_id = record(store)
    assert choose_model(run_id).key == "key-1"
    client = MlflowClient(store.address)
    experiment = client.get_experiment_by_name(store.experiment)
    models = client.search_logged_models([experiment.experiment_id])
    assert {model.status: model.source_run_id == run_id for model in models} == {
        LoggedModelStatus.FAILED: False,
        LoggedModelStatus.READY: True,
    }


def test_a_run_without_a_model_is_rejected(store: Store) -> None:
    run_id = record_run(store, {}, "good", {KEY_TAG: "key-1"})
    with pytest.raises(StageError, match=f"{run_id}.* no model"):
        choose_model(run_id)


def test_a_run_without_a_result_is_rejected(store: Store) -> None:
    run_id = record_run(store, {}, "good", {})
    with pytest.raises(StageError, match=f"^run {run_id} has no recorded result"):
        choose_model(run_id)


def test_the_origin_of_a_result_is_the_run_with_its_key(store: Store) -> None:
    run_id = record(store)
    origin = find_origin(store, "key-1")
    assert origin is not None
    assert (origin.run_id, origin.commit) == (run_id, "")
    assert find_origin(store, "key-2") is None


def test_a_missing_store_is_not_created(workspace: Path) -> None:
    with pytest.raises(StageError, match="^there is no MLflow store sqlite:///"):
        find_origin(find_store(), "key-1")
    assert not any(workspace.iterdir())
