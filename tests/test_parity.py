"""All ways to run a model give the same probabilities: commands, page, pyfunc, HTTP server and exports.

The photos are the test subset of a recorded project, and four photos that depend on how a photo is prepared.
"""

import base64
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from importlib import metadata
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import mlflow
import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import requests
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import ExifTags, Image

from commands.command_line import APP
from commands.exporting.runtimes import open_litert, open_onnx
from commands.page.page import classify_photo
from darkroom.pipeline.paths import EXPORT_LITERT, EXPORT_ONNX
from darkroom.runs.model_loading import choose_model
from darkroom.serving.classifier import MAXIMUM_BYTES, Classifier
from tests.examples import bmp_that_claims, encode, noise
from tests.model_server import serve_model
from tests.project import BAD_INPUTS, SHAPES, Project, write_keras_settings

pytestmark = pytest.mark.slow

TOLERANCE = 1e-5
MODEL = "models:/darkroom/2"

# Runs a model in a process that can import nothing but the model's own requirements.
PREDICT_ISOLATED = """
import json, sys
folder, modules, *photos = sys.argv[1:]
allowed = {*json.loads(modules), *sys.stdlib_module_names, "darkroom"}
class Fence:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in allowed and not name.startswith("_sysconfigdata"):
            raise ModuleNotFoundError(f"{name} is not required by the model", name=name)
sys.meta_path.insert(0, Fence())
import mlflow, pandas
predictions = mlflow.pyfunc.load_model(folder).predict(pandas.DataFrame({"path": photos}))
assert sys.modules["darkroom"].__file__.startswith(folder), sys.modules["darkroom"].__file__
print(json.dumps(predictions.probabilities.tolist()))
"""

Probabilities = npt.NDArray[np.float64]


def draw_unusual_photos(folder: Path) -> list[Path]:
    """A photo with an EXIF orientation, a CMYK, a palette and a 16-bit photo, each with bright and dark parts."""
    folder.mkdir()
    pixels = np.asarray(Image.fromarray(noise(6, 9)).resize((90, 60), Image.Resampling.BICUBIC))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    contents = {
        "rotated.jpg": encode(pixels, "JPEG", exif=exif),
        "cmyk.jpg": encode(Image.fromarray(pixels).convert("CMYK"), "JPEG"),
        "palette.png": encode(Image.fromarray(pixels).quantize(16)),
        "deep.png": encode(Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in contents]


@pytest.fixture(scope="module")
def project(recorded_project: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A copy of the recorded project, as the current folder and with its own store, that tests may change."""
    root = tmp_path_factory.mktemp("parity") / "project"
    shutil.copytree(recorded_project.root, root, symlinks=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root}/mlflow.db")
        mlflow.set_tracking_uri(f"sqlite:///{root}/mlflow.db")
        yield Project(root)
    mlflow.set_tracking_uri(None)


@pytest.fixture(scope="module")
def server(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """MLflow's server, started by a user with their own settings of Keras."""
    store = f"sqlite:///{project.root}/mlflow.db"
    folder = tmp_path_factory.mktemp("model-server")
    environment = project.command_environment(**write_keras_settings(folder / "keras"))
    with serve_model(MODEL, store, environment, folder) as address:
        yield address


@pytest.fixture(scope="module")
def exported(project: Project) -> Project:
    with pytest.raises(SystemExit) as exited:
        APP(["export"])
    assert not exited.value.code
    return project


@pytest.fixture(scope="module")
def predictions(project: Project) -> pd.DataFrame:
    """The predictions of evaluate for each test photo."""
    return pd.read_csv(project.root / "data/evaluate/predictions.csv")


@pytest.fixture(scope="module")
def photos(project: Project, predictions: pd.DataFrame) -> list[Path]:
    """The test subset in the order of `predictions`, and after it the unusual photos."""
    table = pd.read_csv(project.root / "data/acquire/photos.csv").set_index("photo")
    tested = [project.root / "data/acquire" / table.file[photo] for photo in predictions.photo]
    return tested + draw_unusual_photos(project.root / "unusual")


@pytest.fixture(scope="module")
def classifier(project: Project) -> Classifier:
    """The model of the last `dvc repro`."""
    assert project.root == Path.cwd()
    return choose_model(None).classifier


@pytest.fixture(scope="module")
def expected(classifier: Classifier, photos: Sequence[Path]) -> Probabilities:
    """The probabilities of that model, (photos, labels), as the reference for all tests."""
    assert classifier.labels == list(SHAPES)
    pixels = np.stack([classifier.prepare(photo.read_bytes()) for photo in photos])
    return classifier.model.predict(pixels, verbose=0).astype(float)


def check_equal(probabilities: Probabilities, expected: Probabilities) -> None:
    assert probabilities.shape == expected.shape
    assert np.abs(probabilities - expected).max() < TOLERANCE


def list_probabilities(rows: Sequence[dict[str, float]]) -> Probabilities:
    return np.array([[row[label] for label in SHAPES] for row in rows])


def test_the_photos_have_different_predictions(expected: Probabilities) -> None:
    assert np.ptp(expected, axis=0).min() > 100 * TOLERANCE
    unusual = expected[-4:]
    differences = np.abs(unusual[:, None] - unusual[None]).max(axis=-1) + np.eye(len(unusual))
    assert differences.min() > 10 * TOLERANCE


def test_evaluate(expected: Probabilities, predictions: pd.DataFrame) -> None:
    probabilities = predictions[[f"p({label})" for label in SHAPES]].to_numpy()
    check_equal(probabilities, expected[: len(predictions)])


@pytest.mark.parametrize("options", [[], ["--run", "@chosen"]])
def test_predict(
    photos: Sequence[Path],
    expected: Probabilities,
    options: Sequence[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    client = mlflow.MlflowClient()
    client.set_registered_model_alias("darkroom", "chosen", "2")
    with pytest.raises(SystemExit) as exited:
        APP(["predict", *map(str, photos), "--json", "--top", "3", *options])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    assert not exited.value.code
    assert [line["photo"] for line in lines] == list(map(str, photos))
    rows = [{entry["label"]: entry["probability"] for entry in line["labels"]} for line in lines]
    check_equal(list_probabilities(rows), expected)


def test_the_page(classifier: Classifier, photos: Sequence[Path], expected: Probabilities) -> None:
    predictions = [classify_photo(classifier, None, photo.read_bytes()).likeliest for photo in photos]
    check_equal(list_probabilities([dict(likeliest) for likeliest in predictions]), expected)


def test_another_run_has_another_model(project: Project, photos: Sequence[Path], expected: Probabilities) -> None:
    first = choose_model(project.runs()[0].info.run_id).classifier
    pixels = np.stack([first.prepare(photo.read_bytes()) for photo in photos])
    assert np.abs(first.model.predict(pixels, verbose=0) - expected).max() > 10 * TOLERANCE


@pytest.mark.parametrize("column", ["image", "path"])
def test_pyfunc_in_process(photos: Sequence[Path], expected: Probabilities, column: str) -> None:
    model = mlflow.pyfunc.load_model(MODEL)
    cells = [photo.read_bytes() if column == "image" else str(photo) for photo in photos]
    predictions = model.predict(pd.DataFrame({column: cells}))
    check_equal(list_probabilities(predictions.probabilities), expected)
    assert list(predictions.label) == [SHAPES[class_id] for class_id in expected.argmax(axis=1)]


@pytest.mark.usefixtures("project")
def test_the_input_example_can_be_classified() -> None:
    model = mlflow.pyfunc.load_model(MODEL)
    (row,) = model.predict(model.input_example).itertuples()
    assert row.label in SHAPES
    assert set(model.metadata.get_input_schema().input_names()) == {"image", "path"}


def test_pyfunc_with_only_its_own_requirements(photos: Sequence[Path], expected: Probabilities, tmp_path: Path) -> None:
    folder = mlflow.artifacts.download_artifacts(artifact_uri=MODEL, dst_path=str(tmp_path / "model"))
    requirements = Path(folder, "requirements.txt").read_text().splitlines()
    assert {requirement.split("==")[0] for requirement in requirements} == {
        *("keras", "tensorflow", "numpy", "pandas", "pi-heif", "pillow", "mlflow")
    }
    modules = sorted(modules_of(requirements))
    assert "dvc" not in modules
    command = [sys.executable, "-c", PREDICT_ISOLATED, folder, json.dumps(modules), *map(str, photos)]
    done = Project(tmp_path).run(*command)
    check_equal(list_probabilities(json.loads(done.stdout.splitlines()[-1])), expected)


def modules_of(requirements: Sequence[str]) -> set[str]:
    """The top-level modules of these requirements and their dependencies."""
    found: set[str] = set()
    waiting = [Requirement(requirement) for requirement in requirements]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name in found or not applies(requirement):
            continue
        found.add(name)
        with suppress(PackageNotFoundError):  # not needed on this system
            waiting += map(Requirement, metadata.requires(name) or [])
    return {
        module
        for module, names in metadata.packages_distributions().items()
        if found & set(map(canonicalize_name, names))
    }


def applies(requirement: Requirement) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": ""})


def as_data_frame(cells: list[str]) -> dict[str, object]:
    return {"dataframe_split": {"columns": ["image"], "data": [[cell] for cell in cells]}}


def as_inputs(cells: list[str]) -> dict[str, object]:
    return {"inputs": {"image": cells}}


@pytest.mark.parametrize("write", [as_data_frame, as_inputs])
def test_http(
    server: str, photos: Sequence[Path], expected: Probabilities, write: Callable[[list[str]], dict[str, object]]
) -> None:
    cells = [base64.b64encode(photo.read_bytes()).decode() for photo in photos]
    response = requests.post(server, json=write(cells), timeout=60)
    response.raise_for_status()
    check_equal(list_probabilities([row["probabilities"] for row in response.json()["predictions"]]), expected)


def test_http_by_path(server: str, photos: Sequence[Path], expected: Probabilities) -> None:
    rows = [{"path": str(photo)} for photo in photos]
    response = requests.post(server, json={"dataframe_records": rows}, timeout=60)
    response.raise_for_status()
    check_equal(list_probabilities([row["probabilities"] for row in response.json()["predictions"]]), expected)


def test_http_gives_a_reason_for_invalid_paths(server: str, photos: Sequence[Path]) -> None:
    """Python takes numbers for file descriptors, which would open files that the server has open."""
    cells: list[object] = [1, True, 1.5, ["a"], {"a": 1}, "", str(photos[0])]
    for _ in range(2):
        response = requests.post(
            server, json={"dataframe_split": {"columns": ["path"], "data": [[c] for c in cells]}}, timeout=60
        )
        reasons = [row["reason"] for row in response.json()["predictions"]]
        expected = [f"expected a path as a string, got {name}" for name in ("int", "bool", "float", "list", "dict")]
        assert reasons == [*expected, "No such file or directory", None]


def test_http_rejects_photos_that_are_too_large_and_classifies_the_next(server: str, photos: Sequence[Path]) -> None:
    contents = [bytes(50_000_000), bmp_that_claims(65535, 65535), photos[0].read_bytes()]
    response = requests.post(
        server, json=as_data_frame([base64.b64encode(each).decode() for each in contents]), timeout=60
    )
    assert [row["reason"] for row in response.json()["predictions"]] == [
        f"larger than allowed: more than {MAXIMUM_BYTES} bytes",
        "claims more than 89478485 pixels",
        None,
    ]


@pytest.mark.skipif(not BAD_INPUTS.is_dir(), reason=f"needs the odd files in {BAD_INPUTS}")
def test_http_classifies_unusual_and_broken_files_or_gives_a_reason(server: str) -> None:
    files = sorted(BAD_INPUTS.iterdir())
    cells = [base64.b64encode(file.read_bytes()).decode() for file in files]
    response = requests.post(server, json=as_data_frame(cells), timeout=60)
    rows = json.loads(response.text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))["predictions"]
    assert len(rows) == len(files)
    assert all((row["label"] in SHAPES) != bool(row["reason"]) for row in rows)
    reasons = {file.name: row["reason"] for file, row in zip(files, rows, strict=True)}
    assert reasons["bomb_65535.jpg"].startswith("claims more than ")
    assert reasons["cmyk.jpg"] is None


@pytest.mark.usefixtures("exported")
@pytest.mark.parametrize(("file", "open_runtime"), [(EXPORT_ONNX, open_onnx), (EXPORT_LITERT, open_litert)])
def test_exports(
    classifier: Classifier,
    photos: Sequence[Path],
    expected: Probabilities,
    file: Path,
    open_runtime: Callable[[Path], Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]],
) -> None:
    predict = open_runtime(file)
    check_equal(predict(np.stack([classifier.prepare(photo.read_bytes()) for photo in photos])).astype(float), expected)
