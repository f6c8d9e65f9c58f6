"""Train the network on the training subset, and keep the weights of its best epoch on the validation subset.

Reads   params.yaml                train
        data/augment/images.npy    uint8 pixels (rows, height, width, channels)
        data/augment/images.csv    the label of each row
        data/split/train.npy       row numbers; validation.npy likewise
Writes  data/train/model.keras     pixels 0..255 in, probabilities out; scaling is inside
        data/train/labels.json     the labels in the order of the outputs
        data/train/history.csv     a row per epoch: epoch, loss, accuracy, val_loss, val_accuracy
        metrics/train.json         the best epoch
        MLflow                     a live run, which the record stage completes
Run as  python -m stages.train
"""

import math
import sys
import time
from collections.abc import Sequence

import keras
import numpy as np

from stages.lib.arrays import ClassNumbers
from stages.lib.backend import make_deterministic
from stages.lib.batches import Batches, ShuffleEachEpoch
from stages.lib.dataset import StoredImages, read_index, read_row_numbers, write_labels
from stages.lib.files import write_json, write_table
from stages.lib.live_run import LiveRun
from stages.lib.lockfile import Stages, file_digest, flatten_params, read_stages, recorded_params
from stages.lib.modelfile import save_model
from stages.lib.networks import build_network
from stages.lib.params import Monitor, TrainParams, read_document, read_params
from stages.lib.paths import (
    AUGMENT_IMAGES,
    AUGMENT_INDEX,
    DVC_LOCK,
    PARAMS,
    TRAIN_HISTORY,
    TRAIN_LABELS,
    TRAIN_METRICS,
    TRAIN_MODEL,
    subset_rows,
)
from stages.lib.stage import StageError, run_stage
from stages.lib.store import find_store

CURVES = ("loss", "accuracy", "val_loss", "val_accuracy")
EARLIER_STAGES = ("acquire", "augment", "split")
MODES: dict[Monitor, str] = {"val_loss": "min", "val_accuracy": "max"}

Curves = dict[str, list[float]]


def fit_network(
    network: keras.Model,
    train: Batches,
    validation: Batches,
    epochs: int,
    learning_rate: float,
    stop_early: keras.callbacks.EarlyStopping,
    callbacks: Sequence[keras.callbacks.Callback],
) -> Curves:
    """Fit `network` in place with Adam and cross-entropy, and leave it with the weights of its best epoch.

    Args:
        network: from pixels to probabilities; it is not compiled, so that it is saved without an optimizer.
        train, validation: batches of pixels and label numbers.
        epochs: at most so many passes over `train`.
        learning_rate: of Adam.
        stop_early: says which epoch is the best, and when to stop waiting for a better one.
        callbacks: further ones.

    Returns:
        "loss", "accuracy", "val_loss" and "val_accuracy" of each epoch.
    """
    trainer = keras.Sequential([keras.Input(network.input_shape[1:]), network])
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
        callbacks=[stop_early, *callbacks],
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
        if not all(map(math.isfinite, metrics.values())):
            raise StageError(
                f"the loss is no finite number after epoch {epoch + 1} "
                f"({', '.join(f'{name} {value}' for name, value in metrics.items())}); turn train.learning_rate down"
            )
        self.live_run.log_epoch(epoch + 1, metrics)


def number_labels(labels: Sequence[str]) -> tuple[list[str], ClassNumbers]:
    """Return the sorted distinct labels, which are the network's outputs, and the number of each row's label."""
    names, numbers = np.unique(labels, return_inverse=True)
    return [str(name) for name in names], numbers.astype(np.int64)


def summarize_training(curves: Curves, monitor: Monitor, parameters: int) -> dict[str, float]:
    """Tell of the first of the best epochs, whose weights are kept."""
    best = int(np.argmin(curves[monitor]) if MODES[monitor] == "min" else np.argmax(curves[monitor]))
    return {
        "epochs_run": len(curves["loss"]),
        "best_epoch": best + 1,
        "best_val_loss": curves["val_loss"][best],
        "best_val_accuracy": curves["val_accuracy"][best],
        "parameters": parameters,
    }


def live_params(stages: Stages, train_section: object) -> dict[str, str]:
    """The params of a training: what dvc.lock says that the earlier stages ran with, and the train section."""
    earlier = {name: stages[name] for name in EARLIER_STAGES if name in stages}
    return recorded_params(earlier) | flatten_params({"train": train_section})


def main() -> None:
    params = read_params("train", TrainParams)

    index = read_index(AUGMENT_INDEX)
    images = StoredImages(AUGMENT_IMAGES, len(index))
    labels, targets = number_labels([row.label for row in index])
    rows = {subset: read_row_numbers(subset_rows(subset), len(index)) for subset in ("train", "validation")}

    batches = {
        subset: Batches(images, numbers, targets[numbers], params.batch_size) for subset, numbers in rows.items()
    }
    with LiveRun.open(find_store(), live_params(read_stages(DVC_LOCK), read_document(PARAMS)["train"])) as live_run:
        make_deterministic(params.seed, params.threads)
        network = build_network(params.network, images.image_shape, len(labels))
        curves = fit_network(
            network,
            batches["train"],
            batches["validation"],
            params.epochs,
            params.learning_rate,
            make_early_stopping(params.early_stopping_monitor, params.early_stopping_patience),
            [ShuffleEachEpoch(batches["train"], params.seed), EpochReport(live_run, params.epochs)],
        )
        save_model(network, TRAIN_MODEL)
        live_run.hand_over(file_digest(TRAIN_MODEL))

    write_labels(TRAIN_LABELS, labels)
    epochs = range(1, len(curves["loss"]) + 1)
    write_table(TRAIN_HISTORY, ("epoch", *CURVES), zip(epochs, *(curves[name] for name in CURVES), strict=True))
    summary = summarize_training(curves, params.early_stopping_monitor, network.count_params())
    write_json(TRAIN_METRICS, summary)
    print(
        f"train: {params.network} on {len(rows['train'])} rows, {summary['epochs_run']} epochs -> {TRAIN_MODEL}, "
        f"validation accuracy {summary['best_val_accuracy']:.4f} in epoch {summary['best_epoch']}"
    )


if __name__ == "__main__":
    run_stage("train", main)
