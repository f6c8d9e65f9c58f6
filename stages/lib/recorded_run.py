"""A run that holds a result, as it was recorded: its commit, its dvc.lock and params, and what to compare with."""

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from stages.lib.comparison import list_differing
from stages.lib.lockfile import (
    Stages,
    file_digest,
    flatten_params,
    output_digests,
    read_stages,
    recorded_params,
    result_key,
)
from stages.lib.params import read_document
from stages.lib.paths import DVC_LOCK, EVALUATE_PREDICTIONS, PARAMS, TRAIN_ENVIRONMENT
from stages.lib.stage import StageError, name_some
from stages.lib.store import KEY_TAG, Store
from stages.lib.tracking import TRACKING_FAULTS, check_answer, limit_waiting, one_line

COMMIT_TAG, DIRTY_TAG = "mlflow.source.git.commit", "darkroom.git_dirty"
RUN_ID = re.compile("[0-9a-f]{32}")
COMPARED = (EVALUATE_PREDICTIONS, TRAIN_ENVIRONMENT)


@dataclass(frozen=True)
class RecordedRun:
    """`folder` holds its files under the paths that they have in a project; `stages` are those of its dvc.lock."""

    run_id: str
    name: str
    commit: str
    is_dirty: bool
    folder: Path
    stages: Stages

    def __str__(self) -> str:
        changes = ", with changes that were not committed" if self.is_dirty else ""
        return f"run {self.run_id} ({self.name}) of commit {self.commit[:12]}{changes}"


def read_run(store: Store, wanted: str, folder: Path) -> RecordedRun:
    """Read a run with a result, and lay its files into `folder`.

    Args:
        store: where it is; nothing is created there.
        wanted: its id, its name, or the beginning of either if no other run of the experiment begins so.
        folder: for its files.

    Raises:
        StageError: the store cannot be used, there is no such run or several, or it holds no result with a commit.
    """
    try:
        client = open_existing(store)
        run = find_run(client, store, wanted)
        check_tags(run)
        lay_file(client, run, DVC_LOCK, folder)
        lay_file(client, run, PARAMS, folder)
        stages = read_stages(folder / DVC_LOCK)
        for path in COMPARED:
            if path.as_posix() in output_digests(stages):  # older results have fewer
                lay_file(client, run, path, folder)
    except TRACKING_FAULTS as error:
        raise StageError(
            f"the MLflow store {store.shown_address} cannot be used ({one_line(error)}); start its server or correct "
            "MLFLOW_TRACKING_URI, then run this again"
        ) from None
    check_files(run, stages, folder)
    tags = run.data.tags
    is_dirty = tags.get(DIRTY_TAG) == "true"
    return RecordedRun(run.info.run_id, run.info.run_name, tags[COMMIT_TAG], is_dirty, folder, stages)


def open_existing(store: Store) -> MlflowClient:
    """Open a store without creating it, as MLflow would."""
    if store.database is not None and not store.database.exists():
        raise StageError(
            f"there is no MLflow store {store.shown_address} and so no run to rebuild; run `dvc repro` first, or name "
            "the store in MLFLOW_TRACKING_URI"
        )
    limit_waiting()
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    if store.is_server:
        check_answer(store.address)
    return MlflowClient(store.address)


def find_run(client: MlflowClient, store: Store, wanted: str) -> Run:
    """Find a run of the store by its id, or one of the store's experiment by its name or a beginning."""
    if RUN_ID.fullmatch(wanted):
        with suppress(MlflowException):
            return client.get_run(wanted)
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


def check_tags(run: Run) -> None:
    """Refuse a run without a result or without a commit."""
    if KEY_TAG not in run.data.tags:
        raise StageError(
            f"run {run.info.run_id} holds no recorded result (it has no tag {KEY_TAG}, its status is "
            f"{run.info.status}); give a run that the stage record has named as known, adopted or restored"
        )
    if COMMIT_TAG not in run.data.tags:
        raise StageError(
            f"run {run.info.run_id} has no tag {COMMIT_TAG}: it was recorded outside Git, so nobody knows its code; "
            "record results in a Git repository with a commit"
        )


def lay_file(client: MlflowClient, run: Run, path: Path, folder: Path) -> None:
    """Fetch a file of the run to its path below `folder`."""
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        client.download_artifacts(run.info.run_id, path.as_posix(), str(target.parent))
    except TRACKING_FAULTS as error:
        raise StageError(
            f"{path} of run {run.info.run_id} cannot be fetched ({one_line(error)}); run this again when the "
            "store works; if its artifacts are gone, record the result in a new store: `dvc repro`"
        ) from None


def check_files(run: Run, stages: Stages, folder: Path) -> None:
    """Refuse files that are not those of the result that the run's key stands for."""
    digests = output_digests(stages)
    compared = {path.as_posix(): folder / path for path in COMPARED if path.as_posix() in digests}
    wrong = [path for path, file in compared.items() if file_digest(file) != digests[path]]
    wrong += [] if result_key(stages) == run.data.tags[KEY_TAG] else [str(DVC_LOCK)]
    if wrong:
        raise StageError(
            f"{name_some(wrong)} of run {run.info.run_id} cannot be what was recorded: the digests do not match its "
            f"tag {KEY_TAG} and its dvc.lock; record the result in a new store: `dvc repro`"
        )
    check_params(run, recorded_params(stages), flatten_params(read_document(folder / PARAMS)))


def check_params(run: Run, used: Mapping[str, str], written: Mapping[str, str]) -> None:
    names = [name for name in list_differing(used, written) if name in used]
    if names:
        raise StageError(
            f"{PARAMS} of run {run.info.run_id} is not what its dvc.lock was made with; they differ in "
            f"{name_some(names)}; record the result with `dvc repro`, not with `python -m stages.record`"
        )
