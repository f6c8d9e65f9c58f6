"""A run in a store that is there already: opening the store, finding the run, fetching its files."""

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.entities import Run, RunStatus
from mlflow.exceptions import MlflowException

from darkroom.pipeline.stage import StageError, is_disk_full, name_some
from darkroom.runs.registry import check_kept, find_aliased_run, find_model_id, open_registry, show_places
from darkroom.tracking.client import TRACKING_FAULTS, check_answer, limit_waiting, one_line
from darkroom.tracking.store import KEY_TAG, RECORD_ANEW, Store

RUN_ID = re.compile("[0-9a-f]{32}")
ALIAS = "@"
FINISHED = RunStatus.to_string(RunStatus.FINISHED)


@contextmanager
def open_existing(store: Store) -> Iterator[MlflowClient]:
    """Open a store for a block, without creating it, as MLflow would.

    Raises:
        StageError: there is no such store, or it fails, now or later in the block.
    """
    if store.database is not None and not store.database.exists():
        raise StageError(
            f"there is no MLflow store {store.shown_address} and so no recorded run; run `dvc repro` first, or name "
            "the store in MLFLOW_TRACKING_URI"
        )
    limit_waiting()
    try:
        if store.is_server:
            check_answer(store.address)
        yield open_registry(store)
    except TRACKING_FAULTS as error:
        if isinstance(error, BrokenPipeError) or is_disk_full(error):  # of this command's own output and files
            raise
        raise StageError(
            f"the MLflow store {show_places(store)} cannot be used ({one_line(error)}); start its server or correct "
            "MLFLOW_TRACKING_URI, then run this again"
        ) from None


def find_run(client: MlflowClient, store: Store, wanted: str) -> Run:
    """Find a run of the store by its id, or one of the store's experiment by its name or a beginning, or by an alias
    of the registered model, such as @champion.

    Raises:
        StageError: there is none, or several.
    """
    if not wanted:
        raise StageError("a run's id or name, or the beginning of one, is expected, got an empty one")
    if wanted.startswith(ALIAS):
        return find_aliased_run(client, store, wanted.removeprefix(ALIAS))
    if RUN_ID.fullmatch(wanted):
        with suppress(MlflowException):
            return check_kept(client.get_run(wanted))
    experiment = client.get_experiment_by_name(store.experiment)
    runs = list_runs(client, experiment.experiment_id) if experiment is not None else []
    found = [run for run in runs if run.info.run_name == wanted] or [
        run for run in runs if run.info.run_id.startswith(wanted) or (run.info.run_name or "").startswith(wanted)
    ]
    if len(found) == 1:
        return found[0]
    where = f"the experiment {store.experiment} of {store.shown_address}"
    if not found:
        raise StageError(
            f"there is no run {wanted} in {where}; expected the id or the name of one of its runs, which the last line "
            "of `dvc repro` and `mlflow ui` show"
        )
    names = [f"{run.info.run_id} ({run.info.run_name})" for run in found]
    raise StageError(f"{wanted} is no single run of {where}, but {name_some(names, 5)}; give the id of one")


def list_runs(client: MlflowClient, experiment_id: str) -> list[Run]:
    page = client.search_runs([experiment_id])
    runs = list(page)
    while page.token:
        page = client.search_runs([experiment_id], page_token=page.token)
        runs += page
    return runs


def check_result(run: Run) -> None:
    """Refuse a run without a recorded result.

    Raises:
        StageError: it has none.
    """
    if KEY_TAG not in run.data.tags:
        raise StageError(
            f"run {run.info.run_id} holds no recorded result (it has no tag {KEY_TAG}, its status is "
            f"{run.info.status}); give a run that the stage record has named as known, adopted or restored"
        )


def find_keyed_run(client: MlflowClient, store: Store, key: str) -> Run | None:
    """Find the finished run of the store's experiment that holds the result of this key."""
    experiment = client.get_experiment_by_name(store.experiment)
    if experiment is None:
        return None
    wanted = f"tags.`{KEY_TAG}` = '{key}' and attributes.status = '{FINISHED}'"
    found = client.search_runs([experiment.experiment_id], wanted, max_results=1)
    return found[0] if found else None


def fetch_model_files(client: MlflowClient, store: Store, run: Run, folder: Path) -> Path:
    """Fetch the model of a run with a result into `folder`, and give the place of its files.

    Raises:
        StageError: it cannot be fetched.
    """
    model_id = find_model_id(client, run.info.run_id)
    try:
        # A models:/ address would be looked up in the store that the process has set, whatever the client's is.
        place = client.get_logged_model(model_id).artifact_location
        return Path(download_artifacts(artifact_uri=place, dst_path=str(folder), tracking_uri=store.address))
    except TRACKING_FAULTS as error:
        raise unfetchable("the model", run, error) from None


def unfetchable(what: str, run: Run, error: BaseException) -> StageError:
    return StageError(
        f"{what} of run {run.info.run_id} cannot be fetched ({one_line(error)}); run this again when the "
        f"store works; if its artifacts are gone, {RECORD_ANEW}"
    )


def lay_file(client: MlflowClient, run: Run, path: Path, folder: Path) -> None:
    """Fetch a file of the run to its path below `folder`.

    Raises:
        StageError: it cannot be fetched.
    """
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        client.download_artifacts(run.info.run_id, path.as_posix(), str(target.parent))
    except TRACKING_FAULTS as error:
        raise unfetchable(str(path), run, error) from None
