"""Rebuild the result of a recorded run outside the workspace, and compare it with the recorded one.

The run's commit is checked out into a temporary folder, with the params of the run. Photos are restored from DVC's
cache or its remote, or else fetched from their source again; all other stages run.

Reads   MLflow          a run with a result: its commit, dvc.lock, params.yaml and predictions
        Git             the code at that commit
        DVC             the photos; the workspace's cache only gets photos from the remote
Writes  nothing         the temporary folder is removed, unless --keep names a folder
Run as  darkroom rebuild RUN [--tolerance 0.001] [--keep FOLDER]

The exit code is 0 if the result is identical or equal within the tolerance, else 1.
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
from commands.rebuilding.replay import DVC_CONFIG, Checkout, find_python, share_cache
from commands.rebuilding.worktree import PHOTOS, WEIGHTS, check_code, check_out, read_pipeline, use_workspace_path
from darkroom.pipeline.paths import DVC_LOCK, EVALUATE_PREDICTIONS, PARAMS, TRAIN_ENVIRONMENT
from darkroom.pipeline.stage import StageError
from darkroom.scores.predictions import Row, read_predictions
from darkroom.tracking.lockfile import DATA_STAGES, Stages, output_digests, read_stages
from darkroom.tracking.store import find_store

ACQUIRE = DATA_STAGES[0]


def rebuild(run: RecordedRun, folder: Path) -> list[str]:
    """Rebuild a run's result in `folder`, where its commit is checked out.

    Returns:
        the stages that did not run, because DVC had their outputs.

    Raises:
        StageError: the code of the commit is not what the run used, or a stage fails.
    """
    check_code(run.stages, folder, run.commit)
    for file in (DVC_LOCK, PARAMS):
        shutil.copyfile(run.folder / file, folder / file)
    use_workspace_path(folder, WEIGHTS)
    cache, remote = share_cache(folder)
    photos = stage_digests(run.stages)[ACQUIRE]
    origin = Checkout(folder, Path(sys.executable)).restore(ACQUIRE, photos, cache, remote)
    if origin is None:
        print("rebuild: neither DVC's cache nor its remote has the photos; fetching them from their source", flush=True)
        use_workspace_path(folder, PHOTOS)
    else:
        print(f"rebuild: photos restored from {origin}", flush=True)

    checkout = Checkout(folder, find_python(folder))
    for stage in read_pipeline(folder):
        if stage in run.stages and (stage != ACQUIRE or origin is None):
            checkout.rerun_stage(stage)
    return [ACQUIRE] if origin else []


def stage_digests(stages: Stages) -> Digests:
    """The digests of the outputs of each stage."""
    return {name: output_digests({name: stage}) for name, stage in stages.items()}


def compare(run: RecordedRun, folder: Path, tolerance: float) -> RebuildVerdict:
    """Compare a run's result with the one that was rebuilt in `folder`."""
    ordered = {name: run.stages[name] for name in read_pipeline(folder) if name in run.stages}
    rebuilt = read_stages(folder / DVC_LOCK)
    recorded_rows, rebuilt_rows = (read_rows(root / EVALUATE_PREDICTIONS) for root in (run.folder, folder))
    return compare_results(stage_digests(ordered), stage_digests(rebuilt), recorded_rows, rebuilt_rows, tolerance)


def read_rows(path: Path) -> list[Row]:
    """The rows of a table of predictions; none if the file does not exist, as in results of earlier versions.

    Raises:
        StageError: the file is damaged.
    """
    if not path.exists():
        return []
    try:
        return read_predictions(path).rows
    except StageError as error:
        raise StageError(f"{path}: {error}") from None


def describe_environment_change(run: RecordedRun, folder: Path) -> str:
    """What differs between the environments of both trainings; "" if nothing does, or a result has no such file."""
    files = [root / TRAIN_ENVIRONMENT for root in (run.folder, folder)]
    if not all(file.exists() for file in files):
        return ""
    environments: list[dict[str, Any]] = [json.loads(file.read_bytes()) for file in files]
    return describe_environments(*environments)


def main(wanted: str, tolerance: float, keep: Path | None) -> None:
    # SIGTERM cleans up like Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with TemporaryDirectory(prefix="darkroom-run-") as files:
        run = read_run(find_store(), wanted, Path(files))
        with check_out(run.commit, keep) as folder:
            print(f"rebuild: {run} -> {folder}", flush=True)
            not_rebuilt = rebuild(run, folder)
            verdict = compare(run, folder, tolerance)
            affected = verdict.first in ("train", "evaluate", "explain")
            changes = describe_environment_change(run, folder) if affected else ""
            (folder / DVC_CONFIG).unlink(missing_ok=True)  # it may hold passwords, and the kept folder may be shared

    print(describe_stages(verdict, not_rebuilt))
    if changes:
        print(f"rebuild: a likely reason is that train ran in a different environment:\n{changes}")
    if keep is not None:
        print(f"rebuild: the result is in {keep}; `git worktree remove --force {keep}` removes it")
    print(f"rebuild: run {run.run_id} -> {verdict}")
    if not verdict.is_same:
        sys.exit(1)
