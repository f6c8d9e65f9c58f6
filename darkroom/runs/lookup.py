"""Open an existing store, find a run in it and download its files."""

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.entities import Run, RunStatus
from mlflow.exceptions import MlflowException

from darkroom.pipeline.stage import StageError, is_disk_full, name_some
from darkroom.runs.registry import (
    check_not_deleted,
    find_aliased_run,
    find_model_id,
    open_registry,
    registry_address,
    show_addresses,
)
from darkroom.tracking.client import find_experiment
from darkroom.tracking.failures import TRACKING_ERRORS, explain_failure, one_line
from darkroom.tracking.relocation import relocate_artifacts
from darkroom.tracking.server import check_server, limit_timeouts
from darkroom.tracking.store import KEY_TAG, RECORD_AGAIN, Store

RUN_ID = re.compile("[0-9a-f]{32}")
ALIAS = "@"
FINISHED = RunStatus.to_string(RunStatus.FINISHED)


@contextmanager
def open_existing(store: Store) -> Iterator[MlflowClient]:
    """Open a store for a `with` block. Unlike MLflow, never create it.

    Raises:
        StageError: the store does not exist, or it fails, on opening or within the block.
    """
    if store.database is not None and not store.database.exists():
        raise StageError(
            f"there is no MLflow store {store.shown_address}, and so no recorded run; run `dvc repro` first, or set "
            "MLFLOW_TRACKING_URI to the right store"
        )
    limit_timeouts()
    try:
        if store.is_server:
            check_server(store.address)
        relocate_artifacts(store)
        yield open_registry(store)
    except TRACKING_ERRORS as error:
        if isinstance(error, BrokenPipeError) or is_disk_full(error):  # a problem of this command's own output or files
            raise
        reason, fix = explain_failure(error, [store.address, registry_address(store)])
        raise StageError(
            f"the MLflow store {show_addresses(store)} cannot be used ({reason}); {fix}, then run this again"
        ) from None


def find_run(client: MlflowClient, store: Store, wanted: str) -> Run:
    """Find a run by its id, or by an alias of the registered model such as @champion.

    Runs of the store's experiment are also found by their name, and by the beginning of their id or name.

    Raises:
        StageError: no run, or more than one, matches.
    """
    if not wanted:
        raise StageError("expected a run's id or name, or the beginning of one, got an empty string")
    if wanted.startswith(ALIAS):
        return find_aliased_run(client, store, wanted.removeprefix(ALIAS))
    if RUN_ID.fullmatch(wanted):
        with suppress(MlflowException):
            return check_not_deleted(client.get_run(wanted))
    experiment = find_experiment(client, store)
    runs = list_runs(client, experiment.experiment_id) if experiment is not None else []
    found = [run for run in runs if run.info.run_name == wanted] or [
        run for run in runs if run.info.run_id.startswith(wanted) or (run.info.run_name or "").startswith(wanted)
    ]
    if len(found) == 1:
        return found[0]
    where = f"the experiment {store.experiment} of {store.shown_address}"
    if not found:
        raise StageError(
            f"there is no run {wanted} in {where}; expected the id or the name of one of its runs, as shown in the "
            "last line of `dvc repro` and in `mlflow ui`"
        )
    names = [f"{run.info.run_id} ({run.info.run_name})" for run in found]
    raise StageError(f"{wanted} matches several runs of {where}: {name_some(names, 5)}; give the id of one")


def list_runs(client: MlflowClient, experiment_id: str) -> list[Run]:
    page = client.search_runs([experiment_id])
    runs = list(page)
    while page.token:
        page = client.search_runs([experiment_id], page_token=page.token)
        runs += page
    return runs


def check_result(run: Run) -> None:
    """Raise a StageError if a run has no recorded result."""
    if KEY_TAG not in run.data.tags:
        raise StageError(
            f"run {run.info.run_id} has no recorded result (it has no tag {KEY_TAG}, its status is "
            f"{run.info.status}); give a run that the record stage reported as known, adopted or restored"
        )


def find_keyed_run(client: MlflowClient, store: Store, key: str) -> Run | None:
    """Find the finished run of the store's experiment whose result has this key."""
    experiment = find_experiment(client, store)
    if experiment is None:
        return None
    wanted = f"tags.`{KEY_TAG}` = '{key}' and attributes.status = '{FINISHED}'"
    found = client.search_runs([experiment.experiment_id], wanted, max_results=1)
    return found[0] if found else None


def fetch_model_files(client: MlflowClient, store: Store, run: Run, folder: Path) -> Path:
    """Download the model of a run to `folder`, and return the path of its files.

    Raises:
        StageError: the model cannot be downloaded.
    """
    model_id = find_model_id(client, run.info.run_id)
    try:
        # MLflow would look up a models:/ address in the process's tracking store, not in that of the client.
        address = client.get_logged_model(model_id).artifact_location
        return Path(download_artifacts(artifact_uri=address, dst_path=str(folder), tracking_uri=store.address))
    except TRACKING_ERRORS as error:
        raise fetch_error("the model", run, error) from None


def fetch_error(what: str, run: Run, error: BaseException) -> StageError:
    return StageError(
        f"{what} of run {run.info.run_id} cannot be downloaded ({one_line(error)}); try again when the "
        f"store works; if its artifacts are gone, {RECORD_AGAIN}"
    )


def fetch_run_file(client: MlflowClient, run: Run, path: Path, folder: Path) -> None:
    """Download a run's file `path` to the same path below `folder`.

    Raises:
        StageError: the file cannot be downloaded.
    """
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        client.download_artifacts(run.info.run_id, path.as_posix(), str(target.parent))
    except TRACKING_ERRORS as error:
        raise fetch_error(str(path), run, error) from None
