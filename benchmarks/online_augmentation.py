"""How fast keras_cifar10_cnn trains with online augmentation, against training without.

Trains on drawn images of 100x100x3 in batches of 32, read from an images.npy as the train stage reads them: with all
eight changes, with flips only, with rotation, shifts and zoom, and with none. Prints the median images per second of
each over several rounds in turn, and the median share of the speed that the same round had without augmentation.

Run as  python -m benchmarks.online_augmentation     (about two minutes on two processors)
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
from darkroom.training.training_model import make_trainer
from tests.examples import train_params

IMAGES = 160
IMAGE_SHAPE = (100, 100, 3)
CLASSES = 10
BATCH_SIZE = 32
ROUNDS = 11
SEED = 0
NOTHING = train_params().augmentation
FLIPS = {"horizontal_flip": True, "vertical_flip": True}
MOVES = {"rotation_range": 20, "width_shift_range": 0.1, "height_shift_range": 0.1, "zoom_range": 0.1}
AUGMENTATIONS = {
    "none": NOTHING,
    "flips": NOTHING.model_copy(update=FLIPS),
    "rotation, shifts, zoom": NOTHING.model_copy(update=MOVES),
    "all eight": NOTHING.model_copy(update={**FLIPS, **MOVES, "shear_range": 10, "channel_shift_range": 20}),
}


def draw_batches(folder: Path) -> Batches:
    rng = np.random.default_rng(SEED)
    np.save(folder / "images.npy", rng.integers(0, 256, (IMAGES, *IMAGE_SHAPE), np.uint8))
    images = StoredImages(folder / "images.npy", IMAGES)
    targets = make_targets(rng.integers(0, CLASSES, IMAGES), CLASSES)
    return Batches(images, np.arange(IMAGES), targets, BATCH_SIZE)


def warm_trainer(params: AugmentationParams, batches: Batches) -> keras.Model:
    """Make what the train stage fits, already warm."""
    settings = train_params(network="keras_cifar10_cnn")
    network = build_network(settings, IMAGE_SHAPE, CLASSES, [keras.layers.Rescaling(1 / 255)])
    trainer = make_trainer(network, make_augmentation(params, SEED), "float32")
    trainer.compile("adam", "categorical_crossentropy", metrics=["accuracy"], jit_compile=False)
    measure_speed(trainer, batches)
    return trainer


def measure_speed(trainer: keras.Model, batches: Batches) -> float:
    """Train for an epoch; return images per second."""
    started = time.perf_counter()
    trainer.fit(batches, shuffle=False, verbose=0)
    return len(batches.rows) / (time.perf_counter() - started)


def main() -> None:
    threads = len(os.sched_getaffinity(0))
    make_deterministic(SEED, threads)
    with tempfile.TemporaryDirectory() as folder:
        batches = draw_batches(Path(folder))
        trainers = {name: warm_trainer(params, batches) for name, params in AUGMENTATIONS.items()}
        speeds: dict[str, list[float]] = {name: [] for name in trainers}
        for _ in range(ROUNDS):
            for name, trainer in trainers.items():
                speeds[name].append(measure_speed(trainer, batches))

    print(f"| augmentation | images per second, {threads} threads | of the speed without |")
    print("|---|---|---|")
    for name, measured in speeds.items():
        shares = [speed / without for speed, without in zip(measured, speeds["none"], strict=True)]
        print(f"| {name} | {median(measured):,.0f} | {median(shares):.2f} |")


if __name__ == "__main__":
    main()
