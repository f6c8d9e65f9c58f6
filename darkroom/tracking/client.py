"""Open an MLflow store and write runs to it."""

import getpass
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Experiment, LifecycleStage, Metric, Param, Run

from darkroom.pipeline.stage import StageError
from darkroom.tracking.failures import TRACKING_ERRORS, explain_failure
from darkroom.tracking.relocation import artifacts_folder, relocate_artifacts
from darkroom.tracking.server import check_server, limit_timeouts
from darkroom.tracking.store import EXPERIMENT_TAG, Store, storable_name

MODEL_TAG = "darkroom.model"

RECORDED_LATER = "then `dvc repro` records the result without training again"
# MLflow rejects larger batches and longer values.
PARAMS_PER_BATCH = 100
METRICS_PER_BATCH = 1000
PARAM_CHARACTERS = 6000


def connect(store: Store, advice: str = RECORDED_LATER) -> tuple[MlflowClient, str]:
    """Open the store and make sure that its experiment exists.

    Args:
        store: the store.
        advice: the end of the error message, after the advice to make the store work.

    Returns:
        the client and the experiment's id.

    Raises:
        StageError: the store does not respond or cannot be opened, or its experiment was deleted.
    """
    limit_timeouts()
    # MLflow would print the address of a finished run with the user's name and password in it.
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
    lock = store.locks_folder / "open.lock" if store.database is None else Path(f"{store.database}.lock")
    try:
        store.locks_folder.mkdir(parents=True, exist_ok=True)
        if store.is_server:
            check_server(store.address)
        # Two processes that create the same database at the same time make each other fail.
        with FileLock(lock):
            relocate_artifacts(store)
            client = MlflowClient(store.address)
            found = find_experiment(client, store)
            if found is not None:
                return client, found.experiment_id
            # By default, a run in a DVC experiment's temporary folder would leave its files there.
            artifacts = None if store.is_server else artifacts_folder(store.root).as_uri()
            return client, client.create_experiment(store.experiment, artifacts)
    except TRACKING_ERRORS as error:
        reason, fix = explain_failure(error, [store.address])
        raise StageError(f"the MLflow store {store.shown_address} cannot be used ({reason}); {fix}, {advice}") from None


def find_experiment(client: MlflowClient, store: Store) -> Experiment | None:
    """Find the store's experiment; None if there is none yet.

    Raises:
        StageError: it was deleted.
    """
    found = client.get_experiment_by_name(store.experiment)
    if found is not None and found.lifecycle_stage == LifecycleStage.DELETED:
        raise StageError(
            f"the experiment {store.experiment} of {store.shown_address} was deleted; `mlflow experiments restore "
            f"--experiment-id {found.experiment_id}` brings it and its runs back, or set MLFLOW_EXPERIMENT_NAME to "
            "another name"
        )
    return found


def create_run(client: MlflowClient, experiment_id: str, experiment: str, tags: Mapping[str, str]) -> Run:
    """Create a run with `tags`, named after the DVC experiment; if that is "", MLflow chooses a name."""
    origin = {"mlflow.user": user_name(), "mlflow.source.name": "dvc repro", "mlflow.source.type": "LOCAL"}
    if experiment:
        origin[EXPERIMENT_TAG] = experiment
    with unseeded_random():
        return client.create_run(experiment_id, tags=origin | dict(tags), run_name=experiment or None)


@contextmanager
def unseeded_random() -> Iterator[None]:
    """Unseed Python's random generator, with which MLflow draws run names, and restore its state afterwards."""
    state = random.getstate()
    random.seed()
    try:
        yield
    finally:
        random.setstate(state)


def user_name() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container may run as a number without a name
        return "unknown"


def log_params(client: MlflowClient, run_id: str, params: Mapping[str, str]) -> None:
    entities = [Param(name, value) for name, value in storable_params(params).items()]
    for start in range(0, len(entities), PARAMS_PER_BATCH):
        client.log_batch(run_id, params=entities[start : start + PARAMS_PER_BATCH])


def log_metrics(client: MlflowClient, run_id: str, points: Sequence[Metric]) -> None:
    for start in range(0, len(points), METRICS_PER_BATCH):
        client.log_batch(run_id, points[start : start + METRICS_PER_BATCH])


def storable_params(params: Mapping[str, str]) -> dict[str, str]:
    """Convert params to names and values that MLflow can store."""
    return {storable_name(name): value[:PARAM_CHARACTERS] for name, value in params.items()}
