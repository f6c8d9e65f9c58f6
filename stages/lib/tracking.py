"""The way to MLflow: opening a store, and what may go wrong with it."""

import getpass
import os
import socket
from collections.abc import Mapping
from urllib.parse import urlsplit

from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Param, Run
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from stages.lib.stage import StageError
from stages.lib.store import EXPERIMENT_TAG, Store, hide_login

MODEL_TAG = "darkroom.model"

# requests' exceptions, which MLflow lets through, are OSErrors.
TRACKING_FAULTS = (MlflowException, SQLAlchemyError, OSError)
CONNECT_SECONDS = 5
# MLflow refuses larger batches and longer values.
PARAMS_PER_BATCH = 100
PARAM_CHARACTERS = 6000


def connect(store: Store) -> tuple[MlflowClient, str]:
    """Open the store and make sure that its experiment exists.

    Returns:
        the client and the experiment's id.

    Raises:
        StageError: the store does not answer or cannot be opened.
    """
    # MLflow's own default tries a dead server for minutes.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    store.locks_folder.mkdir(parents=True, exist_ok=True)
    try:
        if store.is_server:
            knock(store.address)
        # Two processes that create the same database at once crash each other.
        with FileLock(store.locks_folder / "open.lock"):
            client = MlflowClient(store.address)
            found = client.get_experiment_by_name(store.experiment)
            if found is not None:
                return client, found.experiment_id
            # Without an explicit place, a run in a DVC experiment's temporary folder would leave its files there.
            artifacts = None if store.is_server else (store.root / "mlartifacts").as_uri()
            return client, client.create_experiment(store.experiment, artifacts)
    except TRACKING_FAULTS as error:
        raise StageError(
            f"the MLflow store {store.shown_address} cannot be used ({one_line(error)}); start its server or correct "
            "MLFLOW_TRACKING_URI, then `dvc repro` records the result without training again"
        ) from None


def knock(address: str) -> None:
    """Open and close a connection to the server.

    Raises:
        OSError: nobody answers.
    """
    parts = urlsplit(address)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    socket.create_connection((parts.hostname or "", port), CONNECT_SECONDS).close()


def one_line(error: BaseException) -> str:
    """The first line of what an exception says, without a user's name and password in an address."""
    return hide_login((str(error).strip() or type(error).__name__).splitlines()[0])


def create_run(client: MlflowClient, experiment_id: str, experiment: str, tags: Mapping[str, str]) -> Run:
    """Create a run with `tags`, named after the DVC experiment, or by MLflow where that is "".

    Call it before Python's `random` is seeded: MLflow draws names from there.
    """
    origin = {"mlflow.user": user_name(), "mlflow.source.name": "dvc repro", "mlflow.source.type": "LOCAL"}
    if experiment:
        origin[EXPERIMENT_TAG] = experiment
    return client.create_run(experiment_id, tags=origin | dict(tags), run_name=experiment or None)


def user_name() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container may run as a number without a name
        return "unknown"


def log_params(client: MlflowClient, run_id: str, params: Mapping[str, str]) -> None:
    entities = [Param(name, stored_param(value)) for name, value in params.items()]
    for start in range(0, len(entities), PARAMS_PER_BATCH):
        client.log_batch(run_id, params=entities[start : start + PARAMS_PER_BATCH])


def stored_param(value: str) -> str:
    return value[:PARAM_CHARACTERS]
