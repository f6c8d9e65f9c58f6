"""A finished result as plain values: everything that its MLflow run has to contain."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from darkroom.pipeline.files import read_table
from darkroom.pipeline.paths import (
    ACQUIRE_CREDITS,
    ACQUIRE_PHOTOS_FOLDER,
    AUGMENT_IMAGES,
    AUGMENT_PREVIEW,
    DVC_LOCK,
    EVALUATE_CLASSES,
    EVALUATE_METRICS,
    EXPLAIN_METRICS,
    EXPLAIN_ROBUSTNESS,
    PARAMS,
    SPLIT_CLASSES,
    SPLIT_DUPLICATES,
    SPLIT_METRICS,
    SUBSETS,
    TRAIN_HISTORY,
    TRAIN_LABELS,
    TRAIN_METRICS,
    TRAIN_MODEL,
    subset_rows,
)
from darkroom.pipeline.stage import StageError
from darkroom.tracking.lockfile import (
    DATA_STAGES,
    Stages,
    earlier_keys,
    file_digest,
    output_digests,
    recorded_params,
    result_key,
)
from darkroom.tracking.store import COMMIT_TAG, DIRTY_TAG, EXPERIMENT_TAG, experiment_name, storable_name
from darkroom.version import __version__

# The outputs of the data stages to log as artifacts; of the other stages all outputs are logged.
DATA_ARTIFACTS = (ACQUIRE_CREDITS, AUGMENT_PREVIEW, SPLIT_METRICS, SPLIT_CLASSES, SPLIT_DUPLICATES)
# These two are part of the logged model.
MODEL_FILES = (TRAIN_MODEL, TRAIN_LABELS)
# All other columns of metrics/evaluate/classes.csv are scores.
NOT_SCORES = ("label", "photos")
REFUSED_REPOSITORY = re.compile("dubious ownership in repository at '(.*)'")


class RunOrigin(StrEnum):
    """Where the run of a result comes from."""

    KNOWN = "known"  # the result was recorded before
    COMPLETED = "completed"  # the result was recorded before, and its run or model lacked files
    ADOPTED = "adopted"  # the live run of the training
    RESTORED = "restored"  # created for the result, because there was no live run


@dataclass(frozen=True)
class Result:
    """A result as MLflow shows it.

    Fields:
        key, earlier_keys: the key of the result, and those by which earlier versions recorded it.
        curves: the metrics of each epoch.
        levels: metrics on corrupted photos: name, value, and as the step the distance of the level from the clean one.
        scores: metrics of the result as a whole.
        datasets: (path, DVC's digest) by name.
        artifacts: the files to log, without the model.
    """

    key: str
    params: dict[str, str]
    curves: list[dict[str, float]]
    levels: list[tuple[str, float, int]]
    scores: dict[str, float]
    datasets: dict[str, tuple[str, str]]
    artifacts: list[Path]
    tags: dict[str, str]
    model_digest: str
    experiment: str
    earlier_keys: tuple[str, ...] = ()


def read_result(stages: Stages) -> Result:
    """Read the result that dvc.lock's `stages` describe from the outputs of these stages.

    Raises:
        StageError: an output is missing or differs from dvc.lock.
    """
    digests = output_digests(stages)
    artifacts = list_artifacts(stages)
    for path in (*artifacts, *MODEL_FILES):
        if path.as_posix() in digests:
            check_recorded_output(path, digests[path.as_posix()])
    experiment = experiment_name()
    tags = {
        EXPERIMENT_TAG: experiment,
        "dvc.baseline": os.environ.get("DVC_EXP_BASELINE_REV", ""),
        "darkroom.version": __version__,
        **git_tags(),
        **read_environment(),
        **{f"dvc.md5.{path}": digest for path, digest in digests.items()},
    }
    datasets = {"photos": ACQUIRE_PHOTOS_FOLDER, "images": AUGMENT_IMAGES}
    datasets |= {subset: subset_rows(subset) for subset in SUBSETS}
    return Result(
        key=result_key(stages),
        params=recorded_params(stages),
        curves=read_curves(TRAIN_HISTORY),
        levels=read_levels(),
        scores=read_scores(),
        datasets={name: (path.as_posix(), digests[path.as_posix()]) for name, path in datasets.items()},
        artifacts=artifacts,
        tags={name: value for name, value in tags.items() if value},
        model_digest=digests[TRAIN_MODEL.as_posix()],
        experiment=experiment,
        earlier_keys=earlier_keys(stages),
    )


def list_artifacts(stages: Stages) -> list[Path]:
    """List the files to log as artifacts: dvc.lock, params.yaml and all outputs except data and model."""
    outputs = [(name, Path(out["path"])) for name, stage in stages.items() for out in stage.get("outs", [])]
    shown = [path for name, path in outputs if name not in DATA_STAGES or path in DATA_ARTIFACTS]
    return [DVC_LOCK, PARAMS, *(path for path in shown if path not in MODEL_FILES)]


def check_recorded_output(path: Path, digest: str) -> None:
    if not path.exists() or file_digest(path) != digest:
        problem = f"differs from {DVC_LOCK}" if path.exists() else f"is missing although {DVC_LOCK} lists it"
        raise StageError(f"{path} {problem}, so the result cannot be recorded: run `dvc repro`")


def read_curves(path: Path) -> list[dict[str, float]]:
    return [{name: float(cell) for name, cell in row.items() if name != "epoch"} for row in read_table(path)]


def read_scores() -> dict[str, float]:
    """Read test scores (`test_...`), class scores (`test_<score>/<label>`) and the metrics of train and explain."""
    scores = {f"test_{name}": float(value) for name, value in read_metrics(EVALUATE_METRICS).items()}
    for row in read_table(EVALUATE_CLASSES):
        # A score that no test photo defines is empty.
        defined = {name: cell for name, cell in row.items() if name not in NOT_SCORES and cell}
        scores |= {storable_name(f"test_{name}/{row['label']}"): float(cell) for name, cell in defined.items()}
    metrics = {**read_metrics(EXPLAIN_METRICS), **read_metrics(TRAIN_METRICS)}
    return scores | {name: float(value) for name, value in metrics.items() if not isinstance(value, str)}


def read_levels() -> list[tuple[str, float, int]]:
    """Read accuracy and Grad-CAM shift at each level of each corruption, as `accuracy_by_level/<corruption>`.

    The step is the distance of a level from that of the clean photos, which are the first row. MLflow shows the value
    of the highest step as the latest one: that of the worst level.
    """
    points = []
    for name, path in EXPLAIN_ROBUSTNESS.items():
        rows = read_table(path)
        for row in rows:
            step = abs(int(row["level"]) - int(rows[0]["level"]))
            points += [(f"{score}_by_level/{name}", float(row[score]), step) for score in ("accuracy", "gradcam_shift")]
    return points


def read_environment() -> dict[str, str]:
    """Read the hardware and precision of the training as the tags `darkroom.device` and `darkroom.precision`."""
    values = read_metrics(TRAIN_METRICS)
    return {f"darkroom.{name}": str(values[name]) for name in ("device", "precision")}


def read_metrics(path: Path) -> Mapping[str, float | str]:
    metrics: dict[str, float | str] = json.loads(path.read_bytes())
    return metrics


def git_tags() -> dict[str, str]:
    """Return the current commit and whether the working tree is dirty; nothing outside a Git repository.

    Raises:
        StageError: Git refuses the repository because of its owner.
    """
    if shutil.which("git") is None:
        if any((folder / ".git").exists() for folder in (Path.cwd(), *Path.cwd().parents)):
            print(
                "record: Git is not installed, so the run has no commit and cannot be rebuilt; install Git before the "
                "next result",
                file=sys.stderr,
            )
        return {}
    found = run_git("rev-parse", "--verify", "HEAD")
    refused = REFUSED_REPOSITORY.search(found.stderr)
    if refused:
        raise StageError(
            f"the repository {refused[1]} belongs to another user, so Git does not give the commit of the result; run "
            f"`git config --global --add safe.directory {shlex.quote(refused[1])}`, then `dvc repro` records the "
            "result without training again"
        )
    if found.returncode:  # no repository, or no commit yet
        return {}
    changes = run_git("status", "--porcelain", "--", ".", ":!dvc.lock").stdout
    return {COMMIT_TAG: found.stdout.strip(), DIRTY_TAG: str(bool(changes.strip())).lower()}


def run_git(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["git", *arguments]
    untranslated = os.environ | {"LC_ALL": "C"}
    return subprocess.run(
        command, capture_output=True, text=True, errors="surrogateescape", env=untranslated, check=False
    )
