"""Training speed of keras_cifar10_cnn with and without random augmentation.

Trains on random 100x100x3 images in batches of 32, read from an images.npy as in the train stage: with all eight
augmentations, with flips only, with rotation, shifts and zoom, and with none. Prints the median images per second of
each over several rounds, and the median speed relative to the same round without augmentation.

Run as  python -m benchmarks.online_augmentation     (about two minutes on two CPUs)
"""

import os
import tempfile
import time
from pathlib import Path
from statistics import median

import keras
import numpy as np

from darkroom.models.backend import make_deterministic
from darkroom.models.batches import Batches
from darkroom.models.targets import make_targets
from darkroom.params.train import AugmentationParams
from darkroom.pipeline.dataset import StoredImages
from darkroom.training.augmentation import make_augmentation
from darkroom.training.networks import build_network
from darkroom.training.training_model import make_training_model
from tests.examples import train_params

IMAGES = 160
IMAGE_SHAPE = (100, 100, 3)
CLASSES = 10
BATCH_SIZE = 32
ROUNDS = 11
SEED = 0
NOTHING = train_params().augmentation
FLIPS = {"horizontal_flip": True, "vertical_flip": True}
GEOMETRIC = {"rotation_range": 20, "width_shift_range": 0.1, "height_shift_range": 0.1, "zoom_range": 0.1}
AUGMENTATIONS = {
    "none": NOTHING,
    "flips": NOTHING.model_copy(update=FLIPS),
    "rotation, shifts, zoom": NOTHING.model_copy(update=GEOMETRIC),
    "all eight": NOTHING.model_copy(update={**FLIPS, **GEOMETRIC, "shear_range": 10, "channel_shift_range": 20}),
}


def draw_batches(folder: Path) -> Batches:
    rng = np.random.default_rng(SEED)
    np.save(folder / "images.npy", rng.integers(0, 256, (IMAGES, *IMAGE_SHAPE), np.uint8))
    images = StoredImages(folder / "images.npy", IMAGES)
    targets = make_targets(rng.integers(0, CLASSES, IMAGES), CLASSES)
    return Batches(images, np.arange(IMAGES), targets, BATCH_SIZE)


def make_warm_model(params: AugmentationParams, batches: Batches) -> keras.Model:
    """Make the model that the train stage fits, and train it for a warm-up epoch."""
    network = build_network(
        train_params(network="keras_cifar10_cnn"), IMAGE_SHAPE, CLASSES, [keras.layers.Rescaling(1 / 255)]
    )
    training_model = make_training_model(network, make_augmentation(params, SEED), "float32")
    training_model.compile("adam", "categorical_crossentropy", metrics=["accuracy"], jit_compile=False)
    measure_speed(training_model, batches)
    return training_model


def measure_speed(training_model: keras.Model, batches: Batches) -> float:
    """Train for an epoch; return images per second."""
    started = time.perf_counter()
    training_model.fit(batches, shuffle=False, verbose=0)
    return len(batches.row_numbers) / (time.perf_counter() - started)


def main() -> None:
    threads = len(os.sched_getaffinity(0))
    make_deterministic(SEED, threads)
    with tempfile.TemporaryDirectory() as folder:
        batches = draw_batches(Path(folder))
        training_models = {name: make_warm_model(params, batches) for name, params in AUGMENTATIONS.items()}
        speeds: dict[str, list[float]] = {name: [] for name in training_models}
        for _ in range(ROUNDS):
            for name, training_model in training_models.items():
                speeds[name].append(measure_speed(training_model, batches))

    print(f"| augmentation | images per second, {threads} threads | relative to none |")
    print("|---|---|---|")
    for name, measured in speeds.items():
        ratios = [speed / without for speed, without in zip(measured, speeds["none"], strict=True)]
        print(f"| {name} | {median(measured):,.0f} | {median(ratios):.2f} |")


if __name__ == "__main__":
    main()
