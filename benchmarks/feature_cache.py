"""CPU time that caching the features of a frozen backbone saves.

Trains the head of the recipe guitars_mobilenet, without its second phase, on the photos in ../shared/material, three
times in one process: without a cache, so that the backbone processes every image in every epoch; with an empty cache;
and with the filled cache. Prints CPU seconds and ratios, and the largest difference between the learning curves.

Run as  python -m benchmarks.feature_cache     (about five minutes on two CPUs)
"""

import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.recipes import ENVIRONMENT, MATERIAL, prepare_project
from darkroom.params.section import read_params
from darkroom.params.train import TrainParams
from darkroom.pipeline.dataset import StoredImages, read_index, read_row_numbers
from darkroom.pipeline.paths import AUGMENT_IMAGES, AUGMENT_INDEX, subset_rows
from darkroom.tracking.live_run import LiveRun
from darkroom.training.checkpoint import CURVES
from darkroom.training.phase import EpochReport
from darkroom.training.training import TrainingResult, number_labels, train_network
from darkroom.training.training_data import TrainingData

EPOCHS = 10
CHANGES = {
    "train.epochs": EPOCHS,
    "train.early_stopping_patience": EPOCHS,
    "train.backbone.fine_tuning.epochs": 0,
}


def train(feature_cache: Path | None) -> tuple[float, TrainingResult]:
    """Train in the current folder; return the CPU seconds and the result."""
    params = read_params("train", TrainParams)
    index = read_index(AUGMENT_INDEX)
    images = StoredImages(AUGMENT_IMAGES, len(index))
    labels, class_ids = number_labels([row.label for row in index])
    rows = {subset: read_row_numbers(subset_rows(subset), len(index)) for subset in ("train", "validation")}
    data = TrainingData(images, rows, class_ids, len(labels))
    started = time.process_time()
    trained = train_network(params, data, [EpochReport(LiveRun(), EPOCHS)], feature_cache)
    return time.process_time() - started, trained


def main() -> None:
    if not MATERIAL.is_dir():
        sys.exit(f"{MATERIAL} is missing; it must contain guitars/, with a folder of photos per model, and keras-home/")
    if os.environ.get("KERAS_HOME") != ENVIRONMENT["KERAS_HOME"]:  # Keras reads it when it is imported
        os.execve(sys.executable, [sys.executable, "-m", "benchmarks.feature_cache"], os.environ | ENVIRONMENT)
    with tempfile.TemporaryDirectory() as folder:
        project = prepare_project(Path(folder, "project"), "guitars_mobilenet", CHANGES)
        os.chdir(project.root)
        cache = Path(folder, "features")
        measured = {name: train(path) for name, path in {"none": None, "computed": cache, "found": cache}.items()}
    plain_seconds, plain = measured["none"]
    print(f"| features | CPU seconds, {EPOCHS} epochs | relative to no cache | largest difference of the curves |")
    print("|---|---|---|---|")
    for name, (seconds, trained) in measured.items():
        difference = max(np.abs(np.subtract(trained.curves[curve], plain.curves[curve])).max() for curve in CURVES)
        print(f"| {name} | {seconds:.1f} | {seconds / plain_seconds:.3f} | {difference:.1e} |")


if __name__ == "__main__":
    main()
