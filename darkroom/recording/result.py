"""A finished result as plain values: what a run in MLflow has to hold."""

import csv
import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from darkroom.pipeline.dataset import SUBSETS
from darkroom.pipeline.paths import (
    ACQUIRE_CREDITS,
    ACQUIRE_PHOTOS_FOLDER,
    AUGMENT_IMAGES,
    AUGMENT_PREVIEW,
    DVC_LOCK,
    EVALUATE_CLASSES,
    EVALUATE_CONFUSED,
    EVALUATE_CONFUSION_PLOT,
    EVALUATE_CREATORS,
    EVALUATE_METRICS,
    EVALUATE_PREDICTIONS,
    EVALUATE_RELIABILITY,
    EVALUATE_RELIABILITY_PLOT,
    EVALUATE_SCALED_RELIABILITY,
    EVALUATE_SOURCES,
    EVALUATE_TOP_LOSSES,
    EXPLAIN_DISTURBED,
    EXPLAIN_FILTERS,
    EXPLAIN_GRADCAM,
    EXPLAIN_METRICS,
    EXPLAIN_ROBUSTNESS,
    EXPLAIN_ROBUSTNESS_PLOT,
    PARAMS,
    SPLIT_CLASSES,
    SPLIT_DUPLICATES,
    SPLIT_METRICS,
    TRAIN_ENVIRONMENT,
    TRAIN_HISTORY,
    TRAIN_LABELS,
    TRAIN_METRICS,
    TRAIN_MODEL,
    TRAIN_NORMALIZATION,
    TRAIN_PREVIEW,
    subset_rows,
)
from darkroom.pipeline.stage import StageError
from darkroom.tracking.lockfile import Stages, file_digest, output_digests, recorded_params, result_key
from darkroom.tracking.store import COMMIT_TAG, DIRTY_TAG, EXPERIMENT_TAG, experiment_name, storable_name

# What people open in a run, without its model.
FILES = (
    DVC_LOCK,
    PARAMS,
    ACQUIRE_CREDITS,
    AUGMENT_PREVIEW,
    SPLIT_METRICS,
    SPLIT_CLASSES,
    SPLIT_DUPLICATES,
    TRAIN_HISTORY,
    TRAIN_METRICS,
    TRAIN_ENVIRONMENT,
    TRAIN_PREVIEW,
    TRAIN_NORMALIZATION,
    EVALUATE_METRICS,
    EVALUATE_CLASSES,
    EVALUATE_CONFUSED,
    EVALUATE_RELIABILITY,
    EVALUATE_SCALED_RELIABILITY,
    EVALUATE_SOURCES,
    EVALUATE_CREATORS,
    EVALUATE_PREDICTIONS,
    EVALUATE_CONFUSION_PLOT,
    EVALUATE_RELIABILITY_PLOT,
    EVALUATE_TOP_LOSSES,
    EXPLAIN_METRICS,
    *EXPLAIN_ROBUSTNESS.values(),
    EXPLAIN_GRADCAM,
    EXPLAIN_FILTERS,
    EXPLAIN_DISTURBED,
    EXPLAIN_ROBUSTNESS_PLOT,
)
CLASS_SCORES = ("precision", "recall", "f1", "average_precision", "roc_auc")


@dataclass(frozen=True)
class Result:
    """A result as MLflow shows it.

    Fields:
        curves: a mapping of metrics per epoch.
        levels: the points of metrics on disturbed photos: name, value, and the level as the step.
        scores: metrics of the result as a whole.
        datasets: (path, DVC's digest) by name.
    """

    key: str
    params: dict[str, str]
    curves: list[dict[str, float]]
    levels: list[tuple[str, float, int]]
    scores: dict[str, float]
    datasets: dict[str, tuple[str, str]]
    tags: dict[str, str]
    model_digest: str
    experiment: str


def read_result(stages: Stages) -> Result:
    """Read the result that `stages` of dvc.lock describe from the outputs of the stages.

    Raises:
        StageError: an output is missing or is not what dvc.lock says.
    """
    digests = output_digests(stages)
    for path in (*FILES, TRAIN_MODEL, TRAIN_LABELS):
        if path.as_posix() in digests:
            check_output(path, digests[path.as_posix()])
    experiment = experiment_name()
    tags = {
        EXPERIMENT_TAG: experiment,
        "dvc.baseline": os.environ.get("DVC_EXP_BASELINE_REV", ""),
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
        tags={name: value for name, value in tags.items() if value},
        model_digest=digests[TRAIN_MODEL.as_posix()],
        experiment=experiment,
    )


def check_output(path: Path, digest: str) -> None:
    if not path.exists() or file_digest(path) != digest:
        fault = f"is not what {DVC_LOCK} has of it" if path.exists() else f"is missing though {DVC_LOCK} has it"
        raise StageError(f"{path} {fault}, so the result cannot be recorded: run `dvc repro`")


def read_curves(path: Path) -> list[dict[str, float]]:
    with path.open(newline="", encoding="utf-8") as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    return [{name: value for name, value in row.items() if name != "epoch"} for row in rows]


def read_scores() -> dict[str, float]:
    """Test scores as `test_...`, those of a class as `test_<score>/<label>`, and the figures of train and explain."""
    scores = {f"test_{name}": float(value) for name, value in read_figures(EVALUATE_METRICS).items()}
    with EVALUATE_CLASSES.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            # What no test photo defines is empty.
            defined = [score for score in CLASS_SCORES if row[score]]
            scores |= {storable_name(f"test_{score}/{row['label']}"): float(row[score]) for score in defined}
    figures = {**read_figures(EXPLAIN_METRICS), **read_figures(TRAIN_METRICS)}
    return scores | {name: float(value) for name, value in figures.items() if not isinstance(value, str)}


def read_levels() -> list[tuple[str, float, int]]:
    """Accuracy and Grad-CAM's moves at each level of each disturbance, as `accuracy_by_level/<disturbance>`.

    The step is how far a level is from the undisturbed photos, which are the first row: what MLflow takes for the
    latest value, that of the highest step, is then the one of the worst level.
    """
    points = []
    for name, path in EXPLAIN_ROBUSTNESS.items():
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        for row in rows:
            step = abs(int(row["level"]) - int(rows[0]["level"]))
            points += [(f"{score}_by_level/{name}", float(row[score]), step) for score in ("accuracy", "gradcam_moved")]
    return points


def read_environment() -> dict[str, str]:
    """What computed the training, as tags: `darkroom.device` and `darkroom.precision`."""
    values = read_figures(TRAIN_METRICS)
    return {f"darkroom.{name}": str(values[name]) for name in ("device", "precision")}


def read_figures(path: Path) -> Mapping[str, float | str]:
    figures: dict[str, float | str] = json.loads(path.read_bytes())
    return figures


def git_tags() -> dict[str, str]:
    """The commit that is checked out, and whether files differ from it; nothing where there is no Git."""
    if shutil.which("git") is None:
        return {}
    commit = run_git("rev-parse", "--verify", "--quiet", "HEAD")
    if not commit:
        return {}
    return {
        COMMIT_TAG: commit,
        DIRTY_TAG: str(bool(run_git("status", "--porcelain", "--", ".", ":!dvc.lock"))).lower(),
    }


def run_git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=False).stdout.strip()
