"""Networks trained on synthetic images whose class depends on one corner, to test whether Grad-CAM highlights it."""

from collections.abc import Mapping
from typing import NamedTuple

import keras
import numpy as np
import numpy.typing as npt
from keras import layers

from darkroom.params.train import CNNS
from darkroom.pipeline.arrays import ClassIds, Pixels
from darkroom.training.networks import build_network
from tests.darkroom.training.networks.batch_normalization import randomize_batch_normalization
from tests.examples import train_params

SIDE = 64
PLAIN_BACKBONE = {"weights": "none", "frozen_layers": 0, "frozen_batch_normalization": False}


class Corner(NamedTuple):
    """Such a network, with test images and their classes."""

    model: keras.Model
    pixels: Pixels
    class_ids: ClassIds


def build(
    name: str, output: str = "softmax", side: int = SIDE, channels: int = 3, cnn: Mapping[str, object] | None = None
) -> keras.Model:
    """Build a network of the project with random weights: for 4 classes, or for 2 with a sigmoid.

    `cnn` has the changes of the params `train.cnn`.
    """
    keras.utils.set_random_seed(3)
    params = train_params(network=name, output=output, backbone=PLAIN_BACKBONE, cnn=cnn or {})
    classes = 2 if output == "sigmoid" else 4
    model = build_network(params, (side, side, channels), classes, [layers.Rescaling(1 / 255)]).model
    if name not in CNNS:
        randomize_batch_normalization(model)
    return model


def draw_corners(count: int, seed: int, side: int) -> tuple[Pixels, ClassIds]:
    """Draw noise with bright squares in some corners; the square at the top left alone decides the class."""
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 60, (count, side, side, 1))
    class_ids = random.integers(0, 2, count)
    for image, class_id in zip(pixels, class_ids, strict=True):
        for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
            is_bright = class_id if row == column == 0 else random.integers(0, 2)
            top, left = (side // 8 + half * side // 2 for half in (row, column))
            image[top : top + side // 4, left : left + side // 4] += 180 * is_bright
    return pixels.astype(np.uint8), class_ids


def train_corner(name: str, output: str, side: int = 32, cnn: Mapping[str, object] | None = None) -> Corner:
    """Train a network that can distinguish the corners: one that averages its maps cannot."""
    model = build(name, output, side, 1, cnn)
    wrapped = keras.Sequential([model])
    wrapped.compile(keras.optimizers.Adam(0.001), "sparse_categorical_crossentropy")
    wrapped.fit(*draw_corners(400, 1, side), 32, 6, verbose=0)
    return Corner(model, *draw_corners(60, 2, side))


def share_in_corner(maps: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The share of each map (N, h, w) that lies in the top left corner; NaN for a map that is 0 everywhere."""
    height, width = maps.shape[1:]
    inside, whole = (part.sum(axis=(1, 2)) for part in (maps[:, : height // 2, : width // 2], maps))
    undefined = np.full(len(maps), np.nan, np.float32)
    shares: npt.NDArray[np.float32] = np.divide(inside, whole, out=undefined, where=whole > 0)
    return shares
