"""Make the result of a recorded run again, apart from the workspace, and tell whether it is the same.

The run's commit is checked out into a temporary folder, with the run's own params. Photos come from DVC's cache or its
remote, or else from the source; all other stages run for real.

Reads   MLflow          a run with a result: its commit, dvc.lock, params.yaml and predictions
        Git             the code at that commit
        DVC             the photos; the cache is the workspace's, and gets nothing but photos from the remote
Writes  nothing         the temporary folder is removed, unless --keep names one
Run as  darkroom rebuild RUN [--tolerance 0.001] [--keep FOLDER]

It exits with 0 if the result is identical or equal within the tolerance, else with 1.
"""

import json
import shutil
import signal
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from commands.rebuilding.comparison import (
    Digests,
    RebuildVerdict,
    compare_results,
    describe_environments,
    describe_stages,
)
from commands.rebuilding.recorded_run import RecordedRun, read_run
from commands.rebuilding.replay import DVC_CONFIG, Rebuilding, find_python, share_cache
from commands.rebuilding.worktree import PHOTOS, WEIGHTS, check_code, check_out, name_outside_files, read_pipeline
from darkroom.pipeline.paths import DVC_LOCK, EVALUATE_PREDICTIONS, PARAMS, TRAIN_ENVIRONMENT
from darkroom.pipeline.stage import StageError
from darkroom.scores.predictions import Row, read_predictions
from darkroom.tracking.lockfile import DATA_STAGES, Stages, output_digests, read_stages
from darkroom.tracking.store import find_store

ACQUIRE = DATA_STAGES[0]


def rebuild(run: RecordedRun, folder: Path) -> list[str]:
    """Make a run's result again in `folder`, where its commit is checked out.

    Returns:
        the stages that did not run, whose outputs were taken from DVC.

    Raises:
        StageError: the code is not the run's, or a stage fails.
    """
    check_code(run.stages, folder, run.commit)
    for file in (DVC_LOCK, PARAMS):
        shutil.copyfile(run.folder / file, folder / file)
    name_outside_files(folder, WEIGHTS)
    cache, remote = share_cache(folder)
    photos = stage_digests(run.stages)[ACQUIRE]
    origin = Rebuilding(folder, Path(sys.executable)).restore(ACQUIRE, photos, cache, remote)
    nowhere = "their source, because they are neither in DVC's cache nor in its remote"
    print(f"rebuild: the photos come from {origin or nowhere}", flush=True)
    if origin is None:
        name_outside_files(folder, PHOTOS)

    rebuilding = Rebuilding(folder, find_python(folder))
    for stage in read_pipeline(folder):
        if stage in run.stages and (stage != ACQUIRE or origin is None):
            rebuilding.make(stage)
    return [ACQUIRE] if origin else []


def stage_digests(stages: Stages) -> Digests:
    """The digests of the outputs of each stage, in the order of the stages."""
    return {name: output_digests({name: stage}) for name, stage in stages.items()}


def compare(run: RecordedRun, folder: Path, tolerance: float) -> RebuildVerdict:
    """Compare a run's result with the one that was made in `folder`."""
    ordered = {name: run.stages[name] for name in read_pipeline(folder) if name in run.stages}
    rebuilt = read_stages(folder / DVC_LOCK)
    then, now = (read_rows(place / EVALUATE_PREDICTIONS) for place in (run.folder, folder))
    return compare_results(stage_digests(ordered), stage_digests(rebuilt), then, now, tolerance)


def read_rows(path: Path) -> list[Row]:
    """The rows of a table of predictions; none if there is no such file, as in results of earlier versions.

    Raises:
        StageError: the file is damaged.
    """
    if not path.exists():
        return []
    try:
        return read_predictions(path).rows
    except StageError as error:
        raise StageError(f"{path}: {error}") from None


def explain(run: RecordedRun, folder: Path) -> str:
    """What was different around the training, as far as both results tell."""
    places = [place / TRAIN_ENVIRONMENT for place in (run.folder, folder)]
    if not all(place.exists() for place in places):
        return ""
    environments: list[dict[str, Any]] = [json.loads(place.read_bytes()) for place in places]
    return describe_environments(*environments)


def main(wanted: str, tolerance: float, keep: Path | None) -> None:
    # A plain kill cleans up as well.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with TemporaryDirectory(prefix="darkroom-run-") as files:
        run = read_run(find_store(), wanted, Path(files))
        with check_out(run.commit, keep) as folder:
            print(f"rebuild: {run} -> {folder}", flush=True)
            not_rebuilt = rebuild(run, folder)
            verdict = compare(run, folder, tolerance)
            reasons = explain(run, folder) if verdict.first in ("train", "evaluate", "explain") else ""
            (folder / DVC_CONFIG).unlink(missing_ok=True)  # a kept folder is handed on, and this may have passwords

    print(describe_stages(verdict, not_rebuilt))
    if reasons:
        print(f"rebuild: the likely reason is that train ran in another environment:\n{reasons}")
    if keep is not None:
        print(f"rebuild: kept in {keep}; `git worktree remove --force {keep}` removes it")
    print(f"rebuild: run {run.run_id} -> {verdict}")
    if not verdict.is_same:
        sys.exit(1)
