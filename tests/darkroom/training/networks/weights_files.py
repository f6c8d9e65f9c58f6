"""Weights files of backbones, and networks with these weights."""

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import keras
from keras.applications import MobileNetV2

from darkroom.training.networks import BuiltNetwork, build_network
from tests.darkroom.training.networks.batch_normalization import randomize_batch_normalization
from tests.examples import train_params

ALPHA = 0.35


class WeightsFile(NamedTuple):
    path: Path
    sha256: str


def digest(file: Path) -> WeightsFile:
    return WeightsFile(file, hashlib.sha256(file.read_bytes()).hexdigest())


def write_weights(folder: Path) -> WeightsFile:
    """Save the weights of a small MobileNetV2 without its top."""
    keras.utils.set_random_seed(1)
    model = MobileNetV2(alpha=ALPHA, include_top=False, weights=None, input_shape=(64, 64, 3))
    randomize_batch_normalization(model)
    model.save_weights(folder / "x.weights.h5")
    return digest(folder / "x.weights.h5")


def build_mobilenet(
    weights: WeightsFile,
    image_shape: tuple[int, int, int] = (32, 32, 3),
    normalization: list[keras.layers.Layer] | None = None,
    **backbone: Any,
) -> BuiltNetwork:
    """Build a MobileNetV2 with the weights of a file."""
    changes = {"weights": str(weights.path), "weights_sha256": weights.sha256, "alpha": ALPHA} | backbone
    params = train_params(network="mobilenet_v2", backbone=changes)
    return build_network(params, image_shape, 4, normalization or [])
