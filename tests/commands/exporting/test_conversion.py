"""Networks and normalizations give the same probabilities in the exported formats as in Keras."""

from collections.abc import Callable
from pathlib import Path
from typing import get_args

import keras
import numpy as np
import onnx
import pytest

from commands.exporting.conversion import convert_to_litert, convert_to_onnx
from commands.exporting.runtimes import Predict, open_litert, open_onnx
from darkroom.params.train import CNNS, Normalization
from darkroom.pipeline.dataset import StoredImages
from darkroom.pipeline.stage import StageError
from darkroom.training.normalization import fit_normalization
from tests.darkroom.training.networks.test_networks import Case
from tests.examples import noise

pytestmark = pytest.mark.slow

TOLERANCE = 1e-5
NORMALIZATIONS = [name for name in get_args(Normalization) if name != "network"]


def check_onnx(model: keras.Model, pixels: np.ndarray, folder: Path) -> None:
    (folder / "model.onnx").write_bytes(convert_to_onnx(model, {}))
    np.testing.assert_allclose(
        open_onnx(folder / "model.onnx")(pixels), model.predict(pixels, verbose=0), atol=TOLERANCE
    )


def check_litert(model: keras.Model, pixels: np.ndarray, folder: Path) -> None:
    (folder / "model.tflite").write_bytes(convert_to_litert(model, {}))
    predict = open_litert(folder / "model.tflite")
    np.testing.assert_allclose(predict(pixels), model.predict(pixels, verbose=0), atol=TOLERANCE)


@pytest.mark.parametrize(
    ("name", "output"), [*((name, "softmax") for name in CNNS), ("sigmoid_cnn", "sigmoid"), ("mobilenet_v2", "softmax")]
)
def test_onnx_gives_the_probabilities_of_each_network(name: str, output: str, tmp_path: Path) -> None:
    case = Case(name, output)
    check_onnx(case.build().model, case.pixels, tmp_path)


def test_litert_gives_the_probabilities_of_a_network(tmp_path: Path) -> None:
    case = Case("compact_cnn", "sigmoid")
    check_litert(case.build().model, case.pixels, tmp_path)


def test_the_same_network_gives_the_same_bytes_in_repeated_conversions() -> None:
    """Between feature maps of one pixel, the converter leaves a varying number of redundant reshapes."""
    pixels = keras.Input((4, 4, 3))
    values = keras.layers.Conv2D(4, 4, activation="relu")(pixels)
    for _ in range(3):
        values = keras.layers.BatchNormalization()(keras.layers.Conv2D(4, 1, activation="relu")(values))
    values = keras.layers.Dense(3, activation="softmax")(keras.layers.GlobalAveragePooling2D()(values))
    model = keras.Model(pixels, values, name="small")
    first = convert_to_onnx(model, {})
    assert [convert_to_onnx(model, {}) for _ in range(2)] == [first] * 2
    nodes = [node.op_type for node in onnx.load_model_from_string(first).graph.node]
    assert (nodes.count("Conv"), nodes.count("Reshape")) == (4, 0)


@pytest.mark.parametrize("name", NORMALIZATIONS)
def test_normalization_is_part_of_the_export(name: Normalization, tmp_path: Path) -> None:
    images = np.stack([noise(6, 5, seed=seed) for seed in range(20)])
    np.save(tmp_path / "images.npy", images)
    stored = StoredImages(tmp_path / "images.npy", len(images))
    layers = fit_normalization(name, stored, np.arange(len(images)), 0.01, 100, threads=2)
    values = pixels = keras.Input((6, 5, 3))
    for layer in layers:
        values = layer(values)
    values = keras.layers.Dense(3, activation="softmax")(keras.layers.Flatten()(values))
    model = keras.Model(pixels, values)
    check_onnx(model, images, tmp_path)
    if name == "zca":
        check_litert(model, images, tmp_path)


@pytest.mark.parametrize(("name", "open_runtime"), [("model.onnx", open_onnx), ("model.tflite", open_litert)])
def test_a_file_that_is_not_a_model_is_rejected(
    name: str, open_runtime: Callable[[Path], Predict], tmp_path: Path
) -> None:
    with pytest.raises(StageError, match=r"is missing; run `darkroom export` to write it$"):
        open_runtime(tmp_path / name)
    (tmp_path / name).write_bytes(b"not a model")
    with pytest.raises(StageError, match=r"cannot load it .*; run `darkroom export` to write it again$"):
        open_runtime(tmp_path / name)
