"""Prediction speed of a recorded model through each interface, compared with `model.predict` on an array.

The network is that of the recipe `guitars_mobilenet` with random weights, which take the same time as trained ones. All
predict 512 JPEG photos of 640x480. The baseline gets them as an array in memory, decoded and resized to 160x160; the
others get files or their bytes and decode them. The first prediction compiles the network and is not measured. Each
time is the median of several rounds, in which the interfaces take turns.

Run as  python -m benchmarks.predict     (about four minutes on two CPUs; needs requirements-extras.lock)
"""

import json
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.evaluate import copy_mobilenet_project
from tests.model_server import serve_model
from tests.project import Project, draw_photos

PHOTOS = 512
SIZE = (640, 480)
MEASUREMENT = """
import base64, json, statistics, sys, time
from functools import partial
from pathlib import Path
import mlflow, numpy as np, pandas as pd, requests
from darkroom.runs.model_loading import choose_model
from darkroom.serving.classifier import MAXIMUM_BYTES
from commands.exporting.runtimes import open_litert, open_onnx
from darkroom.photos.photo_file import read_photo_file

address, store, photos = sys.argv[1:]
files = sorted(Path(photos).iterdir())
mlflow.set_tracking_uri(store)
classifier = choose_model(None).classifier
served = mlflow.pyfunc.load_model("models:/darkroom/1")
onnx, litert = open_onnx(Path("data/export/model.onnx")), open_litert(Path("data/export/model.tflite"))
pixels = np.stack([classifier.prepare(file.read_bytes()) for file in files])

def read_lazily(file):
    return partial(read_photo_file, file, MAXIMUM_BYTES)

def in_batches(predict, chosen):
    return [predict(chosen[start : start + 32]) for start in range(0, len(chosen), 32)]

def request_predictions(chosen):
    rows = [[base64.b64encode(file.read_bytes()).decode()] for file in chosen]
    answer = requests.post(address, json={"dataframe_split": {"columns": ["image"], "data": rows}})
    answer.raise_for_status()
    return answer.json()

def prepare_and_run(runtime, chosen):
    return runtime(np.stack([classifier.prepare(file.read_bytes()) for file in chosen]))

interfaces = {
    "model.predict": lambda indices: classifier.model.predict(pixels[indices], batch_size=32, verbose=0),
    "predict": lambda indices: list(classifier.classify([read_lazily(files[index]) for index in indices])),
    "pyfunc": lambda indices: served.predict(pd.DataFrame({"image": [files[index].read_bytes() for index in indices]})),
    "HTTP": lambda indices: in_batches(request_predictions, [files[index] for index in indices]),
    "ONNX": lambda indices: in_batches(partial(prepare_and_run, onnx), [files[index] for index in indices]),
    "LiteRT": lambda indices: in_batches(partial(prepare_and_run, litert), [files[index] for index in indices]),
}
def measure(count, rounds):
    times = {name: [] for name in interfaces}
    for number in range(rounds + 1):
        for name, predict in interfaces.items():
            start = time.perf_counter()
            predict(np.arange(count))
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(found[1:]) for name, found in times.items()}

print(json.dumps({"all": measure(len(files), 3), "one": measure(1, 30)}))
"""


def draw_jpegs(folder: Path) -> None:
    """Draw smooth images, which JPEG compresses like photos."""
    folder.mkdir()
    random = np.random.default_rng(3)
    for number in range(PHOTOS):
        coarse = Image.fromarray(random.integers(0, 256, (24, 32, 3), np.uint8))
        coarse.resize(SIZE, Image.Resampling.BICUBIC).save(folder / f"{number:03d}.jpg", quality=90)


def prepare(folder: Path) -> Project:
    """Make a project with a recorded and exported model of random weights."""
    draw_photos(folder / "photos", side=160)
    corruptions = dict.fromkeys(("scribbles", "noise", "blur", "rotation", "jpeg"), [])
    project = copy_mobilenet_project(folder, explain__robustness={"photos": 1, **corruptions})
    project.dvc("repro")
    project.run("python", "-m", "commands", "export")
    return project


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        draw_jpegs(folder / "jpegs")
        project = prepare(folder)
        store = f"sqlite:///{project.root}/mlflow.db"
        with serve_model("models:/darkroom/1", store, project.command_environment(), folder) as address:
            done = project.run("python", "-c", MEASUREMENT, address, store, str(folder / "jpegs"))
        times = json.loads(done.stdout.splitlines()[-1])
        files = {"Keras": "train/model.keras", "ONNX": "export/model.onnx", "LiteRT": "export/model.tflite"}
        sizes = {name: (project.root / "data" / file).stat().st_size / 1e6 for name, file in files.items()}

    baseline = {what: found["model.predict"] for what, found in times.items()}
    print(f"{'interface':14}  {'photos/s':>8}  {'ratio':>5}  {'ms for one':>10}  {'ratio':>5}")
    for interface, seconds in times["all"].items():
        one = times["one"][interface]
        rate = f"{PHOTOS / seconds:8.0f}  {baseline['all'] / seconds:5.2f}"
        print(f"{interface:14}  {rate}  {one * 1000:10.1f}  {one / baseline['one']:5.2f}")
    print("sizes: " + ", ".join(f"{name} {size:.2f} MB" for name, size in sizes.items()))


if __name__ == "__main__":
    main()
