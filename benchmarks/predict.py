"""How fast a recorded model tells photos on each of its paths, against `model.predict` on ready arrays.

The network is that of the recipe `guitars_mobilenet` with random weights, which cost the same as trained ones. 512 JPEG
photos of 640x480 are asked about. The peer gets them as an array in memory, decoded and at the network's 160x160; all
others get files or their bytes, and decode them. Times are of a process, or a server, that has answered before: the
first answer compiles the network. Each is the median of several rounds, in which the paths take turns.

Run as  python -m benchmarks.predict     (about four minutes on two processors; needs requirements-extras.lock)
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
ASK = """
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
ready = np.stack([classifier.prepare(file.read_bytes()) for file in files])

def read_lazily(file):
    return partial(read_photo_file, file, MAXIMUM_BYTES)

def in_batches(ask, chosen):
    return [ask(chosen[start : start + 32]) for start in range(0, len(chosen), 32)]

def ask_server(chosen):
    rows = [[base64.b64encode(file.read_bytes()).decode()] for file in chosen]
    answer = requests.post(address, json={"dataframe_split": {"columns": ["image"], "data": rows}})
    answer.raise_for_status()
    return answer.json()

def prepared(runtime, chosen):
    return runtime(np.stack([classifier.prepare(file.read_bytes()) for file in chosen]))

ways = {
    "model.predict": lambda places: classifier.model.predict(ready[places], batch_size=32, verbose=0),
    "predict": lambda places: list(classifier.ask([read_lazily(files[place]) for place in places])),
    "pyfunc": lambda places: served.predict(pd.DataFrame({"image": [files[place].read_bytes() for place in places]})),
    "HTTP": lambda places: in_batches(ask_server, [files[place] for place in places]),
    "ONNX": lambda places: in_batches(partial(prepared, onnx), [files[place] for place in places]),
    "LiteRT": lambda places: in_batches(partial(prepared, litert), [files[place] for place in places]),
}
def measure(count, rounds):
    times = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, ask in ways.items():
            start = time.perf_counter()
            ask(np.arange(count))
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(found[1:]) for name, found in times.items()}

print(json.dumps({"all": measure(len(files), 3), "one": measure(1, 30)}))
"""


def draw_jpegs(folder: Path) -> None:
    """Draw smooth pictures, which JPEG packs as it does photos."""
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
        draw_jpegs(folder / "asked")
        project = prepare(folder)
        store = f"sqlite:///{project.root}/mlflow.db"
        with serve_model("models:/darkroom/1", store, project.command_environment(), folder) as address:
            done = project.run("python", "-c", ASK, address, store, str(folder / "asked"))
        times = json.loads(done.stdout.splitlines()[-1])
        files = {"Keras": "train/model.keras", "ONNX": "export/model.onnx", "LiteRT": "export/model.tflite"}
        sizes = {name: (project.root / "data" / file).stat().st_size / 1e6 for name, file in files.items()}

    peer = {what: found["model.predict"] for what, found in times.items()}
    print(f"{'path':14}  {'photos/s':>8}  {'ratio':>5}  {'ms for one':>10}  {'ratio':>5}")
    for way, seconds in times["all"].items():
        one = times["one"][way]
        rate = f"{PHOTOS / seconds:8.0f}  {peer['all'] / seconds:5.2f}"
        print(f"{way:14}  {rate}  {one * 1000:10.1f}  {one / peer['one']:5.2f}")
    print("sizes: " + ", ".join(f"{name} {size:.2f} MB" for name, size in sizes.items()))


if __name__ == "__main__":
    main()
