"""Load the model that a command uses: that of the last `dvc repro`, or that of a recorded run."""

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
from darkroom.tracking.lockfile import (
    Stages,
    check_finished,
    earlier_keys,
    file_digest,
    output_digests,
    read_stages,
    result_key,
)
from darkroom.tracking.store import COMMIT_TAG, KEY_TAG, RECORD_AGAIN, TEST_ACCURACY, Store, find_store

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

# The folder of a logged model with the model's own files.
ARTIFACTS = "artifacts"


class Origin(NamedTuple):
    """The recorded run of a model; `accuracy` on its test photos is None if unknown."""

    run_id: str
    name: str
    experiment: str
    accuracy: float | None
    commit: str


@dataclass(frozen=True)
class LoadedModel:
    """A model to classify with; `size` is that of its file in bytes, `key` that of its result, and `earlier_keys` are
    those by which earlier versions recorded it."""

    classifier: Classifier
    size: int
    key: str
    origin: Origin | None
    earlier_keys: tuple[str, ...] = ()


def choose_model(wanted: str | None) -> LoadedModel:
    """Load the model of the run `wanted` (see `find_run` in lookup.py), or that of the last `dvc repro` if it is None.

    Raises:
        StageError: there is no model, or it differs from the recorded one.
    """
    return load_workspace_model() if wanted is None else fetch_run_model(find_store(), wanted)


def load_workspace_model() -> LoadedModel:
    stages = read_stages(DVC_LOCK)
    preparation = read_preparation(stages)
    classifier = Classifier(load_model(TRAIN_MODEL), read_labels(TRAIN_LABELS), preparation)
    size = TRAIN_MODEL.stat().st_size
    return LoadedModel(classifier, size, result_key(stages), None, earlier_keys(stages))


def read_preparation(stages: Stages) -> dict[str, Any]:
    """Read how photos were prepared for the training of the current model: resize, resampling and color.

    Raises:
        StageError: nothing has been trained yet, the model or its labels differ from dvc.lock, or the images have
            changed since the training.
    """
    check_finished(stages, "train", DVC_LOCK)
    for path in (TRAIN_MODEL, TRAIN_LABELS):
        if not path.exists():
            raise StageError(f"{path} is missing: run `dvc checkout` or `dvc repro`")
        if file_digest(path) != output_digests(stages)[path.as_posix()]:
            raise StageError(f"{path} differs from {DVC_LOCK}: run `dvc repro` or `dvc checkout`")
    trained_on = {entry["path"]: entry["md5"] for entry in stages["train"].get("deps", [])}
    images = AUGMENT_IMAGES.as_posix()
    if trained_on.get(images) != output_digests(stages).get(images):
        raise StageError(f"{TRAIN_MODEL} was not trained on the current {images} (see {DVC_LOCK}): run `dvc repro`")
    augment = stages["augment"]["params"][str(PARAMS)]["augment"]
    return {name: augment[name] for name in PREPARATION}


def fetch_run_model(store: Store, wanted: str) -> LoadedModel:
    # Imported here, because MLflow takes seconds to import and the model of the workspace does not need it.
    from darkroom.runs.lookup import check_result, fetch_model_files, find_run, open_existing

    with TemporaryDirectory(prefix="darkroom-model-") as folder:
        with open_existing(store) as client:
            run = find_run(client, store, wanted)
            check_result(run)
            files = fetch_model_files(client, store, run, Path(folder)) / ARTIFACTS
            origin = describe_run(client, run)
        for path in (TRAIN_MODEL, TRAIN_LABELS):
            check_recorded_file(run, path, files / path.name)
        model, labels = load_model(files / TRAIN_MODEL.name), read_labels(files / TRAIN_LABELS.name)
        preparation: Mapping[str, Any] = json.loads((files / PREPARATION_FILE).read_bytes())
        size = (files / TRAIN_MODEL.name).stat().st_size
    return LoadedModel(Classifier(model, labels, preparation), size, run.data.tags[KEY_TAG], origin)


def check_recorded_file(run: "Run", path: Path, file: Path) -> None:
    """Raise a StageError unless `file` is the one that the run recorded as `path`."""
    recorded = run.data.tags.get(f"dvc.md5.{path.as_posix()}")
    if not file.is_file() or recorded != file_digest(file):
        raise StageError(
            f"{path.name} in the model of run {run.info.run_id} is not the recorded file (its MD5 digest is not "
            f"{recorded}); {RECORD_AGAIN}"
        )


def find_origin(store: Store, *keys: str) -> Origin | None:
    """Find the run whose result has the first of these keys that a run has; None if there is no such run.

    Raises:
        StageError: the store does not exist, or it fails.
    """
    from darkroom.runs.lookup import find_keyed_run, open_existing

    with open_existing(store) as client:
        run = next(filter(None, (find_keyed_run(client, store, key) for key in keys)), None)
        return None if run is None else describe_run(client, run)


def describe_run(client: "MlflowClient", run: "Run") -> Origin:
    experiment = client.get_experiment(run.info.experiment_id).name
    commit = run.data.tags.get(COMMIT_TAG, "")
    return Origin(run.info.run_id, run.info.run_name or "", experiment, run.data.metrics.get(TEST_ACCURACY), commit)
