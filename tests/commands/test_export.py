"""Exports of a small model with the real command, converters and runtimes."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import keras
import numpy as np
import onnx
import onnxruntime
import pytest

from commands.export import Format, check_differences, measure_differences
from commands.exporting.preparation import PREPARATION_STEPS
from commands.exporting.runtimes import open_litert, open_onnx
from darkroom.pipeline.dataset import ImageRow, write_rows
from darkroom.pipeline.paths import (
    AUGMENT_IMAGES,
    AUGMENT_INDEX,
    DVC_LOCK,
    EXPORT_LITERT,
    EXPORT_ONNX,
    EXPORT_PREPARATION,
    TRAIN_MODEL,
    subset_rows,
)
from darkroom.pipeline.stage import StageError
from darkroom.serving.classifier import Classifier
from darkroom.tracking.lockfile import read_stages, result_key
from tests.examples import encode, noise
from tests.project import ROOT
from tests.recorded_runs import run_app
from tests.result_workspace import HEIGHT, LABELS, WIDTH, make_model, write_result

pytestmark = pytest.mark.slow

PREPARATION = {"resize": "crop", "resampling": "bicubic", "color": "rgb"}
PHOTOS = 40
DOCUMENT = {
    "image_size": [HEIGHT, WIDTH],
    **PREPARATION,
    "steps": PREPARATION_STEPS,
    "input": {"name": "pixels", "type": "float32", "shape": ["batch", HEIGHT, WIDTH, 3], "range": [0, 255]},
    "output": {"name": "probabilities", "type": "float32", "shape": ["batch", 4]},
    "labels": LABELS,
}


@pytest.fixture(scope="module")
def model() -> keras.Model:
    return make_model(3)


def write_workspace(model: keras.Model) -> None:
    """Write the outputs of a training, and images of which every third is a test photo."""
    write_result(Path(), model, "crop", "bicubic", "rgb")
    images = np.stack([noise(HEIGHT, WIDTH, seed=seed) for seed in range(3 * PHOTOS)])
    AUGMENT_IMAGES.parent.mkdir(parents=True)
    np.save(AUGMENT_IMAGES, images)
    rows = [ImageRow(f"{number}", LABELS[number % 4], 0.0, "none") for number in range(len(images))]
    write_rows(AUGMENT_INDEX, ImageRow, rows)
    subset_rows("test").parent.mkdir(parents=True)
    np.save(subset_rows("test"), np.arange(0, len(images), 3))


def export(*arguments: str) -> int | str:
    """Run the command, and return its exit code, or the error message that it exits with."""
    return run_app("export", *arguments)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, model: keras.Model) -> Path:
    """A workspace after an export in both formats; `printed.txt` has the output of the command."""
    root = tmp_path_factory.mktemp("exported")
    with pytest.MonkeyPatch.context() as patch, (root / "printed.txt").open("w") as printed:
        patch.chdir(root)
        write_workspace(model)
        patch.setattr(sys, "stdout", printed)
        assert export() == 0
    return root


def test_both_formats_give_the_probabilities_of_the_model(exported: Path, model: keras.Model) -> None:
    classifier = Classifier(model, LABELS, PREPARATION)
    pixels = np.stack([classifier.prepare(encode(noise(30, 40, seed=seed))) for seed in range(5)])
    expected = model.predict(pixels, verbose=0)
    assert np.ptp(expected, axis=0).max() > 0.1
    for predict in (open_onnx(exported / EXPORT_ONNX), open_litert(exported / EXPORT_LITERT)):
        for chosen in (slice(5), slice(1), slice(1, 3)):  # batches of several sizes
            np.testing.assert_allclose(predict(pixels[chosen]), expected[chosen], atol=1e-5)


def test_the_files_describe_how_photos_are_prepared(exported: Path) -> None:
    document = DOCUMENT | {"result": result_key(read_stages(exported / DVC_LOCK))}
    assert json.loads((exported / EXPORT_PREPARATION).read_text()) == document
    session = onnxruntime.InferenceSession(exported / EXPORT_ONNX)
    assert json.loads(session.get_modelmeta().custom_metadata_map["preparation"]) == document
    with zipfile.ZipFile(exported / EXPORT_LITERT) as archive:
        assert json.loads(archive.read("preparation.json")) == document


def test_sizes_speeds_and_differences_are_printed(exported: Path) -> None:
    lines = (exported / "printed.txt").read_text().splitlines()
    table = [line.split() for line in lines if line.startswith(("keras", "onnx", "litert"))]
    assert [row[0] for row in table] == ["keras", "onnx", "litert"]
    sizes = [(exported / path).stat().st_size for path in (TRAIN_MODEL, EXPORT_ONNX, EXPORT_LITERT)]
    assert [row[1] for row in table] == [f"{size / 1e6:.2f}" for size in sizes]
    assert all(float(row[2]) > 0 < int(row[3].replace(",", "")) for row in table)
    differences = [float(row[4]) for row in table[1:]]
    assert max(differences) < 1e-5
    assert lines[-1] == (
        f"export: wrote {EXPORT_ONNX}, {EXPORT_LITERT}; probabilities differ from Keras by at most "
        f"{max(differences):.1e} on {PHOTOS} test photos"
    )


def test_the_same_model_gives_the_same_bytes_in_another_process(exported: Path, tmp_path: Path) -> None:
    paths = (EXPORT_ONNX, EXPORT_LITERT, EXPORT_PREPARATION)
    first = {path: (exported / path).read_bytes() for path in paths}
    script = "import sys; sys.path.insert(0, sys.argv[1]); from commands.command_line import APP; APP(['export'])"
    done = subprocess.run(
        [sys.executable, "-c", script, str(ROOT)], cwd=exported, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert {path: (exported / path).read_bytes() for path in paths} == first
    assert str(tmp_path.parent).encode() not in b"".join(first.values())


@pytest.mark.usefixtures("workspace")
def test_a_single_format_can_be_exported(model: keras.Model) -> None:
    write_workspace(model)
    assert export("--format", "onnx", "--format", "onnx") == 0
    assert sorted(path.name for path in EXPORT_ONNX.parent.iterdir()) == ["model.onnx", "preparation.json"]


def test_an_export_with_other_probabilities_is_rejected(exported: Path, model: keras.Model) -> None:
    other = keras.models.clone_model(model)  # with different weights
    pixels = np.stack([noise(HEIGHT, WIDTH, seed=seed) for seed in range(3)])
    opened = {Format.ONNX: open_onnx(exported / EXPORT_ONNX)}
    check_differences(measure_differences(model.predict_on_batch, opened, [pixels]), "3 images")
    differences = measure_differences(other.predict_on_batch, opened, [pixels[:1], pixels[1:]])
    assert differences[Format.ONNX] == pytest.approx(
        np.abs(other.predict(pixels) - model.predict(pixels)).max(), abs=1e-5
    )
    with pytest.raises(StageError, match=r"^the probabilities of the model exported to onnx differ .* on 3 images"):
        check_differences(differences, "3 images")
    with pytest.raises(StageError, match="up to nan"):
        check_differences({Format.ONNX: np.nan}, "3 images")


@pytest.mark.usefixtures("workspace")
@pytest.mark.parametrize("module", ["tf2onnx", "ai_edge_litert"])
def test_without_its_packages_it_names_what_installs_them(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # makes it look as if it were not installed
    assert export() == (
        f"export: exported models need packages that are not installed: {module}; run `make extras`, which installs "
        "requirements-extras.lock"
    )


@pytest.mark.usefixtures("workspace")
def test_without_a_trained_model_the_message_says_what_to_run() -> None:
    assert "`dvc repro`" in str(export())
    assert not EXPORT_ONNX.parent.exists()


@pytest.mark.usefixtures("workspace")
def test_an_export_of_another_result_is_removed(model: keras.Model, capsys: pytest.CaptureFixture[str]) -> None:
    write_workspace(model)
    EXPORT_LITERT.parent.mkdir(parents=True)
    EXPORT_LITERT.write_bytes(b"of an earlier result")
    assert export("--format", "onnx") == 0
    assert f"export: removed {EXPORT_LITERT}, which belonged to another result" in capsys.readouterr().out
    assert not EXPORT_LITERT.exists()
    EXPORT_LITERT.write_bytes(b"of this result")
    assert export("--format", "onnx") == 0
    assert EXPORT_LITERT.exists()
    reworded = json.loads(EXPORT_PREPARATION.read_bytes()) | {"steps": ["worded differently"]}
    EXPORT_PREPARATION.write_text(json.dumps(reworded))
    assert export("--format", "onnx") == 0
    assert EXPORT_LITERT.exists()
    EXPORT_PREPARATION.write_text("[]")
    assert export("--format", "onnx") == 0
    assert not EXPORT_LITERT.exists()


def test_nodes_of_the_graph_are_named_after_their_operation(exported: Path) -> None:
    graph = onnx.load(exported / EXPORT_ONNX).graph
    assert ([value.name for value in graph.input], [value.name for value in graph.output]) == (
        ["pixels"],
        ["probabilities"],
    )
    assert all(node.name == f"{node.op_type}_{index}" for index, node in enumerate(graph.node))
