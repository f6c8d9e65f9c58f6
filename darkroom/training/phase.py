"""How one phase of a training is fitted, and what is told of its epochs."""

import sys
import time
from collections.abc import Sequence
from math import isfinite
from typing import NamedTuple

import keras

from darkroom.models.batches import Batches, BeginEpoch, TrainingBatches
from darkroom.params.train import Precision, TrainParams
from darkroom.pipeline.stage import StageError
from darkroom.tracking.live_run import LiveRun
from darkroom.training.checkpoint import CURVES, SCORES, Curves, KeepState, Resumption
from darkroom.training.distribution import count_workers
from darkroom.training.optimization import RateReport, make_early_stopping, make_optimizer, make_plateau

# How backends say that memory is over: TensorFlow and JAX by a status, PyTorch and NumPy by the exception's name.
MEMORY_FAULTS = ("ResourceExhaustedError", "OutOfMemoryError", "MemoryError")
LOST_WORKER_FAULTS = ("UnavailableError", "AbortedError", "CancelledError", "DeadlineExceededError")
MEMORY_WORDS = ("RESOURCE_EXHAUSTED", "out of memory", "Unable to allocate", "can't allocate memory")


class Phase(NamedTuple):
    """Epochs that are trained in one go: how many at most, the layers of a backbone that stay as they are, the rate."""

    epochs: int
    frozen: int
    learning_rate: float


class PhaseBatches(NamedTuple):
    """Batches to train on, and those to validate on after each epoch."""

    train: TrainingBatches
    validation: Batches


def fit_phase(
    params: TrainParams,
    phase: Phase,
    precision: Precision,
    trainer: keras.Model,
    batches: PhaseBatches,
    resumption: Resumption,
    callbacks: Sequence[keras.callbacks.Callback],
) -> None:
    """Fit `trainer` in place for the epochs of a phase, and leave it with the best one's weights.

    Args:
        params: how it is trained.
        phase: which epochs.
        precision: that the trainer computes in.
        trainer: what is fitted.
        batches: to train and to validate on.
        resumption: its state is where the phase begins or resumes; the curves of the state are extended.
        callbacks: such as an `EpochReport`.

    Raises:
        StageError: the loss is no number any more, a batch does not fit into memory, or another host is gone.
    """
    train, validation = batches
    checkpoint, state = resumption
    monitor = params.early_stopping_monitor
    trainer.compile(
        optimizer=make_optimizer(params, phase.learning_rate, phase.epochs, len(train), precision),
        loss="categorical_crossentropy",
        metrics=["accuracy"],
        # JAX always compiles with XLA; TensorFlow's own kernels are faster on a CPU.
        jit_compile="auto" if keras.backend.backend() == "jax" else False,
    )
    early_stopping = make_early_stopping(monitor, params.early_stopping_patience)
    plateau = make_plateau(params.schedule, monitor)
    keeping = [] if checkpoint is None else [KeepState(checkpoint, state, early_stopping, plateau)]
    try:
        trainer.fit(
            train,
            validation_data=validation,
            initial_epoch=state.epochs,
            epochs=state.epochs if state.is_over else state.epochs_before + phase.epochs,
            shuffle=False,  # TrainingBatches do it, reproducibly
            verbose=1 if sys.stdout.isatty() else 0,
            callbacks=[
                early_stopping,
                *plateau,
                RateReport(),
                BeginEpoch(train),
                EpochCurves(state.curves),
                *keeping,
                *callbacks,
            ],
        )
    except Exception as error:
        if count_workers() > 1 and type(error).__name__ in LOST_WORKER_FAULTS:
            raise StageError(
                "another of the workers is gone; start all of them again, and the training goes on after the last "
                "epoch that all have finished"
            ) from error
        if not is_out_of_memory(error):
            raise
        raise StageError(
            f"there is not enough memory for a batch of {params.batch_size} images; set train.batch_size to "
            f"{max(1, params.batch_size // 2)}, or augment.image_size to less"
        ) from error


def is_out_of_memory(error: Exception) -> bool:
    names = {kind.__name__ for kind in type(error).__mro__}
    return not names.isdisjoint(MEMORY_FAULTS) or any(words in str(error) for words in MEMORY_WORDS)


class EpochCurves(keras.callbacks.Callback):  # type: ignore[misc]
    """Add the figures of each epoch to curves, as long as they are numbers."""

    def __init__(self, curves: Curves) -> None:
        super().__init__()
        self.curves = curves

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        figures = {name: float((logs or {})[name]) for name in CURVES}
        if not all(map(isfinite, figures.values())):
            raise StageError(
                f"the loss is no finite number after epoch {epoch + 1} "
                f"({', '.join(f'{name} {figures[name]}' for name in SCORES)}); turn train.learning_rate down, or set "
                "train.precision to float32 if it is another"
            )
        for name in CURVES:
            self.curves[name].append(figures[name])


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
        seconds = time.monotonic() - self.started
        if not sys.stdout.isatty():
            figures = "  ".join(f"{name} {metrics[name]:.4f}" for name in SCORES)
            figures += f"  learning_rate {metrics['learning_rate']:g}"
            print(f"epoch {epoch + 1}/{self.epochs}  {seconds:.0f}s  {figures}", flush=True)
        self.live_run.log_epoch(epoch + 1, metrics | {"epoch_seconds": seconds})
