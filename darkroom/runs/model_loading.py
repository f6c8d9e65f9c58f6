"""The model that a command asks about photos: that of the last `dvc repro`, or that of a recorded run."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

from darkroom.models.model_file import load_model
from darkroom.pipeline.dataset import read_labels
from darkroom.pipeline.paths import AUGMENT_IMAGES, DVC_LOCK, PARAMS, TRAIN_LABELS, TRAIN_MODEL
from darkroom.pipeline.stage import StageError
from darkroom.serving.classifier import PREPARATION, PREPARATION_FILE, Classifier
from darkroom.tracking.lockfile import Stages, check_finished, file_digest, output_digests, read_stages, result_key
from darkroom.tracking.store import COMMIT_TAG, KEY_TAG, RECORD_ANEW, TEST_ACCURACY, Store, find_store

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

# Where the model that MLflow serves has what it is made of.
ARTIFACTS = "artifacts"


class Origin(NamedTuple):
    """The recorded run that a model came from; `accuracy` on its test photos is None where nobody knows it."""

    run_id: str
    name: str
    experiment: str
    accuracy: float | None
    commit: str


@dataclass(frozen=True)
class LoadedModel:
    """`size` is that of the model's file in bytes, `key` that of the result that the model belongs to."""

    classifier: Classifier
    size: int
    key: str
    origin: Origin | None


def choose_model(wanted: str | None) -> LoadedModel:
    """Load the model of the run `wanted` (see `find_run` in lookup.py), or with None that of the last `dvc repro`.

    Raises:
        StageError: there is none, or it is not the one that was recorded.
    """
    return read_own_model() if wanted is None else fetch_run_model(find_store(), wanted)


def read_own_model() -> LoadedModel:
    stages = read_stages(DVC_LOCK)
    preparation = read_preparation(stages)
    classifier = Classifier(load_model(TRAIN_MODEL), read_labels(TRAIN_LABELS), preparation)
    return LoadedModel(classifier, TRAIN_MODEL.stat().st_size, result_key(stages), None)


def read_preparation(stages: Stages) -> dict[str, Any]:
    """How photos were prepared when dvc.lock's model was trained: resize, resampling and color.

    Raises:
        StageError: there is no training yet, the model or the labels are not what came of it, or photos were prepared
            anew since.
    """
    check_finished(stages, "train", DVC_LOCK)
    for path in (TRAIN_MODEL, TRAIN_LABELS):
        if not path.exists() or file_digest(path) != output_digests(stages)[path.as_posix()]:
            raise StageError(f"{path} is not the one that {DVC_LOCK} tells of: run `dvc repro`, or `dvc checkout`")
    trained_on = {entry["path"]: entry["md5"] for entry in stages["train"].get("deps", [])}
    images = AUGMENT_IMAGES.as_posix()
    if trained_on.get(images) != output_digests(stages).get(images):
        raise StageError(f"{TRAIN_MODEL} was trained on other images than {images}, by {DVC_LOCK}: run `dvc repro`")
    augment = stages["augment"]["params"][str(PARAMS)]["augment"]
    return {name: augment[name] for name in PREPARATION}


def fetch_run_model(store: Store, wanted: str) -> LoadedModel:
    # MLflow takes seconds to import, which who asks the model of the workspace does not need.
    from darkroom.runs.lookup import check_result, fetch_model_files, find_run, open_existing

    with TemporaryDirectory(prefix="darkroom-model-") as folder:
        with open_existing(store) as client:
            run = find_run(client, store, wanted)
            check_result(run)
            files = fetch_model_files(client, store, run, Path(folder)) / ARTIFACTS
            origin = describe_run(client, run)
        for path in (TRAIN_MODEL, TRAIN_LABELS):
            check_digest(run, path, files / path.name)
        model, labels = load_model(files / TRAIN_MODEL.name), read_labels(files / TRAIN_LABELS.name)
        preparation: Mapping[str, Any] = json.loads((files / PREPARATION_FILE).read_bytes())
        size = (files / TRAIN_MODEL.name).stat().st_size
    return LoadedModel(Classifier(model, labels, preparation), size, run.data.tags[KEY_TAG], origin)


def check_digest(run: "Run", path: Path, file: Path) -> None:
    """Refuse a `file` that is not what the run's result has at `path`."""
    recorded = run.data.tags.get(f"dvc.md5.{path.as_posix()}")
    if not file.is_file() or recorded != file_digest(file):
        raise StageError(
            f"{path.name} in the model of run {run.info.run_id} is not the one that was recorded (its MD5 digest is "
            f"not {recorded}); {RECORD_ANEW}"
        )


def find_origin(store: Store, key: str) -> Origin | None:
    """Find the run that holds the result of this key; None where there is no such run.

    Raises:
        StageError: there is no such store, or it fails.
    """
    from darkroom.runs.lookup import find_keyed_run, open_existing

    with open_existing(store) as client:
        run = find_keyed_run(client, store, key)
        return None if run is None else describe_run(client, run)


def describe_run(client: "MlflowClient", run: "Run") -> Origin:
    experiment = client.get_experiment(run.info.experiment_id).name
    commit = run.data.tags.get(COMMIT_TAG, "")
    return Origin(run.info.run_id, run.info.run_name or "", experiment, run.data.metrics.get(TEST_ACCURACY), commit)
