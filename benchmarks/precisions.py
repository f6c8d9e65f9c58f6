"""Speedup of mixed_bfloat16 over float32 per network, on which `train.precision: auto` is based on a CPU.

Trains each network from random weights on random images in batches of 32, as the train stage does, in both precisions
by turns for several rounds. Prints the median images per second of both, and their ratio.

Run as  python -m benchmarks.precisions     (about ten minutes on two CPUs with AMX)
"""

import os
import time
from statistics import median

import keras
import numpy as np

from darkroom.models.backend import make_deterministic
from darkroom.params.train import Network, Precision, TrainParams
from darkroom.training.networks import build_network
from darkroom.training.optimization import make_optimizer
from darkroom.training.precision import computing_in
from darkroom.training.training import list_compute_layers
from darkroom.training.training_model import make_training_model
from tests.examples import train_params

BATCH_SIZE = 32
ROUNDS = 3
CLASSES = 10
ROUND_SECONDS = 2
PRECISIONS: tuple[Precision, ...] = ("float32", "mixed_bfloat16")
CASES: tuple[tuple[Network, tuple[int, int, int]], ...] = (
    ("sigmoid_cnn", (28, 28, 1)),
    ("keras_mnist_cnn", (28, 28, 1)),
    ("keras_cifar10_cnn", (32, 32, 3)),
    ("cats_dogs_cnn", (150, 150, 3)),
    ("compact_cnn", (16, 16, 1)),
    ("compact_cnn", (100, 100, 3)),
    ("vgg16", (64, 64, 3)),
    ("resnet50", (96, 96, 3)),
    ("resnet50_v2", (96, 96, 3)),
    ("inception_v3", (96, 96, 3)),
    ("xception", (96, 96, 3)),
    ("densenet121", (96, 96, 3)),
    ("mobilenet_v2", (96, 96, 3)),
    ("efficientnet_v2_b0", (96, 96, 3)),
)


def make_params(network: Network) -> TrainParams:
    random = {"weights": "none", "frozen_layers": 0, "frozen_batch_normalization": False}
    return train_params(network=network, backbone=random)


def measure(network: Network, shape: tuple[int, int, int]) -> dict[Precision, float]:
    """Measure training images per second in both precisions: the median of several rounds on one batch."""
    params = make_params(network)
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (BATCH_SIZE, *shape), np.uint8)
    targets = np.eye(CLASSES, dtype=np.float32)[random.integers(0, CLASSES, BATCH_SIZE)]
    training_models = {}
    for precision in PRECISIONS:
        keras.utils.clear_session()
        built = build_network(params, shape, CLASSES, [keras.layers.Rescaling(1 / 255)])
        with computing_in(precision, list_compute_layers(built)):
            training_models[precision] = make_training_model(built, [], precision)
            optimizer = make_optimizer(params, 0.001, 1, 1, precision)
            training_models[precision].compile(optimizer, "categorical_crossentropy", jit_compile=False)
            for _ in range(2):  # traces the training step in this precision
                training_models[precision].train_on_batch(images, targets)
    speeds: dict[Precision, list[float]] = {precision: [] for precision in PRECISIONS}
    for _ in range(ROUNDS):
        for precision, training_model in training_models.items():
            started, steps = time.perf_counter(), 0
            while time.perf_counter() - started < ROUND_SECONDS:
                training_model.train_on_batch(images, targets)
                steps += 1
            speeds[precision].append(steps * BATCH_SIZE / (time.perf_counter() - started))
    return {precision: median(values) for precision, values in speeds.items()}


def main() -> None:
    threads = len(os.sched_getaffinity(0))
    make_deterministic(0, threads)
    print(f"| network | images | float32, images per second, {threads} threads | mixed_bfloat16 | speedup |")
    print("|---|---|---|---|---|")
    for network, shape in CASES:
        float32, mixed = measure(network, shape).values()
        size = "x".join(map(str, shape))
        print(f"| {network} | {size} | {float32:,.0f} | {mixed:,.0f} | {mixed / float32:.2f} |", flush=True)


if __name__ == "__main__":
    main()
