from pathlib import Path

import keras
import numpy as np
import pytest

from stages.lib.arrays import ClassNumbers, Pixels
from stages.lib.batches import Batches, ShuffleEachEpoch
from stages.lib.dataset import ImageRow, StoredImages
from stages.lib.live_run import LiveRun
from stages.lib.networks import build_network
from stages.lib.stage import StageError
from stages.lib.training import EpochReport, fit_network, make_early_stopping, number_labels
from stages.lib.variants import draw_variants, list_variants
from stages.split import assign_subsets, list_subset_rows


def rescale() -> list[keras.layers.Layer]:
    return [keras.layers.Rescaling(1 / 255)]


def store(folder: Path, images: Pixels) -> StoredImages:
    np.save(folder / "images.npy", images)
    return StoredImages(folder / "images.npy", len(images))


def batches(folder: Path, images: Pixels, targets: ClassNumbers, batch_size: int = 8) -> Batches:
    return Batches(store(folder, images), np.arange(len(images)), targets, batch_size)


def train(folder: Path, images: Pixels, targets: ClassNumbers, epochs: int, held_out: int) -> dict[str, list[float]]:
    """Train on all but the last `held_out` images (on all, and validate on all, if 0); return the curves."""
    keras.utils.set_random_seed(1)
    rows = np.arange(len(images))
    cut = len(images) - held_out
    stored = store(folder, images)
    training = Batches(stored, rows[:cut], targets[:cut], 8)
    validation = Batches(stored, rows[cut:], targets[cut:], 8) if held_out else training
    network = build_network("keras_cifar10_cnn", images.shape[1:], int(targets.max()) + 1, rescale())
    return fit_network(
        network,
        [],
        training,
        validation,
        epochs,
        0.001,
        [make_early_stopping("val_loss", epochs), ShuffleEachEpoch(training, 1)],
    )


def test_the_network_learns_eight_images_by_heart(tmp_path: Path) -> None:
    images = np.random.default_rng(3).integers(0, 256, (8, 12, 12, 1), np.uint8)
    curves = train(tmp_path, images, np.arange(8) % 4, epochs=150, held_out=0)
    assert max(curves["val_accuracy"]) == 1


def test_the_network_tells_bright_from_dark_on_images_it_has_not_seen(tmp_path: Path) -> None:
    random = np.random.default_rng(4)
    targets = random.integers(0, 2, 120)
    images = (random.integers(0, 100, (120, 12, 12, 1)) + 120 * targets[:, None, None, None]).astype(np.uint8)
    assert max(train(tmp_path, images, targets, epochs=6, held_out=40)["val_accuracy"]) > 0.95


def test_shuffled_labels_beat_chance_only_where_variants_leak(tmp_path: Path) -> None:
    """Noise with random labels cannot be learned, only recognised: a score above chance on the honest split would mean
    that variants of a test photo were trained on. The split by row, where they are, shows that the test can tell."""
    random = np.random.default_rng(5)
    variants = list_variants([-3, -2, -1, 1, 2, 3], horizontal_flip=False, vertical_flip=False)
    photos = random.integers(0, 256, (60, 12, 12, 1), np.uint8)
    images = np.concatenate([draw_variants(photo, variants, "bilinear", "constant") for photo in photos])
    names = [f"{number:03d}" for number in range(len(photos))]
    labels = [str(label) for label in random.integers(0, 2, len(photos))]
    index = [ImageRow(name, label, *variant) for name, label in zip(names, labels, strict=True) for variant in variants]
    targets = number_labels([row.label for row in index])[1]
    by_photo = dict(zip(names, assign_subsets(labels, names, 0.2, 0.4, 1, [""] * 60), strict=True))
    honest = list_subset_rows(index, by_photo)
    shuffled = random.permutation(len(index))
    leaking = {"train": shuffled[: len(honest["train"])], "test": shuffled[-100:]}

    scores = {}
    for name, rows in {"honest": honest, "leaking": leaking}.items():
        keras.utils.set_random_seed(1)
        stored = store(tmp_path, images)
        training = Batches(stored, rows["train"], targets[rows["train"]], 16)
        test = Batches(stored, rows["test"], targets[rows["test"]], 16)
        network = build_network("keras_cifar10_cnn", images.shape[1:], 2, rescale())
        callbacks = [make_early_stopping("val_loss", 40), ShuffleEachEpoch(training, 1)]
        curves = fit_network(network, [], training, training, 40, 0.001, callbacks)
        assert max(curves["val_accuracy"]) > 0.9  # learned by heart
        scores[name] = (network.predict(test, verbose=0).argmax(axis=1) == test.targets).mean()

    # 0.5, and three standard deviations of as many tosses of a coin.
    assert abs(scores["honest"] - 0.5) < 3 * np.sqrt(0.25 / len(honest["test"]))
    assert scores["leaking"] > 0.65


def test_the_best_epoch_s_weights_are_kept(tmp_path: Path) -> None:
    keras.utils.set_random_seed(2)
    random = np.random.default_rng(6)
    # Noise with random labels: what is learned by heart makes the validation loss rise.
    training = batches(tmp_path, random.integers(0, 256, (40, 12, 12, 1), np.uint8), random.integers(0, 2, 40))
    (tmp_path / "validation").mkdir()
    images = random.integers(0, 256, (40, 12, 12, 1), np.uint8)
    validation = batches(tmp_path / "validation", images, random.integers(0, 2, 40))
    network = build_network("keras_cifar10_cnn", (12, 12, 1), 2, rescale())
    callbacks = [make_early_stopping("val_loss", 3), ShuffleEachEpoch(training, 1)]
    curves = fit_network(network, [], training, validation, 30, 0.001, callbacks)

    assert len(curves["loss"]) < 30
    assert np.argmin(curves["val_loss"]) == len(curves["val_loss"]) - 4
    probabilities = network.predict(validation, verbose=0)
    loss = -np.log(probabilities[np.arange(40), validation.targets]).mean()
    assert loss == pytest.approx(min(curves["val_loss"]), abs=1e-4)


def test_the_order_of_images_depends_on_seed_and_epoch_alone(tmp_path: Path) -> None:
    images = np.zeros((20, 12, 12, 1), np.uint8)
    one, other = batches(tmp_path, images, np.arange(20)), batches(tmp_path, images, np.arange(20))
    ShuffleEachEpoch(one, 7).on_epoch_begin(0)
    ShuffleEachEpoch(one, 7).on_epoch_begin(3)
    ShuffleEachEpoch(other, 7).on_epoch_begin(3)
    assert sorted(one.order) == list(range(20))
    assert list(one.order) == list(other.order) != list(range(20))
    ShuffleEachEpoch(other, 8).on_epoch_begin(3)
    assert list(one.order) != list(other.order)


def test_batches_pair_images_with_their_labels_and_the_last_may_be_smaller(tmp_path: Path) -> None:
    images = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 1), np.uint8)
    fed = Batches(store(tmp_path, images), np.array([4, 2, 0]), np.array([40, 20, 0]), 2)
    assert len(fed) == 2
    assert [(list(part[:, 0, 0, 0]), list(targets)) for part, targets in (fed[0], fed[1])] == [
        ([4, 2], [40, 20]),
        ([0], [0]),
    ]


def test_a_line_per_epoch_stands_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    logs = {"loss": 1.25, "accuracy": 0.5, "val_loss": 2.0, "val_accuracy": 0.25}
    report = EpochReport(LiveRun(), 7)
    report.on_epoch_begin(2)
    report.on_epoch_end(2, logs)
    assert (
        capsys.readouterr().out == "epoch 3/7  0s  loss 1.2500  accuracy 0.5000  val_loss 2.0000  val_accuracy 0.2500\n"
    )


def test_a_loss_that_is_no_number_ends_the_training_with_advice() -> None:
    report = EpochReport(LiveRun(), 7)
    report.on_epoch_begin(0)
    logs = {"loss": float("nan"), "accuracy": 0.5, "val_loss": 2.0, "val_accuracy": 0.25}
    with pytest.raises(StageError, match=r"no finite number after epoch 1 .*loss nan.*turn train.learning_rate down"):
        report.on_epoch_end(0, logs)


def test_labels_are_numbered_in_sorted_order() -> None:
    labels, numbers = number_labels(["fish", "cat", "fish", "bird"])
    assert labels == ["bird", "cat", "fish"]
    assert numbers.tolist() == [2, 1, 2, 0]
    assert numbers.dtype == np.int64


def test_early_stopping_can_follow_the_accuracy(tmp_path: Path) -> None:
    random = np.random.default_rng(8)
    training = batches(tmp_path, random.integers(0, 256, (24, 12, 12, 1), np.uint8), random.integers(0, 2, 24))
    keras.utils.set_random_seed(3)
    network = build_network("keras_cifar10_cnn", (12, 12, 1), 2, rescale())
    curves = fit_network(network, [], training, training, 8, 0.001, [make_early_stopping("val_accuracy", 8)])
    kept = (network.predict(training, verbose=0).argmax(axis=1) == training.targets).mean()
    assert kept == pytest.approx(max(curves["val_accuracy"]))
