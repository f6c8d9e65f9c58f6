"""Speed and memory of reading batches from images.npy, with 2,000 and with 200,000 images of 100x100x3.

Reads batches of 128 in the order of an epoch, as Keras's `fit` does, up to 20,000 images, each size in its own process.
Prints the peaks of private memory and of mapped file pages, which belong to the system's cache, relative to before the
first batch. A file system with large folios maps up to 2 MB around each image of the current batch.

Run as  python -m benchmarks.feeding     (about a minute; needs 6 GB of disk)
"""

import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil

SIZES = (2_000, 200_000)
SHAPE = (100, 100, 3)
BATCH_SIZE = 128
READ_IMAGES = 20_000
POLL_SECONDS = 0.02
CLASSES = 10


def write_images(path: Path, count: int) -> None:
    random = np.random.default_rng(0)
    images = np.lib.format.open_memmap(path, "w+", np.uint8, (count, *SHAPE))
    for start in range(0, count, 1000):
        images[start : start + 1000] = random.integers(0, 256, (min(1000, count - start), *SHAPE), np.uint8)
    images.flush()


def feed(path: Path, count: int) -> None:
    """Read batches; print images per second and the two peaks in megabytes."""
    from darkroom.models.batches import TrainingBatches
    from darkroom.models.targets import make_targets
    from darkroom.pipeline.dataset import StoredImages

    targets = make_targets(np.arange(count) % CLASSES, CLASSES)
    batches = TrainingBatches(StoredImages(path, count), np.arange(count), targets, BATCH_SIZE, seed=0)
    process, private, mapped, is_finished = psutil.Process(), 0.0, 0.0, threading.Event()
    before = process.memory_info()

    def watch() -> None:
        nonlocal private, mapped
        while not is_finished.wait(POLL_SECONDS):
            now = process.memory_info()
            private = max(private, now.rss - now.shared - (before.rss - before.shared))
            mapped = max(mapped, now.shared - before.shared)

    watcher = threading.Thread(target=watch)
    watcher.start()
    started, images, epoch = time.perf_counter(), 0, 0
    while images < READ_IMAGES:
        batches.begin_epoch(epoch)
        for number in range(min(len(batches), (READ_IMAGES - images) // BATCH_SIZE + 1)):
            images += len(batches[number][0])
        epoch += 1
    seconds = time.perf_counter() - started
    is_finished.set()
    watcher.join()
    print(images / seconds, private / 1e6, mapped / 1e6)


def main() -> None:
    if len(sys.argv) > 1:
        return feed(Path(sys.argv[1]), int(sys.argv[2]))
    print("| images | images per second | peak of private memory | peak of mapped pages |")
    print("|---|---|---|---|")
    for count in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "images.npy")
            write_images(path, count)
            command = [sys.executable, "-m", "benchmarks.feeding", str(path), str(count)]
            output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            speed, private, mapped = map(float, output.split()[-3:])
        print(f"| {count:,} | {speed:,.0f} | {private:.0f} MB | {mapped:.0f} MB |", flush=True)


if __name__ == "__main__":
    main()
