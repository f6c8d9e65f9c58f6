"""Fit one phase of a training, and report its epochs."""

import sys
import time
from collections.abc import Sequence
from math import isfinite
from typing import NamedTuple

import keras
import numpy as np

from darkroom.models.batches import Batches, BeginEpoch, TrainingBatches
from darkroom.params.train import Precision, TrainParams
from darkroom.pipeline.stage import StageError
from darkroom.tracking.live_run import LiveRun
from darkroom.training.checkpoint import CURVES, SCORES, Curves, Resumption, SaveState
from darkroom.training.distribution import count_workers
from darkroom.training.optimization import RateReport, make_early_stopping, make_optimizer, make_plateau

# How backends report that memory ran out: TensorFlow and JAX by a status, PyTorch and NumPy by the exception's name.
MEMORY_ERRORS = ("ResourceExhaustedError", "OutOfMemoryError", "MemoryError")
LOST_WORKER_ERRORS = ("UnavailableError", "AbortedError", "CancelledError", "DeadlineExceededError")
MEMORY_MESSAGES = ("RESOURCE_EXHAUSTED", "out of memory", "Unable to allocate", "can't allocate memory")


class Phase(NamedTuple):
    """A phase: the maximum number of epochs, the number of frozen backbone layers, and the learning rate."""

    epochs: int
    frozen: int
    learning_rate: float


class PhaseBatches(NamedTuple):
    """Training batches, and the batches to validate on after each epoch."""

    train: TrainingBatches
    validation: Batches


def fit_phase(
    params: TrainParams,
    phase: Phase,
    precision: Precision,
    training_model: keras.Model,
    batches: PhaseBatches,
    resumption: Resumption,
    callbacks: Sequence[keras.callbacks.Callback],
) -> None:
    """Fit `training_model` in place for the epochs of a phase, and restore the weights of its best epoch.

    Args:
        params: the section train.
        phase: its epochs, frozen layers and learning rate.
        precision: that the model computes in.
        training_model: the model to fit.
        batches: to train and to validate on.
        resumption: its state is where the phase begins or resumes; the curves of the state are extended.
        callbacks: such as an `EpochReport`.

    Raises:
        StageError: the loss becomes NaN or infinite, a batch does not fit into memory, or another worker is lost.
    """
    train, validation = batches
    checkpoint, state = resumption
    monitor = params.early_stopping_monitor
    training_model.compile(
        optimizer=make_optimizer(params, phase.learning_rate, phase.epochs, len(train), precision),
        loss="categorical_crossentropy",
        metrics=["accuracy"],
        # JAX always compiles with XLA; TensorFlow's own kernels are faster on a CPU.
        jit_compile="auto" if keras.backend.backend() == "jax" else False,
    )
    build_variables(training_model)
    early_stopping = make_early_stopping(monitor, params.early_stopping_patience)
    plateau = make_plateau(params.schedule, monitor)
    saving = [] if checkpoint is None else [SaveState(checkpoint, state, early_stopping, plateau)]
    try:
        training_model.fit(
            train,
            validation_data=validation,
            initial_epoch=state.epochs,
            epochs=state.epochs if state.is_over else state.epochs_before + phase.epochs,
            shuffle=False,  # TrainingBatches shuffle reproducibly
            verbose=1 if sys.stdout.isatty() else 0,
            callbacks=[
                early_stopping,
                *plateau,
                RateReport(),
                BeginEpoch(train),
                EpochCurves(state.curves),
                *saving,
                *callbacks,
            ],
        )
    except Exception as error:  # each backend raises classes of its own
        if count_workers() > 1 and type(error).__name__ in LOST_WORKER_ERRORS:
            raise StageError(
                "a worker was lost; restart all of them, and training resumes after the last epoch that all completed"
            ) from error
        if not is_out_of_memory(error):
            raise
        raise StageError(
            f"not enough memory for a batch of {params.batch_size} images; set train.batch_size to "
            f"{max(1, params.batch_size // 2)} or reduce augment.image_size"
        ) from error


def build_variables(model: keras.Model) -> None:
    """Create the variables of a compiled model's optimizer and metrics before `fit` does.

    TensorFlow traces a function twice if it creates variables. If they exist, it traces the training step only once,
    and training starts sooner. With the other backends, `fit` calls this method itself.
    """
    if keras.backend.backend() == "tensorflow":
        shapes = model.input_shape, model.output_shape
        model._symbolic_build(data_batch=tuple(np.zeros((1, *shape[1:]), np.float32) for shape in shapes))


def is_out_of_memory(error: Exception) -> bool:
    names = {kind.__name__ for kind in type(error).__mro__}
    return not names.isdisjoint(MEMORY_ERRORS) or any(message in str(error) for message in MEMORY_MESSAGES)


class EpochCurves(keras.callbacks.Callback):  # type: ignore[misc]
    """Append the metrics of each epoch to the curves; stop the training if one is NaN or infinite."""

    def __init__(self, curves: Curves) -> None:
        super().__init__()
        self.curves = curves

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        metrics = {name: float((logs or {})[name]) for name in CURVES}
        if not all(map(isfinite, metrics.values())):
            raise StageError(
                f"the loss is not finite after epoch {epoch + 1} "
                f"({', '.join(f'{name} {metrics[name]}' for name in SCORES)}); reduce train.learning_rate, or set "
                "train.precision to float32 if it has another value"
            )
        for name in CURVES:
            self.curves[name].append(metrics[name])


class EpochReport(keras.callbacks.Callback):  # type: ignore[misc]
    """Log each epoch to MLflow, and print one line where there is no terminal for Keras's progress bar."""

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
            values = "  ".join(f"{name} {metrics[name]:.4f}" for name in SCORES)
            values += f"  learning_rate {metrics['learning_rate']:g}"
            print(f"epoch {epoch + 1}/{self.epochs}  {seconds:.0f}s  {values}", flush=True)
        self.live_run.log_epoch(epoch + 1, metrics | {"epoch_seconds": seconds})
