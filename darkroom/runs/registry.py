"""MLflow's model registry: the model of each recorded result is a version of one registered model.

The registered model has the name of the store's experiment: `models:/darkroom/1` is the first recorded result, and
`models:/darkroom@champion` the version that promote made the champion.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.entities import LifecycleStage, Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from darkroom.pipeline.stage import StageError
from darkroom.tracking.address import anchor, hide_login
from darkroom.tracking.store import KEY_TAG, RECORD_AGAIN, Store

CHAMPION = "champion"
# The tag that MLflow's page of a logged model reads: a list of objects with name and version.
VERSIONS_TAG = "mlflow.modelVersions"
# MLflow's error codes: no such model or run; no such alias, or an invalid one; the model exists already.
ABSENT, NO_ALIAS, PRESENT = "RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "RESOURCE_ALREADY_EXISTS"


def open_registry(store: Store) -> MlflowClient:
    """Create a client for the store and its registry, which is the store itself unless `MLFLOW_REGISTRY_URI` is set.

    A relative SQLite address is relative to the project's folder, as for the store.
    """
    return MlflowClient(store.address, registry_address(store))


def registry_address(store: Store) -> str:
    return anchor(os.environ.get("MLFLOW_REGISTRY_URI") or store.address, store.root)


def show_addresses(store: Store) -> str:
    """Name the address of a store, and that of its registry if it differs, in a message."""
    registry = registry_address(store)
    return store.shown_address + (f" or its registry {hide_login(registry)}" if registry != store.address else "")


def registry_lock(store: Store) -> Path:
    """The file to lock during registration and promotion, so that a run gets one version, and the better of two runs
    promoted at the same time wins."""
    return store.locks_folder / "registry.lock"


def model_name(store: Store) -> str:
    """The name of the registered model: that of the experiment, with "-" for "/" and ":", which MLflow rejects."""
    return store.experiment.replace("/", "-").replace(":", "-")


def register_version(client: MlflowClient, store: Store, run_id: str, key: str) -> ModelVersion:
    """Make sure that the model of a run is a version with the result's key as a tag.

    The caller must hold `registry_lock`.

    Raises:
        StageError: the run has no model.
    """
    model_id = find_model_id(client, run_id)
    version = find_version(client, store, run_id) or create_version(client, store, run_id, model_id)
    # After an interrupted recording, a version may have the key of another result.
    if version.tags.get(KEY_TAG) != key:
        client.set_model_version_tag(version.name, str(version.version), KEY_TAG, key)
    link_version(client, model_id, version)
    return version


def create_version(client: MlflowClient, store: Store, run_id: str, model_id: str) -> ModelVersion:
    name = model_name(store)
    with ignoring(PRESENT):
        client.create_registered_model(name)
    # A registry in a database looks the model up in this store, not in that of the client.
    mlflow.set_tracking_uri(store.address)
    # No files are copied, so there is nothing to wait for.
    return client.create_model_version(name, f"models:/{model_id}", run_id, model_id=model_id, await_creation_for=0)


def find_model_id(client: MlflowClient, run_id: str) -> str:
    """Find the id of the model that a run has logged.

    Raises:
        StageError: the run has no model.
    """
    outputs = client.get_run(run_id).outputs
    if outputs is None or not outputs.model_outputs:
        raise StageError(f"run {run_id} has no model; {RECORD_AGAIN}")
    model_id: str = outputs.model_outputs[0].model_id
    return model_id


def find_version(client: MlflowClient, store: Store, run_id: str) -> ModelVersion | None:
    """Find the version of a run's model; if somebody has created several by hand, the first one."""
    found = [v for v in client.search_model_versions(f"run_id = '{run_id}'") if v.name == model_name(store)]
    return min(found, key=lambda version: int(version.version), default=None)


def link_version(client: MlflowClient, model_id: str, version: ModelVersion) -> None:
    """Tag a logged model with its version, as an MLflow server does, or `mlflow.register_model` for a database."""
    known = json.loads(client.get_logged_model(model_id).tags.get(VERSIONS_TAG, "[]"))
    if (version.name, str(version.version)) not in [(each["name"], str(each["version"])) for each in known]:
        known.append({"name": version.name, "version": version.version})
        client.set_logged_model_tags(model_id, {VERSIONS_TAG: json.dumps(known)})


def find_aliased(client: MlflowClient, store: Store, alias: str) -> ModelVersion | None:
    """Find the version with an alias; None if there is none."""
    try:
        return client.get_model_version_by_alias(model_name(store), alias)
    except MlflowException as error:
        # Both codes have other causes too, and a champion that is overlooked would be replaced without a comparison.
        if error.error_code not in (ABSENT, NO_ALIAS) or has_alias(client, store, alias):
            raise
    return None


def has_alias(client: MlflowClient, store: Store, alias: str) -> bool:
    """Whether the registered model exists and has an alias."""
    with ignoring(ABSENT):
        return alias in client.get_registered_model(model_name(store)).aliases
    return False


def find_aliased_run(client: MlflowClient, store: Store, alias: str) -> Run:
    """Find the run of the version with an alias.

    Raises:
        StageError: there is no such version, or its run does not exist.
    """
    version = find_aliased(client, store, alias)
    if version is None:
        raise StageError(
            f"no version of the registered model {model_name(store)} of {hide_login(registry_address(store))} has the "
            f"alias {alias or '(empty)'}; `darkroom promote RUN` sets @{CHAMPION}, and `mlflow ui` shows all aliases"
        )
    return find_version_run(client, version)


def find_version_run(client: MlflowClient, version: ModelVersion) -> Run:
    """Find the run that logged a version's model.

    Raises:
        StageError: the version has no run, or its run was deleted.
    """
    which = f"version {version.version} of the registered model {version.name}"
    if not version.run_id:
        raise StageError(f"{which} has no run, so its accuracy is unknown; expected one that `dvc repro` recorded")
    run = None
    with ignoring(ABSENT):
        run = client.get_run(version.run_id)
    if run is None:
        raise StageError(
            f"{which} is of run {version.run_id}, which is not in the store; expected one that `dvc repro` recorded"
        )
    return check_not_deleted(run, f"{which} is of run {version.run_id}, which")


def check_not_deleted(run: Run, subject: str = "") -> Run:
    """Return the run, unless it was deleted.

    Args:
        run: the run to check.
        subject: the beginning of the message, by default the run.

    Raises:
        StageError: the run was deleted.
    """
    run_id = run.info.run_id
    if run.info.lifecycle_stage == LifecycleStage.DELETED:
        subject = subject or f"run {run_id}"
        raise StageError(f"{subject} was deleted; `mlflow runs restore --run-id {run_id}` brings it back")
    return run


@contextmanager
def ignoring(*codes: str) -> Iterator[None]:
    """Suppress exceptions with one of these MLflow error codes."""
    try:
        yield
    except MlflowException as error:
        if error.error_code not in codes:
            raise
