"""Peak memory of augment and train with 2,000 and with 20,000 images of 100x100, compared with arrays in memory.

The baseline is the approach of tutorials: collect the variants in a list, `np.stack` them, and pass the whole array as
floats to `model.fit`. Both use the same variants, network and batch size, for one epoch. Memory is the proportional set
size (PSS) of a process and its children, sampled every 50 ms; it includes file pages that stay mapped.

Run as  python -m benchmarks.memory     (about ten minutes on two CPUs; needs 15 GB of memory for the baseline)
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from tests.project import Project, copy_project, draw_photos, write_params

VARIANTS = 20
SIZES = (2_000, 20_000)
LABELS = 3
POLL_SECONDS = 0.05

BASELINE_AUGMENT = """
import csv
from pathlib import Path
import numpy as np
from darkroom.photos.images import prepare_image
from darkroom.photos.variants import draw_variants, list_variants
variants = list_variants(range(-30, 30, 6), True, False)
rows = list(csv.DictReader(open("data/acquire/photos.csv")))
images = []
for row in rows:
    photo = prepare_image(Path("data/acquire", row["file"]).read_bytes(), (100, 100), "stretch", "bilinear", "rgb")
    images.extend(draw_variants(photo, variants, "bilinear", "constant"))
np.save("baseline.npy", np.stack(images))
"""
BASELINE_TRAIN = """
import csv
import keras, numpy as np
from darkroom.training.networks import build_network
from darkroom.params.section import read_params
from darkroom.params.train import TrainParams
images = np.load("data/augment/images.npy").astype("float32")
labels = [row["label"] for row in csv.DictReader(open("data/augment/images.csv"))]
targets = np.unique(labels, return_inverse=True)[1]
rows = np.load("data/split/train.npy")
network = build_network(read_params("train", TrainParams), images.shape[1:], 3, [keras.layers.Rescaling(1 / 255)]).model
network.compile("adam", "sparse_categorical_crossentropy")
network.fit(images[rows], targets[rows], batch_size=32, epochs=1, verbose=0)
"""


def measure_peak(project: Project, *command: str) -> float:
    """Run a command in the project; return the peak memory of it and its children, in megabytes."""
    started = psutil.Popen(command, cwd=project.root, env=project.command_environment(), stdout=subprocess.DEVNULL)
    peak = 0.0
    while started.poll() is None:
        peak = max(peak, sum(proportional_memory(process) for process in list_processes(started)))
        time.sleep(POLL_SECONDS)
    if started.returncode:
        sys.exit(f"{' '.join(command)} failed")
    return peak / 1e6


def list_processes(process: psutil.Popen) -> list[psutil.Process]:
    try:
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def proportional_memory(process: psutil.Process) -> float:
    try:
        return float(process.memory_full_info().pss)
    except psutil.Error:
        return 0.0


def acquire_photos(images: int, folder: Path) -> Project:
    """Make a project with photos for this number of images, and run acquire in it."""
    draw_photos(folder / "photos", images // VARIANTS // LABELS + 1, side=120)
    project = copy_project(folder / "project")
    write_params("guitars_six", project.root / "params.yaml")
    project.set_params(
        acquire__folder=str(folder / "photos"), acquire__classes={}, acquire__photos_per_class=None, train__epochs=1
    )
    project.run("python", "-m", "stages.acquire")
    return project


def measure(images: int, folder: Path) -> dict[str, float]:
    project = acquire_photos(images, folder)
    stage = ("python", "-m")
    augment = measure_peak(project, *stage, "stages.augment")
    project.run(*stage, "stages.split")
    return {
        "augment": augment,
        "train": measure_peak(project, *stage, "stages.train"),
        "augment, baseline": measure_peak(project, "python", "-c", BASELINE_AUGMENT),
        "train, baseline": measure_peak(project, "python", "-c", BASELINE_TRAIN),
    }


def main() -> None:
    peaks = {}
    for size in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            peaks[size] = measure(size, Path(folder))
    small, large = (peaks[size] for size in SIZES)
    print("| peak memory | 2,000 images | 20,000 images | ratio |")
    print("|---|---|---|---|")
    for name in small:
        print(f"| {name} | {small[name]:,.0f} MB | {large[name]:,.0f} MB | {large[name] / small[name]:.2f} |")


if __name__ == "__main__":
    main()
