"""How many rows a second the augment stage writes, against the loop of the tutorials on the same photos.

    python -m benchmarks.augment             the photos of ../shared/material/guitars
    python -m benchmarks.augment FOLDER      the JPEG files in another folder, at any depth

The loop opens a photo with Pillow, resizes it to 100 x 100, and collects it ten times turned and ten times mirrored in
a list, which it saves at the end. The stage writes as many rows: the variants of recipes/creatures.yaml, bilinear. The
floor is to decode each file completely and to do nothing else. All take turns, on one processor or on two, for several
rounds; the medians count. Then: where the time of one photo goes, and the peak memory of the stage at 2,000 and at
20,000 rows.
"""

import io
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from darkroom.photos.images import DECODED_TIMES, decode_at_scale, prepare_image
from darkroom.photos.options import PIXEL_LIMIT
from darkroom.photos.variants import ORIGINAL, draw_variants, list_variants
from darkroom.pipeline.dataset import PhotoRow
from darkroom.pipeline.worker_pool import open_worker_pool
from stages.augment import Drawing, draw_rows, write_images
from tests.examples import photo_row

GUITARS = Path(__file__).parents[2] / "shared/material/guitars"
SIDE = 100
DEGREES = range(-30, 30, 6)
VARIANTS = list_variants(DEGREES, horizontal_flip=True, vertical_flip=False)
DRAWING = Drawing(
    partial(prepare_image, image_size=(SIDE, SIDE), resize="stretch", resampling="bilinear", color="rgb"),
    partial(draw_variants, variants=VARIANTS, resampling="bilinear", fill_mode="constant"),
    (len(VARIANTS), SIDE, SIDE, 3),
)
ROUNDS = 5


def run_tutorial(files: Sequence[Path], path: Path) -> None:
    rows = []
    for file in files:
        image = Image.open(file).convert("RGB").resize((SIDE, SIDE))
        for angle in DEGREES:
            rows.append(np.asarray(image.rotate(angle)))
            rows.append(np.asarray(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)))
    np.save(path, np.array(rows))


def decode_all(files: Sequence[Path]) -> None:
    for file in files:
        Image.open(file).load()


class Cost(NamedTuple):
    seconds: float
    processor_seconds: float  # of this process and those that it started; other programs hardly change it


def measure_cost(work: Callable[[], object], processors: int) -> Cost:
    """Time some work on so many of the processors; processes that it starts are held to the same ones."""
    usable = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(usable)[:processors])
    started = time.perf_counter(), sum(os.times()[:4])
    try:
        work()
        return Cost(time.perf_counter() - started[0], sum(os.times()[:4]) - started[1])
    finally:
        os.sched_setaffinity(0, usable)


def middle_cost(costs: Iterable[Cost]) -> Cost:
    return Cost(*map(median, zip(*costs, strict=True)))


def compare(files: Sequence[Path], photos: Sequence[PhotoRow], folder: Path) -> None:
    ours, loop = folder / "ours.npy", folder / "loop.npy"
    ways: dict[str, tuple[Callable[[], object], int]] = {
        "tutorials' loop": (lambda: run_tutorial(files, loop), 1),
        "augment, 1 processor": (lambda: write_images(photos, DRAWING, ours), 1),
        "augment, 2 processors": (lambda: write_images(photos, DRAWING, ours), 2),
        "decoding alone": (lambda: decode_all(files), 1),
    }
    if len(os.sched_getaffinity(0)) < 2:
        del ways["augment, 2 processors"]
    costs: dict[str, list[Cost]] = {name: [] for name in ways}
    for number in range(ROUNDS):
        for name, (work, processors) in ways.items():
            costs[name].append(measure_cost(work, processors))
            # Each begins on a disk that has nothing left to write of the one before.
            ours.unlink(missing_ok=True)
            loop.unlink(missing_ok=True)
            os.sync()
        print(f"round {number + 1}: " + ", ".join(f"{name} {taken[-1].seconds:.2f} s" for name, taken in costs.items()))
    rows = len(files) * len(VARIANTS)
    middle = {name: middle_cost(taken) for name, taken in costs.items()}
    loops, floor = middle["tutorials' loop"].seconds, middle["decoding alone"].seconds
    print(f"\n| {len(files):,} photos, {rows:,} rows | s | processor s | rows a second | x the loop | floor x |")
    print("|---|---|---|---|---|---|")
    for name, (seconds, busy) in middle.items():
        ratios = f"{loops / seconds:.2f} | {seconds / floor:.2f}"
        print(f"| {name} | {seconds:.2f} | {busy:.2f} | {rows / seconds:,.0f} | {ratios} |")


def show_parts(files: Sequence[Path], folder: Path) -> None:
    """Where the time goes."""
    contents = [file.read_bytes() for file in files]
    least = round(DECODED_TIMES * SIDE)
    prepared = [DRAWING.prepare(content) for content in contents[:100]]
    turns = [variant for variant in VARIANTS if variant.flip == "none" and variant != ORIGINAL]
    block, path = np.zeros((len(VARIANTS), SIDE, SIDE, 3), np.uint8), folder / "parts.npy"
    half = len(VARIANTS) // 2

    def draw_all(variants: Sequence, times: int) -> None:
        for number in range(times):
            draw_variants(prepared[number % len(prepared)], variants, "bilinear", "constant")

    def flip_all(times: int) -> None:
        for _ in range(times):
            for source, target in zip(block[:half], block[half:], strict=True):
                cv2.flip(source, 1, target)

    def write_all(times: int) -> None:
        with path.open("wb") as file:
            for _ in range(times):
                file.write(block.data)

    def per_photo(work: Callable[[], object]) -> float:
        return middle_cost(measure_cost(work, 1) for _ in range(3)).processor_seconds / len(files) * 1e6

    count = len(files)
    reading = per_photo(lambda: [file.read_bytes() for file in files])
    opening = per_photo(lambda: [Image.open(io.BytesIO(content)) for content in contents])
    decoding = per_photo(lambda: [decode_at_scale(content, PIXEL_LIMIT, least) for content in contents])
    preparing = per_photo(lambda: [DRAWING.prepare(content) for content in contents])
    parts = {
        "read the file": reading,
        "open it with Pillow": opening,
        "decode it": decoding - opening,
        "resize it": preparing - decoding,
        f"{len(turns)} turns": per_photo(lambda: draw_all(turns, count)),
        f"{half} flips": per_photo(lambda: flip_all(count)),
        "write the rows": per_photo(lambda: write_all(count)),
    }
    whole = per_photo(lambda: [draw_rows(file, DRAWING) for file in files])
    print("\n| one photo | microseconds of a processor |")
    print("|---|---|")
    for name, microseconds in parts.items():
        print(f"| {name} | {microseconds:,.0f} |")
    print(f"| these together | {sum(parts.values()):,.0f} |")
    print(f"| drawn, measured as a whole | {whole:,.0f} |")
    processors = len(os.sched_getaffinity(0))
    seconds, busy = middle_cost(measure_cost(start_workers, processors) for _ in range(3))
    print(f"\nStarting {processors} workers and ending them, once: {seconds:.2f} s, {busy:.2f} processor seconds.")


def start_workers() -> None:
    with open_worker_pool(1000, "nothing") as pool:
        list(pool.map(abs, range(1000), chunksize=8))


def show_memory() -> None:
    # Not above: the workers of the stage import this module, and here it should be as light for them as the stage.
    from benchmarks.memory import SIZES, acquire_photos, measure_peak

    peaks = {}
    for size in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            peaks[size] = measure_peak(acquire_photos(size, Path(folder)), "python", "-m", "stages.augment")
    small, large = (peaks[size] for size in SIZES)
    print(
        f"\nPeak memory of augment: {small:,.0f} MB at {SIZES[0]:,} rows, {large:,.0f} MB at {SIZES[1]:,} rows, "
        f"{large / small:.2f} times as much."
    )


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) == 2 else GUITARS
    files = sorted(path for path in folder.resolve().rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    if len(sys.argv) > 2 or not files:
        sys.exit(f"no JPEG files in {folder}\n\n{__doc__}")
    photos = [photo_row(str(number), file=str(file)) for number, file in enumerate(files)]
    with tempfile.TemporaryDirectory() as there:
        compare(files, photos, Path(there))
        show_parts(files, Path(there))
    show_memory()


if __name__ == "__main__":
    main()
