"""How fast batches come from images.npy, and how much memory that takes, at 2,000 and at 200,000 images of 100x100x3.

Reads batches of 128 in the order of an epoch, as Keras's `fit` asks for them, 20,000 images at most, each size in a
process of its own. The peak is the proportional set size (PSS) of that process, pages of files that stay mapped
included, over what it was before the first batch.

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
    """Print images per second and the peak in megabytes."""
    from stages.lib.batches import TrainingBatches
    from stages.lib.dataset import StoredImages
    from stages.lib.targets import make_targets

    targets = make_targets(np.arange(count) % CLASSES, CLASSES)
    batches = TrainingBatches(StoredImages(path, count), np.arange(count), targets, BATCH_SIZE, seed=0)
    process, peak, is_over = psutil.Process(), 0.0, threading.Event()
    before = process.memory_full_info().pss

    def watch() -> None:
        nonlocal peak
        while not is_over.wait(POLL_SECONDS):
            peak = max(peak, process.memory_full_info().pss - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    started, images, epoch = time.perf_counter(), 0, 0
    while images < READ_IMAGES:
        batches.begin_epoch(epoch)
        for number in range(min(len(batches), (READ_IMAGES - images) // BATCH_SIZE + 1)):
            images += len(batches[number][0])
        epoch += 1
    seconds = time.perf_counter() - started
    is_over.set()
    watcher.join()
    print(f"{images / seconds} {peak / 1e6}")


def main() -> None:
    if len(sys.argv) > 1:
        return feed(Path(sys.argv[1]), int(sys.argv[2]))
    print("| images | fed per second | peak memory |")
    print("|---|---|---|")
    for count in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "images.npy")
            write_images(path, count)
            command = [sys.executable, "-m", "benchmarks.feeding", str(path), str(count)]
            said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            speed, peak = map(float, said.split()[-2:])
        print(f"| {count:,} | {speed:,.0f} | {peak:.0f} MB |", flush=True)


if __name__ == "__main__":
    main()
