from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from darkroom.models.batches import TrainingBatches
from darkroom.models.targets import make_targets
from darkroom.params.train import TrainParams
from darkroom.photos.variants import draw_variants, list_variants
from darkroom.pipeline.arrays import RowNumbers
from darkroom.pipeline.dataset import ImageRow, StoredImages
from darkroom.training.checkpoint import Resumption, State
from darkroom.training.networks import build_network
from darkroom.training.normalization import fit_normalization
from darkroom.training.phase import Phase, PhaseBatches, fit_phase
from darkroom.training.training import (
    best_epoch,
    list_phases,
    make_batches,
    most_epochs,
    number_labels,
)
from darkroom.training.training_data import TrainingData
from darkroom.training.training_model import make_training_model
from stages.split import assign_subsets, list_subset_rows
from tests.examples import noise, train_params
from tests.trainings import (
    dark_and_bright,
    measure_loss,
    mislabel,
    model_bytes,
    predict,
    split,
    store_images,
    train,
)

pytestmark = pytest.mark.slow


def cifar10_params(epochs: int, **changes: Any) -> TrainParams:
    """Params that train for exactly this number of epochs, unless `changes` say otherwise."""
    return train_params(
        network="keras_cifar10_cnn", epochs=epochs, **({"batch_size": 8, "early_stopping_patience": epochs} | changes)
    )


def small_params(**changes: Any) -> TrainParams:
    """Params of a small network that trains for two epochs."""
    small = {"cnn": {"filters": [4, 4]}, "epochs": 2, "early_stopping_patience": 4}
    return train_params(network="keras_mnist_cnn", **(small | changes))


def store_noise(folder: Path, count: int, seed: int) -> StoredImages:
    return store_images(folder, np.stack([noise(12, 12, 1, seed + number) for number in range(count)]))


def test_the_network_memorizes_eight_images(tmp_path: Path) -> None:
    data = split(store_noise(tmp_path, 8, seed=3), np.arange(8) % 4, held_out=0)
    assert max(train(cifar10_params(40, learning_rate=0.005), data).curves["val_accuracy"]) == 1


@pytest.mark.parametrize("output", ["softmax", "sigmoid"])
def test_the_network_classifies_unseen_bright_and_dark_images(tmp_path: Path, output: str) -> None:
    data = dark_and_bright(tmp_path, 120, held_out=40)
    trained = train(cifar10_params(6, output=output), data)
    probabilities = predict(trained, data)
    assert max(trained.curves["val_accuracy"]) > 0.95
    assert (probabilities.argmax(axis=1) == data.class_ids[data.row_numbers["validation"]]).mean() > 0.95
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)
    assert measure_loss(trained, data) == pytest.approx(min(trained.curves["val_loss"]), abs=1e-4)


def test_shuffled_labels_beat_chance_only_where_variants_leak(tmp_path: Path) -> None:
    """Noise with random labels can only be memorized: a score above chance on the honest split would mean that variants
    of test photos were in the training subset. The split by row, where they are, shows that the test detects this."""
    random = np.random.default_rng(5)
    variants = list_variants([-3, -2, -1, 1, 2, 3], horizontal_flip=False, vertical_flip=False)
    photos = random.integers(0, 256, (60, 12, 12, 1), np.uint8)
    images = np.concatenate([draw_variants(photo, variants, "bilinear", "constant") for photo in photos])
    names = [f"{number:03d}" for number in range(len(photos))]
    labels = [str(label) for label in random.integers(0, 2, len(photos))]
    index = [ImageRow(name, label, *variant) for name, label in zip(names, labels, strict=True) for variant in variants]
    class_ids = number_labels([row.label for row in index])[1]
    by_photo = dict(zip(names, assign_subsets(labels, names, 0.2, 0.4, 1, [""] * 60), strict=True))
    honest = list_subset_rows(index, by_photo)
    shuffled = random.permutation(len(index))
    leaking = {"train": shuffled[: len(honest["train"])], "test": shuffled[-100:]}

    stored = store_images(tmp_path, images)
    scores = {}
    for name, rows in {"honest": honest, "leaking": leaking}.items():
        data = TrainingData(stored, {**rows, "validation": rows["train"]}, class_ids, 2)
        memorizing = {"cnn": {"filters": [16, 16]}, "learning_rate": 0.01, "early_stopping_patience": 40}
        trained = train(small_params(epochs=25, **memorizing), data)
        assert max(trained.curves["val_accuracy"]) > 0.9  # memorized
        scores[name] = (predict(trained, data, "test").argmax(axis=1) == class_ids[rows["test"]]).mean()

    # 0.5 within three standard deviations of a fair coin.
    assert abs(scores["honest"] - 0.5) < 3 * np.sqrt(0.25 / len(honest["test"]))
    assert scores["leaking"] > 0.65


def test_the_weights_of_the_best_epoch_are_restored(tmp_path: Path) -> None:
    # Noise with random labels: memorizing it makes the validation loss rise.
    class_ids = np.random.default_rng(6).integers(0, 2, 80)
    data = split(store_noise(tmp_path, 80, seed=6), class_ids, held_out=40)
    trained = train(cifar10_params(30, early_stopping_patience=3), data)
    losses = trained.curves["val_loss"]
    assert len(losses) < 30
    assert np.argmin(losses) == len(losses) - 4
    assert measure_loss(trained, data) == pytest.approx(min(losses), abs=1e-4)


def test_the_weights_of_the_best_epoch_are_restored_without_early_stopping(tmp_path: Path) -> None:
    data = mislabel(dark_and_bright(tmp_path, 60, held_out=20))
    trained = train(small_params(epochs=3), data)
    assert best_epoch(trained.curves, "val_loss") == 1
    assert len(trained.curves["val_loss"]) == 3
    assert measure_loss(trained, data) == pytest.approx(trained.curves["val_loss"][0], abs=1e-4)


def test_early_stopping_can_monitor_the_accuracy(tmp_path: Path) -> None:
    class_ids = np.random.default_rng(8).integers(0, 2, 24)
    data = split(store_noise(tmp_path, 24, seed=8), class_ids, held_out=0)
    trained = train(cifar10_params(8, early_stopping_monitor="val_accuracy"), data)
    accuracy = (predict(trained, data).argmax(axis=1) == class_ids).mean()
    assert accuracy == pytest.approx(max(trained.curves["val_accuracy"]))


def test_the_best_epoch_is_the_first_of_the_best() -> None:
    curves = {"val_loss": [2.0, 1.0, 1.0], "val_accuracy": [0.5, 0.25, 0.5]}
    assert (best_epoch(curves, "val_loss"), best_epoch(curves, "val_accuracy")) == (2, 1)


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": "adam", "label_smoothing": 0.1},
        {"optimizer": "rmsprop", "momentum": 0.9, "schedule": {"name": "inverse_time"}},
        {"optimizer": "adadelta", "schedule": {"name": "plateau"}, "class_weights": "balanced"},
        {
            "optimizer": "sgd",
            "momentum": 0.9,
            "nesterov": True,
            "schedule": {"name": "cosine", "warmup_epochs": 1},
            "mixup_alpha": 0.2,
            "steps_per_epoch": 7,
        },
    ],
    ids=lambda changes: changes["optimizer"],
)
def test_every_optimizer_and_schedule_trains_reproducibly_to_the_byte(tmp_path: Path, changes: dict[str, Any]) -> None:
    data = dark_and_bright(tmp_path, 40, held_out=10, shape=(6, 6, 1))
    params = small_params(**changes)
    untrained: list[np.ndarray] = []
    record = keras.callbacks.LambdaCallback(on_train_begin=lambda logs: untrained.extend(record.model.get_weights()))  # noqa: ARG005
    first, again = train(params, data, callbacks=[record]), train(params, data)
    assert first.curves == again.curves
    assert len(first.curves["loss"]) == 2
    assert model_bytes(first, tmp_path) == model_bytes(again, tmp_path)
    for learned, before in zip(first.network.model.get_weights(), untrained, strict=True):
        assert not np.array_equal(learned, before)


class RecordingImages:
    """Stored images that record which row numbers were read."""

    def __init__(self, images: StoredImages) -> None:
        self.images = images
        self.reads: list[list[int]] = []

    def take(self, row_numbers: RowNumbers) -> np.ndarray:
        self.reads.append(row_numbers.tolist())
        return self.images.take(row_numbers)


def test_images_are_trained_on_in_the_order_of_each_epoch(tmp_path: Path) -> None:
    """Keras prefetches batches, and could have read those of an epoch before it began."""
    params = small_params(epochs=3)
    data = dark_and_bright(tmp_path, 80, held_out=10)
    keras.utils.clear_session()
    network = build_network(
        params, (12, 12, 1), 2, fit_normalization("rescale", data.images, data.row_numbers["train"], 1, 1, 1)
    )
    recording = RecordingImages(data.images)
    targets = make_targets(data.class_ids[:70], 2)
    batches = TrainingBatches(recording, data.row_numbers["train"], targets, 32, seed=3)
    _, validation = make_batches(params, data, data.images)
    training_model = make_training_model(network, [], "float32")
    phase, resumption = Phase(3, 0, 0.001), Resumption(None, State())
    fit_phase(params, phase, "float32", training_model, PhaseBatches(batches, validation), resumption, [])

    reads = recording.reads
    expected = []
    for epoch in range(3):
        batches.begin_epoch(epoch)
        expected += [batches.row_numbers[batches.order[start : start + 32]].tolist() for start in (0, 32, 64)]
    assert [read for number, read in enumerate(reads) if reads.index(read) == number] == expected


def test_the_params_change_the_training_batches_and_not_the_validation_batches(tmp_path: Path) -> None:
    class_ids = np.where(np.arange(40) % 10 == 0, 1, 0)
    data = dark_and_bright(tmp_path, 40, held_out=10)._replace(class_ids=class_ids)
    params = train_params(
        batch_size=8, steps_per_epoch=2, mixup_alpha=1, label_smoothing=0.5, class_weights="balanced", seed=3
    )
    training, validation = make_batches(params, data, data.images)
    assert (len(training), len(validation)) == (2, 2)
    assert training.seed == 3
    images, targets, weights = training[0]
    assert images.dtype == np.float32
    assert targets.min() >= 0.249
    # Of the 30 training images, three are of class 1; the weights follow from the targets before smoothing.
    np.testing.assert_allclose(weights, ((targets - 0.25) * 2) @ np.array([30 / 54, 30 / 6]), rtol=1e-5)
    assert [validation[0][1].tolist(), len(validation[0])] == [make_targets(class_ids[30:38], 2).tolist(), 2]
    plain, _ = make_batches(train_params(), data, data.images)
    assert len(plain[0]) == 2
    assert set(plain[0][1].ravel().tolist()) == {0, 1}


def test_balanced_class_weights_raise_the_probability_of_a_rare_class(tmp_path: Path) -> None:
    class_ids = np.where(np.arange(120) % 10 == 0, 1, 0)
    data = split(store_noise(tmp_path, 120, seed=0), class_ids, held_out=20)
    probability = {
        weights: predict(train(small_params(epochs=5, class_weights=weights), data), data)[:, 1].mean()
        for weights in ("equal", "balanced")
    }
    assert probability["equal"] < 0.3 < probability["balanced"]


def test_a_network_from_scratch_is_trained_in_one_phase(tmp_path: Path) -> None:
    params = small_params(backbone={"fine_tuning": {"epochs": 9}}, learning_rate=0.5)
    images = store_noise(tmp_path, 1, seed=0)
    network = build_network(params, (12, 12, 1), 2, fit_normalization("rescale", images, np.array([0]), 1, 1, 1))
    assert list(list_phases(params, network)) == [Phase(2, 0, 0.5)]
    assert most_epochs(params) == 2


def test_a_backbone_is_trained_in_two_phases_at_most() -> None:
    assert most_epochs(train_params(network="vgg16", epochs=3, backbone={"fine_tuning": {"epochs": 9}})) == 12


def test_labels_are_numbered_in_sorted_order() -> None:
    labels, class_ids = number_labels(["fish", "cat", "fish", "bird"])
    assert labels == ["bird", "cat", "fish"]
    assert class_ids.tolist() == [2, 1, 2, 0]
    assert class_ids.dtype == np.int64
