"""How a network is trained: by the train stage, and by commands that train for comparison.

Dims: N images, H height, W width, C channels, K classes.
"""

import sys
import time
from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np

from stages.lib.arrays import ClassNumbers, RowNumbers
from stages.lib.augmentation import AugmentationRanges, make_augmentation
from stages.lib.backend import make_deterministic
from stages.lib.batches import Batches, BeginEpoch, Rows, TrainingBatches
from stages.lib.dataset import StoredImages
from stages.lib.live_run import LiveRun
from stages.lib.networks import Network, build_network, choose_normalization
from stages.lib.networks.transfer import count_frozen, freeze
from stages.lib.normalization import fit_normalization
from stages.lib.optimization import MODES, RateReport, make_early_stopping, make_optimizer, make_plateau
from stages.lib.paths import project_root
from stages.lib.stage import StageError
from stages.lib.targets import balance_classes, make_targets
from stages.lib.train_params import BACKBONES, Monitor, TrainParams
from stages.lib.trainer import choose_trainer

SCORES = ("loss", "accuracy", "val_loss", "val_accuracy")
CURVES = (*SCORES, "learning_rate")

Curves = dict[str, list[float]]


class Trained(NamedTuple):
    """A network with the weights of its best epoch, and its curves."""

    network: Network
    curves: Curves


class Phase(NamedTuple):
    """Epochs that are trained in one go: how many at most, the layers of a backbone that stay as they are, the rate."""

    epochs: int
    frozen: int
    learning_rate: float


def features_folder() -> Path:
    """Where what frozen backbones make of images is kept: outside the outputs, which DVC deletes."""
    return project_root() / ".cache/features"


def train_network(
    settings: TrainParams,
    images: StoredImages,
    rows: Mapping[str, RowNumbers],
    class_numbers: ClassNumbers,
    classes: int,
    callbacks: Sequence[keras.callbacks.Callback],
    kept: Path | None,
) -> Trained:
    """Build the network and train it, from seeded generators on.

    The whole section of the params comes in, because more than one command trains and each must train alike.

    Args:
        settings: the section train.
        images: what `rows` point into.
        rows: row numbers of "train" and "validation".
        class_numbers: of every stored image, (N,).
        classes: K.
        callbacks: such as an `EpochReport`.
        kept: where features of a frozen backbone are kept and found again, see `features_folder`; None computes them
            in every epoch.

    Raises:
        StageError: the images do not suit the network or the normalization, or its weights cannot be had.
    """
    keras.utils.clear_session()  # layers are named by counting, and `frozen_layers` may name one
    make_deterministic(settings.seed, settings.threads)
    normalization = fit_normalization(
        choose_normalization(settings),
        images,
        rows["train"],
        settings.zca.epsilon,
        settings.zca.maximum_megabytes,
        settings.threads,
    )
    network = build_network(settings, images.image_shape, classes, normalization)
    augmentation = make_augmentation(AugmentationRanges(**settings.augmentation.model_dump()), settings.seed)
    curves: Curves = {name: [] for name in CURVES}
    for phase in list_phases(settings, network):
        freeze(network.backbone, phase.frozen, settings.backbone.frozen_batch_normalization)
        announce(phase, network)
        trainer, source = choose_trainer(settings, network, augmentation, images, rows, kept)
        train, validation = make_batches(settings, source, rows, class_numbers, classes)
        weights_before, epochs_before = network.model.get_weights(), len(curves["loss"])
        fit_phase(settings, phase, trainer, train, validation, curves, callbacks)
        if best_epoch(curves, settings.early_stopping_monitor) <= epochs_before:
            network.model.set_weights(weights_before)
    return Trained(network, curves)


def announce(phase: Phase, network: Network) -> None:
    """Say what begins, where there are phases at all."""
    if network.backbone:
        learning = sum(layer.trainable and bool(layer.weights) for layer in network.backbone)
        print(
            f"train: up to {phase.epochs} epochs at a learning rate of {phase.learning_rate:g}, with "
            f"{f'{learning} layers of the backbone and ' if learning else ''}the head",
            flush=True,
        )


def list_phases(settings: TrainParams, network: Network) -> list[Phase]:
    """One phase, or for a backbone two: with the head alone, say, and with the upper layers at a lower rate."""
    backbone = settings.backbone
    names = [layer.name for layer in network.backbone]
    if not names:
        return [Phase(settings.epochs, 0, settings.learning_rate)]
    frozen = count_frozen("train.backbone.frozen_layers", backbone.frozen_layers, names)
    phases = [Phase(settings.epochs, frozen, settings.learning_rate)]
    tuning = backbone.fine_tuning
    if tuning.epochs:
        still_frozen = count_frozen("train.backbone.fine_tuning.frozen_layers", tuning.frozen_layers, names)
        phases.append(Phase(tuning.epochs, still_frozen, tuning.learning_rate))
    return phases


def most_epochs(settings: TrainParams) -> int:
    """So many epochs are trained if none is stopped early."""
    return settings.epochs + (settings.backbone.fine_tuning.epochs if settings.network in BACKBONES else 0)


def make_batches(
    settings: TrainParams, source: Rows, rows: Mapping[str, RowNumbers], class_numbers: ClassNumbers, classes: int
) -> tuple[TrainingBatches, Batches]:
    """Make the batches to train on, as the params have them, and those to validate on, with plain targets."""
    numbers = {subset: class_numbers[rows[subset]] for subset in ("train", "validation")}
    train = TrainingBatches(
        source,
        rows["train"],
        make_targets(numbers["train"], classes),
        settings.batch_size,
        settings.seed,
        settings.steps_per_epoch,
        settings.mixup_alpha,
        settings.label_smoothing,
        balance_classes(numbers["train"], classes) if settings.class_weights == "balanced" else None,
    )
    targets = make_targets(numbers["validation"], classes)
    return train, Batches(source, rows["validation"], targets, settings.batch_size)


def fit_phase(
    settings: TrainParams,
    phase: Phase,
    trainer: keras.Model,
    train: TrainingBatches,
    validation: Batches,
    curves: Curves,
    callbacks: Sequence[keras.callbacks.Callback],
) -> None:
    """Fit `trainer` in place for the epochs of a phase, leave it with the best one's weights, and extend the curves."""
    monitor = settings.early_stopping_monitor
    trainer.compile(
        optimizer=make_optimizer(settings, phase.learning_rate, phase.epochs, len(train)),
        loss="categorical_crossentropy",
        metrics=["accuracy"],
        jit_compile=False,  # on a CPU, TensorFlow's own kernels are faster than XLA's
    )
    done = len(curves["loss"])
    history = trainer.fit(
        train,
        validation_data=validation,
        initial_epoch=done,
        epochs=done + phase.epochs,
        shuffle=False,  # TrainingBatches do it, reproducibly
        verbose=1 if sys.stdout.isatty() else 0,
        callbacks=[
            make_early_stopping(monitor, settings.early_stopping_patience),
            *make_plateau(settings.schedule, monitor),
            RateReport(),
            BeginEpoch(train),
            *callbacks,
        ],
    )
    for name in CURVES:
        curves[name] += [float(value) for value in history.history[name]]


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
            figures = "  ".join(f"{name} {metrics[name]:.4f}" for name in SCORES)
            figures += f"  learning_rate {metrics['learning_rate']:g}"
            seconds = time.monotonic() - self.started
            print(f"epoch {epoch + 1}/{self.epochs}  {seconds:.0f}s  {figures}", flush=True)
        if not all(map(isfinite, metrics.values())):
            raise StageError(
                f"the loss is no finite number after epoch {epoch + 1} "
                f"({', '.join(f'{name} {metrics[name]}' for name in SCORES)}); turn train.learning_rate down"
            )
        self.live_run.log_epoch(epoch + 1, metrics)


def number_labels(labels: Sequence[str]) -> tuple[list[str], ClassNumbers]:
    """Return the sorted distinct labels, which are the network's outputs, and the number of each row's label."""
    names, numbers = np.unique(labels, return_inverse=True)
    return [str(name) for name in names], numbers.astype(np.int64)


def best_epoch(curves: Curves, monitor: Monitor) -> int:
    """The first of the best epochs, whose weights are kept; counted from 1."""
    return 1 + int(np.argmin(curves[monitor]) if MODES[monitor] == "min" else np.argmax(curves[monitor]))
