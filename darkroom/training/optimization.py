"""How the weights follow the gradients: optimizers and schedules of the learning rate."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from darkroom.models.backend import has_shortcuts
from darkroom.params.train import Monitor, Precision, ScheduleParams, TrainParams

MODES: dict[Monitor, str] = {"val_loss": "min", "val_accuracy": "max"}


def make_optimizer(
    params: TrainParams, learning_rate: float, epochs: int, steps_per_epoch: int, precision: Precision
) -> keras.optimizers.Optimizer:
    """Make the optimizer of the params for so many epochs.

    Args:
        params: its `optimizer`, `momentum`, `nesterov` and `schedule`.
        learning_rate: at the beginning, or at the end of the warm-up.
        epochs: that a "cosine" falls over.
        steps_per_epoch: batches of an epoch.
        precision: of what is trained. In mixed_float16 the loss is scaled, so that small gradients are not lost.
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
    if not has_shortcuts(precision):
        adam: Callable[[Any], keras.optimizers.Optimizer] = keras.optimizers.Adam
        return adam
    from darkroom.training.bfloat16 import FusedAdam

    return FusedAdam


def schedule_rate(
    schedule: ScheduleParams, learning_rate: float, epochs: int, steps_per_epoch: int
) -> float | keras.optimizers.schedules.LearningRateSchedule:
    """The learning rate as a number, or as what the number of the batch decides.

    "inverse_time" is what Keras's optimizers once had as `decay`: the rate divided by 1 + decay * batches. "cosine"
    rises in a straight line over the warm-up epochs and then falls along half a cosine to `minimum` (I. Loshchilov and
    F. Hutter, "SGDR", 2017, without restarts). A "plateau" is a callback's, see `make_plateau`.
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
    """For a "plateau", what lowers the rate after `patience` epochs without a better `monitor`; else nothing."""
    if schedule.name != "plateau":
        return []
    return [
        keras.callbacks.ReduceLROnPlateau(
            monitor, schedule.factor, schedule.patience, mode=MODES[monitor], min_lr=schedule.minimum, min_delta=0
        )
    ]


class RateReport(keras.callbacks.Callback):  # type: ignore[misc]
    """Add the learning rate that an epoch ends with to its figures, for the callbacks behind it.

    Behind that of a plateau, which has put there the rate that the epoch had, and may have lowered it since.
    """

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:  # noqa: ARG002
        if logs is not None:
            rate = logs.get("learning_rate", keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
            logs["learning_rate"] = float(str(np.float32(rate)))  # 0.001, and not what float32 makes of it


def make_early_stopping(monitor: Monitor, patience: int) -> keras.callbacks.EarlyStopping:
    """Stop after `patience` epochs without a better "val_loss" or "val_accuracy", and keep the best one's weights."""
    return keras.callbacks.EarlyStopping(monitor, patience=patience, mode=MODES[monitor], restore_best_weights=True)
