from pathlib import Path

import keras
import numpy as np
import pytest

from darkroom.models.backend import Device
from darkroom.models.model_file import load_model
from darkroom.params.train import Network, Precision
from darkroom.pipeline.stage import StageError
from darkroom.training.precision import choose_precision, computing_in
from tests.examples import train_params
from tests.trainings import dark_and_bright, model_bytes, needs_bfloat16, predict, train

PLAIN = Device("cpu", "Plain", 1, frozenset())
BFLOAT16 = Device("cpu", "Half", 1, frozenset({"bfloat16"}))
AMX = Device("cpu", "Matrix", 1, frozenset({"bfloat16"}), has_matrix_unit=True)
OLD_GPU = Device("gpu", "Old", 1, frozenset())
VOLTA = Device("gpu", "Volta", 1, frozenset({"float16"}))
AMPERE = Device("gpu", "Ampere", 2, frozenset({"bfloat16", "float16"}))


@pytest.mark.parametrize(
    ("device", "network", "backend", "expected"),
    [
        (PLAIN, "keras_cifar10_cnn", "tensorflow", "float32"),
        (BFLOAT16, "keras_cifar10_cnn", "tensorflow", "float32"),
        (AMX, "keras_cifar10_cnn", "tensorflow", "mixed_bfloat16"),
        (AMX, "keras_cifar10_cnn", "jax", "float32"),
        (AMX, "vgg16", "tensorflow", "mixed_bfloat16"),
        (AMX, "compact_cnn", "tensorflow", "float32"),
        (AMX, "mobilenet_v3_small", "tensorflow", "float32"),
        (OLD_GPU, "vgg16", "tensorflow", "float32"),
        (VOLTA, "compact_cnn", "torch", "mixed_float16"),
        (AMPERE, "mobilenet_v2", "jax", "mixed_bfloat16"),
    ],
)
def test_auto_chooses_what_is_fast_on_the_device(
    device: Device, network: Network, backend: str, expected: Precision
) -> None:
    chosen = choose_precision("auto", network, device, backend)
    assert chosen.name == expected
    assert chosen.reason


@pytest.mark.parametrize(
    ("requested", "device", "supported"),
    [
        ("mixed_float16", AMX, "auto, float32, mixed_bfloat16"),
        ("mixed_bfloat16", PLAIN, "auto, float32"),
        ("mixed_bfloat16", VOLTA, "auto, float32, mixed_float16"),
    ],
)
def test_an_unsupported_precision_is_rejected(requested: Precision, device: Device, supported: str) -> None:
    with pytest.raises(
        StageError, match=rf"train\.precision: {requested} requires .*got \w+ {device.name}; .* {supported}$"
    ):
        choose_precision(requested, "vgg16", device, "tensorflow")


def test_a_supported_precision_is_used_as_requested() -> None:
    assert choose_precision("float32", "vgg16", AMPERE, "jax").name == "float32"
    assert choose_precision("mixed_float16", "vgg16", AMPERE, "jax").name == "mixed_float16"


def test_layers_compute_in_a_precision_until_the_block_ends() -> None:
    layer = keras.layers.Conv2D(2, 3, activation="relu")
    image = np.ones((1, 4, 4, 1), np.float32)
    with computing_in("mixed_bfloat16", [layer]):
        assert keras.backend.standardize_dtype(layer(image).dtype) == "bfloat16"
    assert keras.backend.standardize_dtype(layer(image).dtype) == "float32"
    assert layer.activation is keras.activations.relu
    assert layer.get_config()["activation"] == "relu"


@needs_bfloat16
def test_a_network_learns_in_half_precision_and_is_saved_in_float32(tmp_path: Path) -> None:
    data = dark_and_bright(tmp_path, 120, held_out=40)
    changes = {"network": "keras_cifar10_cnn", "epochs": 4, "batch_size": 8}
    trained = train(train_params(**changes, precision="mixed_bfloat16"), data)
    assert trained.precision.name == "mixed_bfloat16"
    assert max(trained.curves["val_accuracy"]) > 0.95
    assert all(layer.compute_dtype == "float32" for layer in trained.network.model.layers)

    model_bytes(trained, tmp_path)
    loaded = load_model(tmp_path / "model.keras")
    assert all(layer.compute_dtype == "float32" for layer in loaded.layers)
    pixels = data.images.take(data.row_numbers["validation"])
    np.testing.assert_array_equal(loaded.predict(pixels, verbose=0), predict(trained, data))

    plain = train(train_params(**changes, precision="float32"), data)
    assert [weights.shape for weights in plain.network.model.get_weights()] == [
        weights.shape for weights in trained.network.model.get_weights()
    ]
    assert loaded.get_config()["layers"] == load_config(plain, tmp_path)


def load_config(trained: object, folder: Path) -> object:
    model_bytes(trained, folder)
    return load_model(folder / "model.keras").get_config()["layers"]
