"""Rows per second that the augment stage writes, compared with the loop of tutorials on the same photos.

    python -m benchmarks.augment             the photos of ../shared/material/guitars
    python -m benchmarks.augment FOLDER      the JPEG files in another folder, at any depth

The loop opens a photo with Pillow, resizes it to 100 x 100, and appends ten rotated and ten flipped copies to a list,
which it saves at the end. The stage writes the same number of rows: the variants of recipes/creatures.yaml, bilinear.
The floor is to decode each file completely and to do nothing else. All take turns for several rounds, on one CPU or on
two; the medians are reported. Also prints a breakdown of the time per photo, and the peak memory of the stage at 2,000
and at 20,000 rows.
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
from stages.augment import Drawing, draw_photo_variants, write_images
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
    cpu_seconds: float  # of this process and its children; other programs hardly affect it


def measure_cost(work: Callable[[], object], processors: int) -> Cost:
    """Time `work` on a number of CPUs, to which the processes that it starts are limited as well."""
    usable = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(usable)[:processors])
    started = time.perf_counter(), sum(os.times()[:4])
    try:
        work()
        return Cost(time.perf_counter() - started[0], sum(os.times()[:4]) - started[1])
    finally:
        os.sched_setaffinity(0, usable)


def median_cost(costs: Iterable[Cost]) -> Cost:
    return Cost(*map(median, zip(*costs, strict=True)))


def compare(files: Sequence[Path], photos: Sequence[PhotoRow], folder: Path) -> None:
    stage_path, loop_path = folder / "stage.npy", folder / "loop.npy"
    ways: dict[str, tuple[Callable[[], object], int]] = {
        "tutorial loop": (lambda: run_tutorial(files, loop_path), 1),
        "augment, 1 CPU": (lambda: write_images(photos, DRAWING, stage_path), 1),
        "augment, 2 CPUs": (lambda: write_images(photos, DRAWING, stage_path), 2),
        "decoding alone": (lambda: decode_all(files), 1),
    }
    if len(os.sched_getaffinity(0)) < 2:
        del ways["augment, 2 CPUs"]
    costs: dict[str, list[Cost]] = {name: [] for name in ways}
    for number in range(ROUNDS):
        for name, (work, processors) in ways.items():
            costs[name].append(measure_cost(work, processors))
            # Each starts when the disk has written everything of the one before.
            stage_path.unlink(missing_ok=True)
            loop_path.unlink(missing_ok=True)
            os.sync()
        print(f"round {number + 1}: " + ", ".join(f"{name} {taken[-1].seconds:.2f} s" for name, taken in costs.items()))
    rows = len(files) * len(VARIANTS)
    medians = {name: median_cost(taken) for name, taken in costs.items()}
    loop, floor = medians["tutorial loop"].seconds, medians["decoding alone"].seconds
    print(f"\n| {len(files):,} photos, {rows:,} rows | s | CPU s | rows/s | speedup over the loop | time / floor |")
    print("|---|---|---|---|---|---|")
    for name, (seconds, busy) in medians.items():
        ratios = f"{loop / seconds:.2f} | {seconds / floor:.2f}"
        print(f"| {name} | {seconds:.2f} | {busy:.2f} | {rows / seconds:,.0f} | {ratios} |")


def show_parts(files: Sequence[Path], folder: Path) -> None:
    """Print a breakdown of the time per photo."""
    contents = [file.read_bytes() for file in files]
    least = round(DECODED_TIMES * SIDE)
    prepared = [DRAWING.prepare(content) for content in contents[:100]]
    rotations = [variant for variant in VARIANTS if variant.flip == "none" and variant != ORIGINAL]
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
        return median_cost(measure_cost(work, 1) for _ in range(3)).cpu_seconds / len(files) * 1e6

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
        f"{len(rotations)} rotations": per_photo(lambda: draw_all(rotations, count)),
        f"{half} flips": per_photo(lambda: flip_all(count)),
        "write the rows": per_photo(lambda: write_all(count)),
    }
    whole = per_photo(lambda: [draw_photo_variants(file, DRAWING) for file in files])
    print("\n| one photo | CPU microseconds |")
    print("|---|---|")
    for name, microseconds in parts.items():
        print(f"| {name} | {microseconds:,.0f} |")
    print(f"| sum | {sum(parts.values()):,.0f} |")
    print(f"| all variants, measured together | {whole:,.0f} |")
    processors = len(os.sched_getaffinity(0))
    seconds, busy = median_cost(measure_cost(start_workers, processors) for _ in range(3))
    print(f"\nStarting and stopping {processors} workers once: {seconds:.2f} s, {busy:.2f} CPU seconds.")


def start_workers() -> None:
    with open_worker_pool(1000, "nothing") as pool:
        list(pool.map(abs, range(1000), chunksize=8))


def show_memory() -> None:
    # Not at the top: the workers of the stage import this module, which should be as light for them as the stage.
    from benchmarks.memory import SIZES, acquire_photos, measure_peak

    peaks = {}
    for size in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            peaks[size] = measure_peak(acquire_photos(size, Path(folder)), "python", "-m", "stages.augment")
    small, large = (peaks[size] for size in SIZES)
    print(
        f"\nPeak memory of augment: {small:,.0f} MB at {SIZES[0]:,} rows, {large:,.0f} MB at {SIZES[1]:,} rows, "
        f"a ratio of {large / small:.2f}."
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
