"""Train the network on the training subset, and save the weights of its best epoch on the validation subset.

Reads   params.yaml                train
        data/augment/images.npy    uint8 pixels (images, height, width, channels)
        data/augment/images.csv    the label of each image
        data/split/train.npy       row numbers; also validation.npy
Writes  data/train/model.keras     pixels 0..255 in, probabilities out; includes the normalization
        data/train/labels.json     the labels in the order of the outputs
        data/train/history.csv     a row per epoch: epoch, loss, accuracy, val_loss, val_accuracy, learning_rate
        data/train/preview.png     some photos as augmented in the first epochs
        data/train/normalization.png  the same photos before and after normalization
        data/train/environment.json   device, precision, determinism and versions of this training
        metrics/train.json         the best epoch, the number of parameters, device and precision
        .cache/features/           the features of a frozen backbone, cached for later trainings
        .cache/train/              a checkpoint after each epoch, from which an interrupted training resumes
        MLflow                     a live run, which the record stage completes
Run as  python -m stages.train
        python -m stages.train --fresh     to restart an interrupted training instead of resuming it
"""

import math
import sys
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Annotated, Any

import keras
import numpy as np
import typer

from darkroom.models.backend import describe_backend, describe_determinism, find_device, make_deterministic
from darkroom.models.model_file import save_model
from darkroom.params.section import read_document, read_params
from darkroom.params.train import Monitor, TrainParams
from darkroom.pipeline.command_line import make_app
from darkroom.pipeline.dataset import StoredImages, read_index, read_row_numbers, write_labels
from darkroom.pipeline.files import write_bytes, write_json, write_table
from darkroom.pipeline.paths import (
    AUGMENT_IMAGES,
    AUGMENT_INDEX,
    DVC_LOCK,
    PARAMS,
    TRAIN_ENVIRONMENT,
    TRAIN_HISTORY,
    TRAIN_LABELS,
    TRAIN_METRICS,
    TRAIN_MODEL,
    TRAIN_NORMALIZATION,
    TRAIN_PREVIEW,
    subset_rows,
)
from darkroom.pipeline.stage import StageError, hold_lock, run_stage
from darkroom.tracking.live_run import open_live_run
from darkroom.tracking.lockfile import DATA_STAGES, Stages, file_digest, flatten_params, read_stages, recorded_params
from darkroom.training.checkpoint import CURVES, Checkpoint, Resumption, State, find_checkpoint
from darkroom.training.distribution import all_agree, count_workers, find_strategy, worker_number
from darkroom.training.fingerprint import training_fingerprint
from darkroom.training.networks import check_network
from darkroom.training.phase import EpochReport
from darkroom.training.previews import draw_augmented, draw_before_and_after, list_examples
from darkroom.training.training import (
    TrainingResult,
    best_epoch,
    checkpoints_folder,
    features_folder,
    most_epochs,
    number_labels,
    train_network,
)
from darkroom.training.training_data import TrainingData

APP = make_app()


def summarize_training(trained: TrainingResult, monitor: Monitor) -> dict[str, float | str]:
    """Summarize the best epoch, whose weights are saved, the number of parameters without those of the normalization,
    device and precision."""
    curves = trained.curves
    best = best_epoch(curves, monitor)
    normalizing = [weight for layer in trained.network.normalization for weight in layer.weights]
    return {
        "epochs_run": len(curves["loss"]),
        "best_epoch": best,
        "best_val_loss": curves["val_loss"][best - 1],
        "best_val_accuracy": curves["val_accuracy"][best - 1],
        "parameters": count_values(trained.network.model.weights) - count_values(normalizing),
        "trainable_parameters": count_values(trained.network.model.trainable_weights),
        "device": find_device().name,
        "precision": trained.precision.name,
    }


def describe_environment(trained: TrainingResult, params: TrainParams) -> dict[str, Any]:
    """Describe what the last digits of the weights depend on besides the inputs: settings as requested and as used."""
    determinism = describe_determinism()
    return describe_backend() | {
        "precision": {
            "requested": params.precision,
            "used": trained.precision.name,
            "reason": trained.precision.reason,
        },
        "threads": {"requested": params.threads, "used": determinism["threads"]},
        "deterministic": {"requested": True, "reached": determinism["deterministic"]},
    }


def count_values(weights: Iterable[keras.Variable]) -> int:
    return sum(math.prod(variable.shape) for variable in weights)


def live_params(stages: Stages, train_section: object) -> dict[str, str]:
    """The params of a training: those of the earlier stages from dvc.lock, and the section train."""
    earlier = {name: stages[name] for name in DATA_STAGES if name in stages}
    return recorded_params(earlier) | flatten_params({"train": train_section})


def main(fresh: bool = False) -> None:
    params = read_params("train", TrainParams)

    index = read_index(AUGMENT_INDEX)
    images = StoredImages(AUGMENT_IMAGES, len(index))
    labels, class_ids = number_labels([row.label for row in index])
    row_numbers = {subset: read_row_numbers(subset_rows(subset), len(index)) for subset in ("train", "validation")}
    data = TrainingData(images, row_numbers, class_ids, len(labels))
    examples = list_examples(index, row_numbers["train"])
    titles = [f"{index[number].photo} ({index[number].label})" for number in examples]
    example_images = images.take(np.array(examples))

    make_deterministic(params.seed, params.threads)  # before the first layer
    find_strategy()  # before the first operation; the workers of a distributed training wait here for one another
    check_network(params, images.image_shape, len(labels))
    fingerprint = training_fingerprint(params, data)
    checkpoint = find_checkpoint(checkpoints_folder(), fingerprint, worker_number())
    with hold_lock(checkpoint.lock, "train: waiting for an identical training that is still running"):
        state = prepare_state(checkpoint, fingerprint, fresh)
        resumption = Resumption(checkpoint, state)
        if worker_number():
            train_network(params, data, [], None, resumption)
            checkpoint.remove()
            print(f"train: worker {worker_number()} of {count_workers()} is done; worker 0 writes the outputs")
            return
        live = live_params(read_stages(DVC_LOCK), read_document(PARAMS)["train"])
        with open_live_run(live, state.run_id) as live_run:
            state.run_id = live_run.run_id or state.run_id
            live_run.log_curves(state.curves)
            write_bytes(TRAIN_PREVIEW, draw_augmented(titles, example_images, params.augmentation, params.seed))
            report = EpochReport(live_run, most_epochs(params))
            trained = train_network(params, data, [report], features_folder(), resumption)
            write_bytes(
                TRAIN_NORMALIZATION, draw_before_and_after(titles, example_images, trained.network.normalization)
            )
            save_model(trained.network.model, TRAIN_MODEL)
            live_run.hand_over(file_digest(TRAIN_MODEL))

        summary = write_tables(trained, params, labels)
        checkpoint.remove()
    print(
        f"train: {params.network} on {len(row_numbers['train'])} images, {summary['epochs_run']} epochs -> "
        f"{TRAIN_MODEL}, validation accuracy {summary['best_val_accuracy']:.4f} in epoch {summary['best_epoch']}, in "
        f"{summary['precision']} on {summary['device']}"
    )


def write_tables(trained: TrainingResult, params: TrainParams, labels: Sequence[str]) -> dict[str, float | str]:
    """Write labels, learning curves, environment and metrics; return the metrics."""
    write_labels(TRAIN_LABELS, labels)
    epochs = range(1, len(trained.curves["loss"]) + 1)
    curves = zip(epochs, *(trained.curves[name] for name in CURVES), strict=True)
    write_table(TRAIN_HISTORY, ("epoch", *CURVES), curves)
    write_json(TRAIN_ENVIRONMENT, describe_environment(trained, params))
    summary = summarize_training(trained, params.early_stopping_monitor)
    write_json(TRAIN_METRICS, summary)
    return summary


def prepare_state(checkpoint: Checkpoint, fingerprint: str, fresh: bool) -> State:
    """Return the state to resume from, or a new one. The workers of a distributed training must agree on the epoch.

    Raises:
        StageError: the workers run different trainings.
    """
    strategy = find_strategy()
    if count_workers() > 1 and not all_agree(strategy, int(fingerprint[:6], 16)):
        raise StageError(
            "the workers run different trainings; params, data, code, packages and devices must be the same on all "
            "hosts"
        )
    if fresh:
        checkpoint.remove()
    state = checkpoint.read() or State()
    if count_workers() > 1 and not all_agree(strategy, state.epochs):
        print("train: starting from epoch 1, because the workers were killed in different epochs", flush=True)
        return State()
    return state


@APP.command()
def run_train(
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Restart an interrupted training instead of resuming it.")
    ] = False,
) -> None:
    """Train the network that params.yaml selects. An interrupted training resumes after its last completed epoch."""
    try:
        name = f"train-{worker_number()}" if worker_number() else "train"
    except StageError as error:
        sys.exit(f"train: {error}")
    run_stage(name, partial(main, fresh))


if __name__ == "__main__":
    APP()
