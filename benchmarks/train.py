"""Training speed of keras_cifar10_cnn on 100x100x3 images, compared with Keras and PyTorch on the same CPU.

Four systems, each in its own process, take turns for several rounds, at batch sizes 32 and 128:

    Darkroom         the loop of the train stage, `train_network` with precision auto, images read from images.npy
    Keras            `model.fit` in float32 on an array in memory, as in tutorials (without XLA, which is slower)
    PyTorch          eager, bfloat16 by autocast, channels_last, fused Adam, tensors in memory
    PyTorch compiled the same with `torch.compile`

Prints the median images per second of each, the speed of Darkroom relative to the others, and its compute relative to a
product of two 4096x4096 bfloat16 matrices, at 1.44 GFLOP per image and step.

Run as  python -m benchmarks.train     (about ten minutes on two CPUs; `pip install torch==2.13.0` for PyTorch)
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

BATCH_SIZES = (32, 128)
ROUND_IMAGES = 768
ROUNDS = 5
SHAPE = (100, 100, 3)
CLASSES = 10
THREADS = len(os.sched_getaffinity(0))
GFLOP_PER_IMAGE = 1.44
PRODUCT_SIDE = 4096
PRODUCTS = 10
SYSTEMS = ("Darkroom", "Keras", "PyTorch", "PyTorch compiled")


def draw_images() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    return random.integers(0, 256, (ROUND_IMAGES, *SHAPE), np.uint8), random.integers(0, CLASSES, ROUND_IMAGES)


def wait_for_turns() -> Iterator[None]:
    """Yield once for each line on the standard input."""
    print("ready", flush=True)
    for _ in sys.stdin:
        yield


def time_epochs() -> Any:
    """Make a callback whose epochs wait for their turn and are timed from the first batch to the last."""
    import keras

    class TimeEpochs(keras.callbacks.Callback):
        turns: Iterator[None] | None = None

        def on_epoch_begin(self, epoch: int, logs: object = None) -> None:  # noqa: ARG002
            if epoch:  # the first one is a warm-up
                self.turns = self.turns or wait_for_turns()
                if next(self.turns, self) is self:
                    os._exit(0)
            self.started = time.perf_counter()

        def on_train_batch_end(self, batch: int, logs: object = None) -> None:  # noqa: ARG002
            if self.turns and batch == self.params["steps"] - 1:
                print(time.perf_counter() - self.started, flush=True)

    return TimeEpochs()


def run_darkroom(batch_size: int) -> None:
    from darkroom.pipeline.dataset import StoredImages
    from darkroom.training.training import train_network
    from darkroom.training.training_data import TrainingData
    from tests.examples import train_params

    pixels, class_ids = draw_images()
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder, "images.npy"), pixels)
        images = StoredImages(Path(folder, "images.npy"), len(pixels))
        rows = {"train": np.arange(len(pixels)), "validation": np.arange(batch_size)}
        params = train_params(
            network="keras_cifar10_cnn",
            batch_size=batch_size,
            epochs=10**6,
            early_stopping_patience=10**6,
            threads=THREADS,
            precision="auto",
        )
        train_network(params, TrainingData(images, rows, class_ids, CLASSES), [time_epochs()], None)


def run_keras(batch_size: int) -> None:
    import keras

    from darkroom.training.networks import build_network
    from tests.examples import train_params

    pixels, class_ids = draw_images()
    network = build_network(
        train_params(network="keras_cifar10_cnn"), SHAPE, CLASSES, [keras.layers.Rescaling(1 / 255)]
    )
    network.model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"], jit_compile=False)
    network.model.fit(pixels, class_ids, batch_size, epochs=10**6, verbose=0, callbacks=[time_epochs()])


def run_torch(batch_size: int, compiled: bool) -> None:
    import torch
    from torch import nn

    torch.set_num_threads(THREADS)
    pixels, class_ids = draw_images()
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
    targets = torch.from_numpy(class_ids)
    blocks: list[nn.Module] = []
    for before, filters in ((3, 32), (32, 64)):
        blocks += [nn.Conv2d(before, filters, 3, padding="same"), nn.ReLU(), nn.Conv2d(filters, filters, 3), nn.ReLU()]
        blocks += [nn.MaxPool2d(2), nn.Dropout(0.25)]
    head = [nn.Flatten(), nn.Linear(64 * 23 * 23, 512), nn.ReLU(), nn.Dropout(0.5), nn.Linear(512, CLASSES)]
    network = nn.Sequential(*blocks, *head).to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(network.parameters(), fused=True)
    forward: Callable[..., Any] = torch.compile(network) if compiled else network

    def train_epoch() -> None:
        for batch in torch.randperm(len(images)).split(batch_size):
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast("cpu", torch.bfloat16):
                loss = nn.functional.cross_entropy(forward(images[batch].float() / 255), targets[batch])
            loss.backward()
            optimizer.step()

    train_epoch()
    for _ in wait_for_turns():
        started = time.perf_counter()
        train_epoch()
        print(time.perf_counter() - started, flush=True)


def measure_products() -> float:
    """Measure the TFLOP/s of a product of two bfloat16 matrices."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(THREADS)
    matrix = tf.cast(tf.random.normal((PRODUCT_SIDE, PRODUCT_SIDE)), tf.bfloat16)
    multiply = tf.function(lambda: tf.matmul(matrix, matrix))
    multiply()
    started = time.perf_counter()
    for _ in range(PRODUCTS):
        multiply().numpy()
    return PRODUCTS * 2 * PRODUCT_SIDE**3 / (time.perf_counter() - started) / 1e12


def start(system: str, batch_size: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "benchmarks.train", system, str(batch_size)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def read_line(process: subprocess.Popen[str]) -> str:
    """Read the next line that this module printed."""
    assert process.stdout is not None
    for line in process.stdout:
        if line == "ready\n" or line[:1].isdigit():
            return line
    sys.exit("one of the systems failed; see its error above")


def measure(batch_size: int, systems: list[str]) -> dict[str, float]:
    """Measure the median images per second of each system."""
    processes = {}
    for system in systems:
        processes[system] = start(system, batch_size)
        read_line(processes[system])  # one after another, so that their warm-ups do not overlap
    speeds: dict[str, list[float]] = {system: [] for system in systems}
    for _ in range(ROUNDS):
        for system, process in processes.items():
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
            speeds[system].append(ROUND_IMAGES / float(read_line(process)))
    for process in processes.values():
        process.communicate()
    return {system: median(values) for system, values in speeds.items()}


def main() -> None:
    if len(sys.argv) > 1:
        system, batch_size = sys.argv[1], int(sys.argv[2])
        if system == "Darkroom":
            return run_darkroom(batch_size)
        if system == "Keras":
            return run_keras(batch_size)
        return run_torch(batch_size, system == "PyTorch compiled")
    systems = [system for system in SYSTEMS if not system.startswith("PyTorch") or find_spec("torch")]
    if len(systems) < len(SYSTEMS):
        print("PyTorch is not installed and was skipped; install it with: pip install torch==2.13.0")
    speeds = {batch_size: measure(batch_size, systems) for batch_size in BATCH_SIZES}
    products = measure_products()
    print(f"| images per second, {THREADS} threads | " + " | ".join(f"batch {size}" for size in BATCH_SIZES) + " |")
    print("|---" * (1 + len(BATCH_SIZES)) + "|")
    for system in systems:
        cells = [
            f"{speeds[size][system]:.0f}"
            + (
                ""
                if system == "Darkroom"
                else f" (Darkroom: {speeds[size]['Darkroom'] / speeds[size][system]:.2f} times)"
            )
            for size in BATCH_SIZES
        ]
        print(f"| {system} | " + " | ".join(cells) + " |")
    fractions = [f"{speeds[size]['Darkroom'] * GFLOP_PER_IMAGE / 1000 / products:.2f}" for size in BATCH_SIZES]
    print(f"| Darkroom, fraction of the {products:.2f} TFLOP/s of a matrix product | " + " | ".join(fractions) + " |")


if __name__ == "__main__":
    main()
