"""Optimizers, learning-rate schedules and early stopping."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from darkroom.models.backend import has_fast_bfloat16
from darkroom.params.train import Monitor, Precision, ScheduleParams, TrainParams

MODES: dict[Monitor, str] = {"val_loss": "min", "val_accuracy": "max"}


def make_optimizer(
    params: TrainParams, learning_rate: float, epochs: int, steps_per_epoch: int, precision: Precision
) -> keras.optimizers.Optimizer:
    """Make the optimizer that the params specify.

    Args:
        params: its `optimizer`, `momentum`, `nesterov` and `schedule`.
        learning_rate: at the beginning, or at the end of the warm-up.
        epochs: length of a "cosine" schedule.
        steps_per_epoch: batches per epoch.
        precision: of the trained model. In mixed_float16 the loss is scaled, so that small gradients do not underflow.
    """
    rate = schedule_rate(params.schedule, learning_rate, epochs, steps_per_epoch)
    match params.optimizer:
        case "adam":
            optimizer = choose_adam(precision)(rate)
        case "rmsprop":
            optimizer = keras.optimizers.RMSprop(rate, momentum=params.momentum)
        case "adadelta":
            optimizer = keras.optimizers.Adadelta(rate)
        case "sgd":
            optimizer = keras.optimizers.SGD(rate, momentum=params.momentum, nesterov=params.nesterov)
    return keras.optimizers.LossScaleOptimizer(optimizer) if precision == "mixed_float16" else optimizer


def choose_adam(precision: Precision) -> Callable[[Any], keras.optimizers.Optimizer]:
    if not has_fast_bfloat16(precision):
        adam: Callable[[Any], keras.optimizers.Optimizer] = keras.optimizers.Adam
        return adam
    from darkroom.training.bfloat16 import FusedAdam

    return FusedAdam


def schedule_rate(
    schedule: ScheduleParams, learning_rate: float, epochs: int, steps_per_epoch: int
) -> float | keras.optimizers.schedules.LearningRateSchedule:
    """The learning rate as a constant or as a schedule over batches.

    "inverse_time" is the former `decay` of Keras's optimizers: the rate divided by 1 + decay * batches. "cosine" rises
    linearly over the warm-up epochs and then falls along half a cosine to `minimum` (I. Loshchilov and F. Hutter,
    "SGDR", 2017, without restarts). "plateau" needs a callback, see `make_plateau`.
    """
    match schedule.name:
        case "constant" | "plateau":
            return learning_rate
        case "inverse_time":
            return keras.optimizers.schedules.InverseTimeDecay(learning_rate, decay_steps=1, decay_rate=schedule.decay)
        case "cosine":
            warmup = schedule.warmup_epochs * steps_per_epoch
            return keras.optimizers.schedules.CosineDecay(
                0.0 if warmup else learning_rate,
                decay_steps=epochs * steps_per_epoch - warmup,
                alpha=schedule.minimum / learning_rate,
                warmup_target=learning_rate if warmup else None,
                warmup_steps=warmup,
            )


def make_plateau(schedule: ScheduleParams, monitor: Monitor) -> list[keras.callbacks.Callback]:
    """For "plateau", a callback that lowers the rate after `patience` epochs without improvement; otherwise none."""
    if schedule.name != "plateau":
        return []
    return [
        keras.callbacks.ReduceLROnPlateau(
            monitor, schedule.factor, schedule.patience, mode=MODES[monitor], min_lr=schedule.minimum, min_delta=0
        )
    ]


class RateReport(keras.callbacks.Callback):  # type: ignore[misc]
    """Add the learning rate at the end of an epoch to its metrics, for the callbacks that follow.

    Place it after ReduceLROnPlateau, which logs the rate that the epoch used and may have lowered it since.
    """

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:  # noqa: ARG002
        if logs is not None:
            rate = logs.get("learning_rate", keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
            logs["learning_rate"] = float(str(np.float32(rate)))  # 0.001, not its float32 approximation


def make_early_stopping(monitor: Monitor, patience: int) -> keras.callbacks.EarlyStopping:
    """Stop after `patience` epochs without improvement of `monitor`, and restore the weights of the best epoch."""
    return keras.callbacks.EarlyStopping(monitor, patience=patience, mode=MODES[monitor], restore_best_weights=True)
