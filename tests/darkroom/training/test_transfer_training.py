"""Train a head on a backbone with weights from a file that the test writes.

A few layers take the place of MobileNetV2: only their training is tested here.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from darkroom.params.train import TrainParams
from darkroom.training.networks import build_network, choose_normalization
from darkroom.training.networks.transfer import freeze
from darkroom.training.normalization import fit_normalization
from darkroom.training.training import Phase, TrainingResult, list_phases
from darkroom.training.training_data import TrainingData
from darkroom.training.training_model import make_training_model
from tests.darkroom.training.networks.weights_files import WeightsFile, digest
from tests.examples import train_params
from tests.trainings import (
    dark_and_bright,
    measure_loss,
    mislabel,
    model_bytes,
    predict,
    small_backbone,
    train,
)

pytestmark = pytest.mark.slow

SHAPE = (32, 32, 3)
LEARNING = {"frozen_batch_normalization": False}
TUNING = {"epochs": 2, "frozen_layers": "Conv_1", "learning_rate": 0.0005}


def amplify(model: keras.Model, gain: float) -> None:
    """Scale random weights up, so that the differences between images survive all layers."""
    for weight in model.weights:
        if weight.path.endswith("kernel"):
            weight.assign(weight * gain)


@pytest.fixture(scope="module", autouse=True)
def replaced_backbone() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("keras.applications.MobileNetV2", small_backbone)
        yield


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> WeightsFile:
    keras.utils.set_random_seed(2)
    model = small_backbone(include_top=False, weights=None, alpha=0.35, input_shape=SHAPE)
    amplify(model, gain=3)
    path = tmp_path_factory.mktemp("weights") / "x.weights.h5"
    model.save_weights(path)
    return digest(path)


@pytest.fixture
def data(tmp_path: Path) -> TrainingData:
    return dark_and_bright(tmp_path, 48, held_out=16, shape=SHAPE)


def transfer_params(weights: WeightsFile, backbone: dict[str, Any] | None = None, **changes: Any) -> TrainParams:
    file = {"weights": str(weights.path), "weights_sha256": weights.sha256}
    defaults = {"network": "mobilenet_v2", "batch_size": 16, "epochs": 4, "early_stopping_patience": 4}
    return train_params(
        backbone={"alpha": 0.35, "dense_units": [8], "dropout": 0.3} | file | (backbone or {}),
        **(defaults | {"learning_rate": 0.01} | changes),
    )


def assert_equal_trainings(one: TrainingResult, other: TrainingResult, data: TrainingData) -> None:
    for name, curve in one.curves.items():
        np.testing.assert_allclose(curve, other.curves[name], atol=1e-5)
    np.testing.assert_allclose(predict(one, data), predict(other, data), atol=1e-5)


class Record(keras.callbacks.Callback):
    """Record of each epoch: its number, learning rate and number of trainable parameters, and the weights after it."""

    def __init__(self) -> None:
        super().__init__()
        self.epochs: list[tuple[int, float, int]] = []
        self.weights: list[dict[str, np.ndarray]] = []

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:  # noqa: ARG002
        learning = sum(math.prod(weight.shape) for weight in self.model.trainable_weights)
        self.epochs.append((epoch, round(float(self.model.optimizer.learning_rate), 7), learning))

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:  # noqa: ARG002
        self.weights.append({weight.path: weight.numpy() for weight in self.model.weights})


class Stopped(Exception):
    pass


class Stop(keras.callbacks.Callback):
    """End a training when it begins; by then the features would have been computed."""

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:  # noqa: ARG002
        raise Stopped


class TestCachedFeatures:
    def test_they_give_the_result_of_an_uncached_training_and_are_found_again(
        self, weights: WeightsFile, data: TrainingData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        params = transfer_params(weights)
        plain = train(params, data, feature_cache=None)
        assert "features of" not in capsys.readouterr().out
        first = train(params, data, feature_cache=tmp_path / "cache")
        assert "features of 48 images computed and cached at" in capsys.readouterr().out
        again = train(params, data, feature_cache=tmp_path / "cache")
        assert "features of 48 images found in the cache at" in capsys.readouterr().out

        assert_equal_trainings(first, plain, data)
        assert len(first.curves["loss"]) == 4
        assert measure_loss(first, data) == pytest.approx(min(first.curves["val_loss"]), abs=1e-4)
        assert again.curves == first.curves
        assert model_bytes(again, tmp_path) == model_bytes(first, tmp_path)
        # The head has learned, and the backbone still has the weights of the file.
        assert max(first.curves["val_accuracy"]) > 0.9
        file = small_backbone(include_top=False, weights=str(weights.path), alpha=0.35, input_shape=SHAPE)
        for trained in (first, plain):
            backbone = [weight for layer in trained.network.backbone for weight in layer.get_weights()]
            for after, before in zip(backbone, file.get_weights(), strict=True):
                np.testing.assert_array_equal(after, before)

    @pytest.mark.parametrize("changes", [{"augmentation": {"horizontal_flip": True}}, {"mixup_alpha": 0.2}])
    def test_nothing_is_cached_if_images_change_in_each_epoch(
        self, weights: WeightsFile, data: TrainingData, tmp_path: Path, changes: dict[str, Any]
    ) -> None:
        params = transfer_params(weights, **changes)
        with pytest.raises(Stopped):
            train(params, data, tmp_path / "cache", [Stop()])
        assert not (tmp_path / "cache").exists()


def test_only_a_frozen_backbone_runs_in_inference_mode(data: TrainingData) -> None:
    keras.utils.set_random_seed(2)
    random_weights = {"weights": "none", "frozen_batch_normalization": False, "frozen_layers": 0, "dropout": 0}
    params = train_params(network="efficientnet_v2_b0", backbone=random_weights)
    network = build_network(params, SHAPE, 2, [keras.layers.Rescaling(1 / 64, -2)])
    amplify(network.model, gain=1.2)
    images = data.images.take(np.arange(16))
    predicted = np.asarray(network.model(images, training=False))
    assert np.ptp(predicted[:, 0]) > 0.1
    freeze(network.backbone, len(network.backbone), False)
    trained_on = make_training_model(network, [], "float32")(images, training=True)
    np.testing.assert_allclose(trained_on, predicted, atol=1e-5)
    names = [layer.name for layer in network.backbone]
    freeze(network.backbone, names.index("top_conv"), False)
    trained_on = make_training_model(network, [], "float32")(images, training=True)
    assert np.abs(trained_on - predicted).max() > 1e-3


class TestPhases:
    def test_each_has_its_own_frozen_layers_and_rate(self, weights: WeightsFile, data: TrainingData) -> None:
        params = transfer_params(weights, {"fine_tuning": TUNING})
        normalization = fit_normalization(choose_normalization(params), data.images, data.row_numbers["train"], 1, 1, 1)
        network = build_network(params, SHAPE, 2, normalization)
        names = [layer.name for layer in network.backbone]
        upper = names.index("Conv_1") + 1
        assert list(list_phases(params, network)) == [Phase(4, len(names), 0.01), Phase(2, upper, 0.0005)]
        assert list(list_phases(transfer_params(weights), network)) == [Phase(4, len(names), 0.01)]

    def test_epoch_numbers_continue_after_an_early_stop_and_other_layers_learn(
        self, weights: WeightsFile, data: TrainingData, tmp_path: Path
    ) -> None:
        record = Record()
        params = transfer_params(
            weights, {"fine_tuning": TUNING, **LEARNING}, epochs=9, early_stopping_patience=1, learning_rate=0.05
        )
        mislabeled = mislabel(data)
        trained = train(params, mislabeled, tmp_path / "cache", [record])

        head = 16 * 8 + 8 + 8 * 2 + 2
        first = [entry for entry in record.epochs if entry[2] == head]
        second = record.epochs[len(first) :]
        assert 2 <= len(first) < 9  # stopped early
        assert {rate for _, rate, _ in first} == {0.05}
        # Above Conv_1 there is a batch normalization, with a scale and an offset for each of 16 channels.
        assert {entry[1:] for entry in second} == {(0.0005, head + 2 * 16)}
        before, after = record.weights[len(first)], record.weights[-1]
        changed = {path.split("/")[0] for path in after if not np.array_equal(before[path], after[path])}
        assert changed == {"Conv_1_bn", "head_dense_1", "probabilities"}
        assert [epoch for epoch, _, _ in record.epochs] == list(range(len(trained.curves["loss"])))
        assert {len(curve) for curve in trained.curves.values()} == {len(record.epochs)}
        assert measure_loss(trained, mislabeled) == pytest.approx(min(trained.curves["val_loss"]), rel=1e-4)

    def test_a_worse_second_phase_is_discarded(self, weights: WeightsFile, data: TrainingData, tmp_path: Path) -> None:
        data = mislabel(data)
        once = train(transfer_params(weights), data, tmp_path / "cache")
        twice = train(
            transfer_params(weights, {"fine_tuning": TUNING | {"learning_rate": 0.5}}), data, tmp_path / "cache"
        )
        assert twice.curves["loss"][:4] == once.curves["loss"]
        assert len(twice.curves["loss"]) == 6
        assert min(twice.curves["val_loss"][4:]) > min(once.curves["val_loss"])
        for one, other in zip(once.network.model.get_weights(), twice.network.model.get_weights(), strict=True):
            np.testing.assert_array_equal(one, other)
