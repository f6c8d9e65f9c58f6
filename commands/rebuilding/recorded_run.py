"""Reads a recorded run to rebuild it: its commit, dvc.lock, params and the files to compare with."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mlflow.entities import Run

from commands.rebuilding.comparison import list_differing
from darkroom.params.section import read_document
from darkroom.pipeline.paths import DVC_LOCK, EVALUATE_PREDICTIONS, PARAMS, TRAIN_ENVIRONMENT
from darkroom.pipeline.stage import StageError, name_some
from darkroom.runs.lookup import check_result, fetch_run_file, find_run, open_existing
from darkroom.tracking.lockfile import (
    Stages,
    earlier_keys,
    file_digest,
    flatten_params,
    output_digests,
    read_stages,
    recorded_params,
    result_key,
)
from darkroom.tracking.store import COMMIT_TAG, DIRTY_TAG, KEY_TAG, RECORD_AGAIN, Store

COMPARED = (EVALUATE_PREDICTIONS, TRAIN_ENVIRONMENT)


@dataclass(frozen=True)
class RecordedRun:
    """`folder` holds the run's files at their paths in a project; `stages` are those of its dvc.lock."""

    run_id: str
    name: str
    commit: str
    is_dirty: bool
    folder: Path
    stages: Stages

    def __str__(self) -> str:
        changes = ", with uncommitted changes" if self.is_dirty else ""
        return f"run {self.run_id} ({self.name}) of commit {self.commit[:12]}{changes}"


def read_run(store: Store, wanted: str, folder: Path) -> RecordedRun:
    """Read a run with a result, and download its files into `folder`.

    Args:
        store: the MLflow store; nothing is created in it.
        wanted: the run's id or name, an unambiguous beginning of either, or an alias.
        folder: the folder for its files.

    Raises:
        StageError: the store cannot be used, no run or several runs match, or the run has no result with a commit.
    """
    with open_existing(store) as client:
        run = find_run(client, store, wanted)
        check_result(run)
        check_commit(run)
        fetch_run_file(client, run, DVC_LOCK, folder)
        fetch_run_file(client, run, PARAMS, folder)
        stages = read_stages(folder / DVC_LOCK)
        for path in COMPARED:
            if path.as_posix() in output_digests(stages):  # results of earlier versions have fewer files
                fetch_run_file(client, run, path, folder)
    check_files(run, stages, folder)
    tags = run.data.tags
    is_dirty = tags.get(DIRTY_TAG) == "true"
    return RecordedRun(run.info.run_id, run.info.run_name, tags[COMMIT_TAG], is_dirty, folder, stages)


def check_commit(run: Run) -> None:
    """Reject a run without a commit."""
    if COMMIT_TAG not in run.data.tags:
        raise StageError(
            f"run {run.info.run_id} has no tag {COMMIT_TAG}: it was recorded outside Git, so its code is unknown; "
            "record results in a Git repository with a commit"
        )


def check_files(run: Run, stages: Stages, folder: Path) -> None:
    """Reject files that do not match the key of the run's result."""
    digests = output_digests(stages)
    compared = {path.as_posix(): folder / path for path in COMPARED if path.as_posix() in digests}
    mismatched = [path for path, file in compared.items() if file_digest(file) != digests[path]]
    keys = (result_key(stages), *earlier_keys(stages))
    mismatched += [] if run.data.tags[KEY_TAG] in keys else [str(DVC_LOCK)]
    if mismatched:
        raise StageError(
            f"{name_some(mismatched)} of run {run.info.run_id} is not what was recorded: the digests do not match its "
            f"tag {KEY_TAG} and its dvc.lock; {RECORD_AGAIN}"
        )
    compare_with_lock(run, recorded_params(stages), flatten_params(read_document(folder / PARAMS)))


def compare_with_lock(run: Run, in_lock: Mapping[str, str], in_params: Mapping[str, str]) -> None:
    """Reject a params.yaml whose values differ from those in dvc.lock."""
    names = [name for name in list_differing(in_lock, in_params) if name in in_lock]
    if names:
        raise StageError(
            f"{PARAMS} of run {run.info.run_id} does not match its dvc.lock: they differ in {name_some(names)}; record "
            "the result with `dvc repro`, not with `python -m stages.record`"
        )
