"""How a network is trained: by the train stage, and by commands that train for comparison.

Dims: N images, H height, W width, C channels, K classes.
"""

import sys
import time
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import NamedTuple

import keras
import numpy as np

from stages.lib.arrays import ClassNumbers, RowNumbers
from stages.lib.augmentation import AugmentationRanges, make_augmentation
from stages.lib.backend import make_deterministic
from stages.lib.batches import Batches, ShuffleEachEpoch
from stages.lib.dataset import StoredImages
from stages.lib.live_run import LiveRun
from stages.lib.networks import build_network
from stages.lib.normalization import fit_normalization
from stages.lib.params import Monitor, TrainParams
from stages.lib.stage import StageError

CURVES = ("loss", "accuracy", "val_loss", "val_accuracy")
MODES: dict[Monitor, str] = {"val_loss": "min", "val_accuracy": "max"}

Curves = dict[str, list[float]]


class Trained(NamedTuple):
    """A network with the weights of its best epoch, its first layers, which normalize, and its curves."""

    network: keras.Model
    normalization: list[keras.layers.Layer]
    curves: Curves


def train_network(
    settings: TrainParams,
    images: StoredImages,
    rows: Mapping[str, RowNumbers],
    targets: ClassNumbers,
    classes: int,
    callbacks: Sequence[keras.callbacks.Callback],
) -> Trained:
    """Build the network and train it, from seeded generators on.

    The whole section of the params comes in, because more than one command trains and each must train alike.

    Args:
        settings: the section train.
        images: what `rows` point into.
        rows: row numbers of "train" and "validation".
        targets: the class number of every stored image.
        classes: K.
        callbacks: such as an `EpochReport`.

    Raises:
        StageError: the images are too small for the network or do not suit the normalization.
    """
    make_deterministic(settings.seed, settings.threads)
    normalization = fit_normalization(
        settings.normalization,
        images,
        rows["train"],
        settings.zca.epsilon,
        settings.zca.maximum_megabytes,
        settings.threads,
    )
    network = build_network(settings.network, images.image_shape, classes, normalization)
    batches = {
        subset: Batches(images, numbers, targets[numbers], settings.batch_size) for subset, numbers in rows.items()
    }
    curves = fit_network(
        network,
        make_augmentation(AugmentationRanges(**settings.augmentation.model_dump()), settings.seed),
        batches["train"],
        batches["validation"],
        settings.epochs,
        settings.learning_rate,
        [
            make_early_stopping(settings.early_stopping_monitor, settings.early_stopping_patience),
            ShuffleEachEpoch(batches["train"], settings.seed),
            *callbacks,
        ],
    )
    return Trained(network, normalization, curves)


def fit_network(
    network: keras.Model,
    augmentation: Sequence[keras.layers.Layer],
    train: Batches,
    validation: Batches,
    epochs: int,
    learning_rate: float,
    callbacks: Sequence[keras.callbacks.Callback],
) -> Curves:
    """Fit `network` in place with Adam and cross-entropy.

    Args:
        network: from pixels to probabilities; it is not compiled, so that it is saved without an optimizer.
        augmentation: layers that stand before the network while it trains, and only then.
        train, validation: batches of pixels and label numbers.
        epochs: at most so many passes over `train`.
        learning_rate: of Adam.
        callbacks: among them one that leaves the network with the weights of its best epoch.

    Returns:
        "loss", "accuracy", "val_loss" and "val_accuracy" of each epoch.
    """
    trainer = keras.Sequential([keras.Input(network.input_shape[1:]), *augmentation, network])
    trainer.compile(
        optimizer=keras.optimizers.Adam(learning_rate),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
        jit_compile=False,  # on a CPU, TensorFlow's own kernels are faster than XLA's
    )
    history = trainer.fit(
        train,
        validation_data=validation,
        epochs=epochs,
        shuffle=False,  # ShuffleEachEpoch does it, reproducibly
        verbose=1 if sys.stdout.isatty() else 0,
        callbacks=list(callbacks),
    )
    return {name: [float(value) for value in history.history[name]] for name in CURVES}


def make_early_stopping(monitor: Monitor, patience: int) -> keras.callbacks.EarlyStopping:
    """Stop after `patience` epochs without a better "val_loss" or "val_accuracy", and keep the best one's weights."""
    return keras.callbacks.EarlyStopping(monitor, patience=patience, mode=MODES[monitor], restore_best_weights=True)


class EpochReport(keras.callbacks.Callback):  # type: ignore[misc]
    """Tell of each epoch: to MLflow, and in one line where there is no terminal for Keras's progress bar."""

    def __init__(self, live_run: LiveRun, epochs: int) -> None:
        super().__init__()
        self.live_run = live_run
        self.epochs = epochs

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:  # noqa: ARG002
        self.started = time.monotonic()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        metrics = {name: float((logs or {})[name]) for name in CURVES}
        if not sys.stdout.isatty():
            figures = "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())
            seconds = time.monotonic() - self.started
            print(f"epoch {epoch + 1}/{self.epochs}  {seconds:.0f}s  {figures}", flush=True)
        if not all(map(isfinite, metrics.values())):
            raise StageError(
                f"the loss is no finite number after epoch {epoch + 1} "
                f"({', '.join(f'{name} {value}' for name, value in metrics.items())}); turn train.learning_rate down"
            )
        self.live_run.log_epoch(epoch + 1, metrics)


def number_labels(labels: Sequence[str]) -> tuple[list[str], ClassNumbers]:
    """Return the sorted distinct labels, which are the network's outputs, and the number of each row's label."""
    names, numbers = np.unique(labels, return_inverse=True)
    return [str(name) for name in names], numbers.astype(np.int64)


def best_epoch(curves: Curves, monitor: Monitor) -> int:
    """The first of the best epochs, whose weights are kept; counted from 1."""
    return 1 + int(np.argmin(curves[monitor]) if MODES[monitor] == "min" else np.argmax(curves[monitor]))
