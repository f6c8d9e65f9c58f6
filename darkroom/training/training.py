"""Train a network, for the train stage and for commands that train models to compare.

Dims: N images, H height, W width, C channels, K classes.
"""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from darkroom.models.backend import find_device, make_deterministic
from darkroom.models.batches import Batches, EpochPlan, ImageSource, TrainingBatches
from darkroom.models.targets import balance_classes, make_targets
from darkroom.params.train import BACKBONES, Monitor, TrainParams
from darkroom.pipeline.arrays import ClassIds, RowNumbers
from darkroom.pipeline.paths import project_root
from darkroom.pipeline.stage import StageError
from darkroom.training.augmentation import make_augmentation
from darkroom.training.checkpoint import Curves, Resumption, State
from darkroom.training.distribution import find_strategy
from darkroom.training.networks import BuiltNetwork, build_network, choose_normalization
from darkroom.training.networks.outputs import OUTPUT_LAYERS
from darkroom.training.networks.transfer import count_frozen, freeze
from darkroom.training.normalization import fit_normalization
from darkroom.training.optimization import MODES
from darkroom.training.phase import Phase, PhaseBatches, fit_phase
from darkroom.training.precision import ChosenPrecision, choose_precision, computing_in
from darkroom.training.training_data import TrainingData
from darkroom.training.training_model import choose_training_model


class TrainingResult(NamedTuple):
    """A network with the weights of its best epoch, its learning curves, and the precision it was trained in."""

    network: BuiltNetwork
    curves: Curves
    precision: ChosenPrecision


def features_folder() -> Path:
    """The cache of frozen backbones' features, outside the outputs because DVC deletes those."""
    return project_root() / ".cache/features"


def checkpoints_folder() -> Path:
    """The folder of checkpoints, outside the outputs because DVC deletes those."""
    return project_root() / ".cache/train"


def train_network(
    params: TrainParams,
    data: TrainingData,
    callbacks: Sequence[keras.callbacks.Callback],
    feature_cache: Path | None,
    resumption: Resumption | None = None,
    strategy: Any = None,
) -> TrainingResult:
    """Build and train the network, from scratch or from the checkpoint of an equal training that was killed.

    Takes the whole section of the params, so that every command that trains does so in the same way.

    Args:
        params: the section train.
        data: the images to train and validate on.
        callbacks: such as an `EpochReport`.
        feature_cache: the folder of cached features of frozen backbones, see `features_folder`; None computes them in
            every epoch.
        resumption: where training begins or resumes; None begins at epoch 1 and saves no state.
        strategy: of `tf.distribute`, which divides each batch among devices; None uses that of `find_strategy`.

    Raises:
        StageError: the images do not suit the network or the normalization, the weights are not available, the device
            does not support the precision, the loss becomes NaN or infinite, or memory runs out.
    """
    keras.utils.clear_session()  # resets the numbers in layer names, which `frozen_layers` may refer to
    make_deterministic(params.seed, params.threads)
    strategy = strategy or find_strategy()
    if strategy is not None:
        check_devices(params.batch_size, data.row_numbers, strategy.num_replicas_in_sync)
        feature_cache = None  # otherwise each device would compute all features
    devices = 1 if strategy is None else strategy.num_replicas_in_sync
    precision = choose_precision(params.precision, params.network, find_device(), keras.backend.backend())
    checkpoint, state = resumption or Resumption(None, State())
    with nullcontext() if strategy is None else strategy.scope():
        normalization = fit_normalization(
            choose_normalization(params),
            data.images,
            data.row_numbers["train"],
            params.zca.epsilon,
            params.zca.maximum_megabytes,
            params.threads,
        )
        network = build_network(params, data.images.image_shape, data.classes, normalization)
        augmentation = make_augmentation(params.augmentation, params.seed)
        with computing_in(precision.name, list_compute_layers(network)):
            for number, phase in list(enumerate(list_phases(params, network)))[state.phase :]:
                state = begin_phase(state, number, network)
                freeze(network.backbone, phase.frozen, params.backbone.frozen_batch_normalization)
                announce(phase, network, state)
                training_model, source = choose_training_model(
                    params, network, augmentation, data, feature_cache, precision.name
                )
                batches = make_batches(params, data, source, devices)
                fit_phase(
                    params, phase, precision.name, training_model, batches, Resumption(checkpoint, state), callbacks
                )
                if best_epoch(state.curves, params.early_stopping_monitor) <= state.epochs_before:
                    network.model.set_weights(state.weights_before)
    return TrainingResult(network, state.curves, precision)


def check_devices(batch_size: int, row_numbers: Mapping[str, RowNumbers], devices: int) -> None:
    """Check that each batch and each subset has an image for every device.

    Raises:
        StageError: there are fewer.
    """
    least = min(batch_size, *map(len, row_numbers.values()))
    if least < devices:
        raise StageError(
            "train.batch_size and the numbers of training and validation images must each be at least "
            f"{devices}, one image per device, got {least}"
        )


def list_compute_layers(network: BuiltNetwork) -> list[keras.layers.Layer]:
    """The layers between normalization and output; those two stay in float32 in every precision."""
    return [
        layer
        for layer in network.model.layers
        if layer not in network.normalization and layer.name not in OUTPUT_LAYERS
    ]


def begin_phase(state: State, number: int, network: BuiltNetwork) -> State:
    """Return the state to begin or resume a phase from; on resuming, restore the network's weights at its beginning."""
    if state.phase == number and state.is_under_way:
        if number:
            network.model.set_weights(state.weights_before)
        return state
    before = network.model.get_weights() if number else []
    return State(state.run_id, number, state.epochs, state.curves, weights_before=before)


def announce(phase: Phase, network: BuiltNetwork, state: State) -> None:
    """Print the settings of a phase, if the network has several, and whether training resumes."""
    if network.backbone:
        learning = sum(layer.trainable and bool(layer.weights) for layer in network.backbone)
        print(
            f"train: up to {phase.epochs} epochs at a learning rate of {phase.learning_rate:g}, training "
            f"{f'{learning} backbone layers and ' if learning else ''}the head",
            flush=True,
        )
    if state.is_under_way:
        print(
            f"train: resuming after epoch {state.epochs}, the last one that an earlier training completed", flush=True
        )


def list_phases(params: TrainParams, network: BuiltNetwork) -> list[Phase]:
    """One phase, or for a backbone two: for example the head alone, then the upper layers at a lower learning rate."""
    backbone = params.backbone
    names = [layer.name for layer in network.backbone]
    if not names:
        return [Phase(params.epochs, 0, params.learning_rate)]
    frozen = count_frozen("train.backbone.frozen_layers", backbone.frozen_layers, names)
    phases = [Phase(params.epochs, frozen, params.learning_rate)]
    tuning = backbone.fine_tuning
    if tuning.epochs:
        still_frozen = count_frozen("train.backbone.fine_tuning.frozen_layers", tuning.frozen_layers, names)
        phases.append(Phase(tuning.epochs, still_frozen, tuning.learning_rate))
    return phases


def most_epochs(params: TrainParams) -> int:
    """The number of epochs without early stopping."""
    return params.epochs + (params.backbone.fine_tuning.epochs if params.network in BACKBONES else 0)


def make_batches(params: TrainParams, data: TrainingData, source: ImageSource, devices: int = 1) -> PhaseBatches:
    """Make the training batches as the params specify, and the validation batches with one-hot targets.

    Args:
        params: the section train.
        data: the row numbers of both subsets, and their classes.
        source: the images, or the features that a frozen backbone computed from them.
        devices: how many devices share each batch.
    """
    train, validation = data.row_numbers["train"], data.row_numbers["validation"]
    class_ids = data.class_ids[train]
    plan = EpochPlan(
        params.steps_per_epoch,
        params.mixup_alpha,
        params.label_smoothing,
        balance_classes(class_ids, data.classes) if params.class_weights == "balanced" else None,
    )
    targets = make_targets(class_ids, data.classes)
    validation_targets = make_targets(data.class_ids[validation], data.classes)
    return PhaseBatches(
        TrainingBatches(source, train, targets, params.batch_size, params.seed, plan, devices),
        Batches(source, validation, validation_targets, params.batch_size, devices),
    )


def number_labels(labels: Sequence[str]) -> tuple[list[str], ClassIds]:
    """Return the sorted distinct labels, one per output of the network, and the class ID of each row."""
    names, class_ids = np.unique(labels, return_inverse=True)
    return [str(name) for name in names], class_ids.astype(np.int64)


def best_epoch(curves: Curves, monitor: Monitor) -> int:
    """The first epoch with the best value, counted from 1; its weights are saved."""
    return 1 + int(np.argmin(curves[monitor]) if MODES[monitor] == "min" else np.argmax(curves[monitor]))
