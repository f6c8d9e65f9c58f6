"""Time to 50% accuracy on held-out photos of six guitar models, for three approaches.

The protocol of tutorials (recipe guitars_six: stored variants, keras_cifar10_cnn), this project's network from scratch
(guitars_compact), and the head of a frozen MobileNetV2 (guitars_mobilenet without its second phase and on the same
photos): 69 photos per guitar model in ../shared/material, with the same split. Accuracy is measured on the validation
and test subsets together after each epoch. CPU seconds count from the call of the training, so they include building
the network, loading its weights and computing its features.

Run as  python -m benchmarks.time_to_accuracy     (about half an hour on two CPUs)
"""

import os
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from benchmarks.recipes import ENVIRONMENT, MATERIAL, prepare_project
from darkroom.params.section import read_params
from darkroom.params.train import TrainParams
from darkroom.pipeline.dataset import StoredImages, read_index, read_row_numbers
from darkroom.pipeline.paths import AUGMENT_IMAGES, AUGMENT_INDEX, subset_rows
from darkroom.training.training import number_labels, train_network
from darkroom.training.training_data import TrainingData
from tests.project import ROOT, read_recipe

GOAL = 0.5
SIX = {
    "acquire.classes": read_recipe("guitars_six")["acquire"]["classes"],
    "acquire.photos_per_class": 69,
}
SYSTEMS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "tutorial protocol": ("guitars_six", {}),
    "compact_cnn from scratch": ("guitars_compact", {}),
    "frozen MobileNetV2": (
        "guitars_mobilenet",
        {**SIX, "train.backbone.fine_tuning.epochs": 0},
    ),
}


class Clock(keras.callbacks.Callback):
    """Record the seconds and the accuracy after each epoch, and stop at the goal."""

    def __init__(self) -> None:
        super().__init__()
        self.started = time.process_time()
        self.reached: float | None = None
        self.seconds = 0.0
        self.best = 0.0

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        accuracy = (logs or {})["val_accuracy"]
        self.seconds = time.process_time() - self.started
        self.best = max(self.best, accuracy)
        print(f"epoch {epoch + 1}  {self.seconds:.1f} s  {accuracy:.3f}", flush=True)
        if accuracy >= GOAL:
            self.reached = self.seconds
            self.model.stop_training = True


def train(feature_cache: Path) -> Clock:
    """Train in the current folder until the goal is reached or the epochs run out."""
    params = read_params("train", TrainParams)
    index = read_index(AUGMENT_INDEX)
    images = StoredImages(AUGMENT_IMAGES, len(index))
    labels, class_ids = number_labels([row.label for row in index])
    subsets = {name: read_row_numbers(subset_rows(name), len(index)) for name in ("train", "validation", "test")}
    rows = {"train": subsets["train"], "validation": np.concatenate([subsets["validation"], subsets["test"]])}
    clock = Clock()
    train_network(params, TrainingData(images, rows, class_ids, len(labels)), [clock], feature_cache)
    return clock


def main() -> None:
    if not MATERIAL.is_dir():
        sys.exit(f"{MATERIAL} is missing; it must contain guitars/, with a folder of photos per model, and keras-home/")
    if os.environ.get("KERAS_HOME") != ENVIRONMENT["KERAS_HOME"]:  # Keras reads it when it is imported
        os.execve(sys.executable, [sys.executable, "-m", "benchmarks.time_to_accuracy"], os.environ | ENVIRONMENT)
    clocks = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (recipe, changes) in SYSTEMS.items():
            os.chdir(ROOT)
            project = prepare_project(Path(folder, recipe), recipe, changes)
            os.chdir(project.root)
            clocks[name] = train(Path(folder, "features"))
    slowest = clocks["tutorial protocol"]
    print(f"| system | CPU seconds to {GOAL} | best accuracy until then | relative to the tutorial protocol |")
    print("|---|---|---|---|")
    for name, clock in clocks.items():
        reached = f"{clock.reached:.1f}" if clock.reached else f"not in {clock.seconds:.0f}"
        ratio = (
            f"{'' if slowest.reached else 'less than '}{clock.reached / slowest.seconds:.4f}" if clock.reached else ""
        )
        print(f"| {name} | {reached} | {clock.best:.3f} | {ratio} |")


if __name__ == "__main__":
    main()
