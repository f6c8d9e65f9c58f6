"""Duration of evaluate and explain on 2,000 test photos of 160x160, compared with `model.predict` on an array.

The network is that of the recipe `guitars_mobilenet` with random weights, which take the same time as trained ones. The
baseline predicts the same photos from an array in memory, after a warm-up. The time of a stage is that of its `main`,
from reading the params to the last output, without starting the process. evaluate also predicts the validation subset,
and explain predicts `explain.robustness.photos` photos once per level of each corruption.

Run as  python -m benchmarks.evaluate     (about three minutes on two CPUs)
"""

import json
import tempfile
from pathlib import Path

from darkroom.params.section import read_document
from tests.project import Project, copy_project, draw_photos, write_params

ROUNDS = 3
PHOTOS_PER_CLASS = 1000
TEST_FRACTION, VALIDATION_FRACTION = 2 / 3, 0.15
BASELINE = """
import json, time
import keras, numpy as np
from darkroom.models.backend import make_deterministic
make_deterministic(0, 2)
model = keras.models.load_model("data/train/model.keras", compile=False)
images = np.load("data/augment/images.npy")[np.load("data/split/test.npy")]
model.predict(images, batch_size=256, verbose=0)
start = time.perf_counter()
model.predict(images, batch_size=256, verbose=0)
print(json.dumps([len(images), time.perf_counter() - start]))
"""
STAGE = """
import time
from stages.{stage} import main
start = time.perf_counter()
main()
print(time.perf_counter() - start)
"""


def prepare(folder: Path) -> Project:
    """Make a project with a network of random weights and 2,000 test photos."""
    draw_photos(folder / "photos", PHOTOS_PER_CLASS, side=160)
    project = copy_mobilenet_project(
        folder,
        split__test_fraction=TEST_FRACTION,
        split__validation_fraction=VALIDATION_FRACTION,
        split__near_duplicate_similarity=None,
        train__learning_rate=1e-9,
    )
    for stage in ("acquire", "augment", "split", "train"):
        project.run("python", "-m", f"stages.{stage}", MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    return project


def copy_mobilenet_project(folder: Path, **changes: object) -> Project:
    """Copy this project for the photos in `folder`, with the recipe's network, random weights and one epoch."""
    project = copy_project(folder / "project")
    write_params("guitars_mobilenet", project.root / "params.yaml")
    project.set_params(
        acquire__folder=str(folder / "photos"),
        acquire__classes={},
        acquire__photos_per_class=None,
        train__epochs=1,
        **random_weights(project),
        **changes,
    )
    return project


def random_weights(project: Project) -> dict[str, object]:
    backbone = read_document(project.root / "params.yaml")["train"]["backbone"]
    changes = {"weights": "none", "frozen_layers": 0, "frozen_batch_normalization": False}
    return {"train__backbone": backbone | changes | {"fine_tuning": backbone["fine_tuning"] | {"epochs": 0}}}


def measure(project: Project) -> dict[str, float]:
    """Measure the seconds of the baseline and of each stage."""
    _, predict = json.loads(project.run("python", "-c", BASELINE).stdout)
    seconds = {"model.predict on the array": float(predict)}
    for stage in ("evaluate", "explain"):
        printed = project.run("python", "-c", STAGE.format(stage=stage)).stdout
        seconds[stage] = float(printed.splitlines()[-1])
    return seconds


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        project = prepare(Path(folder))
        photos, _ = json.loads(project.run("python", "-c", BASELINE).stdout)
        rounds = [measure(project) for _ in range(ROUNDS)]
        explain = read_document(project.root / "params.yaml")["explain"]["robustness"]
    levels = sum(len(value) for value in explain.values() if isinstance(value, list))
    print(f"{photos} test photos; explain predicts {explain['photos']} of them at {levels} levels")
    print("| | seconds | relative to model.predict |")
    print("|---|---|---|")
    medians = {name: sorted(seconds[name] for seconds in rounds)[ROUNDS // 2] for name in rounds[0]}
    for name, seconds in medians.items():
        print(f"| {name} | {seconds:.1f} | {seconds / medians['model.predict on the array']:.2f} |")


if __name__ == "__main__":
    main()
