"""Networks that have learned to look into one corner of drawn pictures, for whoever wants to know whether a map of what
they look at is true."""

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
    """Such a network, and pictures that it has not seen with their classes."""

    model: keras.Model
    pixels: Pixels
    numbers: ClassIds


def build(name: str, output: str = "softmax", side: int = SIDE, channels: int = 3) -> keras.Model:
    """A network of the project with random weights: of 4 classes, or of 2 for a sigmoid."""
    keras.utils.set_random_seed(3)
    settings = train_params(network=name, output=output, backbone=PLAIN_BACKBONE)
    classes = 2 if output == "sigmoid" else 4
    model = build_network(settings, (side, side, channels), classes, [layers.Rescaling(1 / 255)]).model
    if name not in CNNS:
        randomize_batch_normalization(model)
    return model


def draw_corners(count: int, seed: int, side: int) -> tuple[Pixels, ClassIds]:
    """Noise with bright squares in some corners, of which the left upper one alone says which class it is."""
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 60, (count, side, side, 1))
    numbers = random.integers(0, 2, count)
    for image, number in zip(pixels, numbers, strict=True):
        for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
            is_bright = number if row == column == 0 else random.integers(0, 2)
            top, left = (side // 8 + place * side // 2 for place in (row, column))
            image[top : top + side // 4, left : left + side // 4] += 180 * is_bright
    return pixels.astype(np.uint8), numbers


def train_corner(name: str, output: str, side: int = 32) -> Corner:
    """Train a network that can tell one corner from another: one that averages its maps cannot."""
    model = build(name, output, side, 1)
    wrapped = keras.Sequential([model])
    wrapped.compile(keras.optimizers.Adam(0.001), "sparse_categorical_crossentropy")
    wrapped.fit(*draw_corners(400, 1, side), 32, 6, verbose=0)
    return Corner(model, *draw_corners(60, 2, side))


def share_in_corner(maps: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Which share of each map (N, h, w) lies in the left upper corner; NaN for one that is 0 everywhere."""
    height, width = maps.shape[1:]
    inside, whole = (part.sum(axis=(1, 2)) for part in (maps[:, : height // 2, : width // 2], maps))
    nothing = np.full(len(maps), np.nan, np.float32)
    shares: npt.NDArray[np.float32] = np.divide(inside, whole, out=nothing, where=whole > 0)
    return shares
