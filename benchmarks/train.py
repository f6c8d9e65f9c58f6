"""How fast a training step is: keras_cifar10_cnn on images of 100x100x3, beside what others do on the same processor.

Four ways, each in a process of its own, take turns for some rounds, at batches of 32 and of 128:

    ours             the loop of the train stage, `train_network` with precision auto, images read from images.npy
    Keras            `model.fit` in float32 on an array in memory, as the tutorials do (without XLA, which is slower)
    PyTorch          eager, bfloat16 by autocast, channels_last, fused Adam, tensors in memory
    PyTorch compiled the same through `torch.compile`

Prints the median images per second of each, and that of ours in shares of the others and of what a product of two
bfloat16 matrices of 4096x4096 reaches, at 1.44 GFLOP for an image's step.

Run as  python -m benchmarks.train     (about ten minutes on two processors; `pip install torch==2.13.0` for PyTorch)
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
WAYS = ("ours", "Keras", "PyTorch", "PyTorch compiled")


def draw_images() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    return random.integers(0, 256, (ROUND_IMAGES, *SHAPE), np.uint8), random.integers(0, CLASSES, ROUND_IMAGES)


def wait_for_turns() -> Iterator[None]:
    """Go on for each line that comes in, until none does."""
    print("ready", flush=True)
    for _ in sys.stdin:
        yield


def time_epochs() -> Any:
    """A callback whose epochs wait for their turns, and are timed from the first batch to the last."""
    import keras

    class TimeEpochs(keras.callbacks.Callback):
        turns: Iterator[None] | None = None

        def on_epoch_begin(self, epoch: int, logs: object = None) -> None:  # noqa: ARG002
            if epoch:  # the first one warms up
                self.turns = self.turns or wait_for_turns()
                if next(self.turns, self) is self:
                    os._exit(0)
            self.started = time.perf_counter()

        def on_train_batch_end(self, batch: int, logs: object = None) -> None:  # noqa: ARG002
            if self.turns and batch == self.params["steps"] - 1:
                print(time.perf_counter() - self.started, flush=True)

    return TimeEpochs()


def run_ours(batch_size: int) -> None:
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

    pixels, numbers = draw_images()
    network = build_network(
        train_params(network="keras_cifar10_cnn"), SHAPE, CLASSES, [keras.layers.Rescaling(1 / 255)]
    )
    network.model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"], jit_compile=False)
    network.model.fit(pixels, numbers, batch_size, epochs=10**6, verbose=0, callbacks=[time_epochs()])


def run_torch(batch_size: int, compiled: bool) -> None:
    import torch
    from torch import nn

    torch.set_num_threads(THREADS)
    pixels, numbers = draw_images()
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
    targets = torch.from_numpy(numbers)
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
    """TFLOP/s of a product of two bfloat16 matrices."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(THREADS)
    matrix = tf.cast(tf.random.normal((PRODUCT_SIDE, PRODUCT_SIDE)), tf.bfloat16)
    multiply = tf.function(lambda: tf.matmul(matrix, matrix))
    multiply()
    started = time.perf_counter()
    for _ in range(PRODUCTS):
        multiply().numpy()
    return PRODUCTS * 2 * PRODUCT_SIDE**3 / (time.perf_counter() - started) / 1e12


def start(way: str, batch_size: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "benchmarks.train", way, str(batch_size)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def read_line(process: subprocess.Popen[str]) -> str:
    """The next line that is `benchmarks.train`'s own."""
    assert process.stdout is not None
    for line in process.stdout:
        if line == "ready\n" or line[:1].isdigit():
            return line
    sys.exit("one of the ways has failed; its error stands above")


def measure(batch_size: int, ways: list[str]) -> dict[str, float]:
    """The median images per second of each way."""
    processes = {}
    for way in ways:
        processes[way] = start(way, batch_size)
        read_line(processes[way])  # one after the other, or they would disturb each other's warming up
    speeds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(ROUNDS):
        for way, process in processes.items():
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
            speeds[way].append(ROUND_IMAGES / float(read_line(process)))
    for process in processes.values():
        process.communicate()
    return {way: median(values) for way, values in speeds.items()}


def main() -> None:
    if len(sys.argv) > 1:
        way, batch_size = sys.argv[1], int(sys.argv[2])
        if way == "ours":
            return run_ours(batch_size)
        if way == "Keras":
            return run_keras(batch_size)
        return run_torch(batch_size, way == "PyTorch compiled")
    ways = [way for way in WAYS if not way.startswith("PyTorch") or find_spec("torch")]
    if len(ways) < len(WAYS):
        print("without PyTorch, which is not installed: pip install torch==2.13.0")
    speeds = {batch_size: measure(batch_size, ways) for batch_size in BATCH_SIZES}
    products = measure_products()
    print(f"| images per second, {THREADS} threads | " + " | ".join(f"batch {size}" for size in BATCH_SIZES) + " |")
    print("|---" * (1 + len(BATCH_SIZES)) + "|")
    for way in ways:
        cells = [
            f"{speeds[size][way]:.0f}"
            + ("" if way == "ours" else f" (ours: {speeds[size]['ours'] / speeds[size][way]:.2f} times)")
            for size in BATCH_SIZES
        ]
        print(f"| {way} | " + " | ".join(cells) + " |")
    shares = [f"{speeds[size]['ours'] * GFLOP_PER_IMAGE / 1000 / products:.2f}" for size in BATCH_SIZES]
    print(f"| ours, of the {products:.2f} TFLOP/s of a product | " + " | ".join(shares) + " |")


if __name__ == "__main__":
    main()
