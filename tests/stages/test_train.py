import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from PIL import Image
from ruamel.yaml import YAML

from darkroom.models.backend import find_device
from darkroom.models.model_file import load_model
from darkroom.pipeline.dataset import ImageRow, write_rows
from darkroom.pipeline.files import read_table
from darkroom.pipeline.paths import AUGMENT_IMAGES, AUGMENT_INDEX, TRAIN_MODEL, subset_rows
from darkroom.training.checkpoint import CURVES
from darkroom.training.networks import BuiltNetwork
from darkroom.training.precision import ChosenPrecision
from darkroom.training.training import TrainingResult
from stages.train import live_params, summarize_training
from tests.examples import change
from tests.project import ROOT, Project, read_recipe

pytestmark = pytest.mark.slow

ALL_ON = {
    "rotation_range": 20,
    "width_shift_range": 0.1,
    "height_shift_range": 0.1,
    "shear_range": 10,
    "zoom_range": 0.1,
    "channel_shift_range": 20,
    "horizontal_flip": True,
    "vertical_flip": True,
    "fill_mode": "reflect",
}
TUNED = {
    "mixup_alpha": 0.2,
    "label_smoothing": 0.1,
    "class_weights": "balanced",
    "steps_per_epoch": 3,
    "optimizer": "sgd",
    "momentum": 0.9,
    "nesterov": True,
    "schedule": {"name": "cosine", "warmup_epochs": 1},
}
TRANSFER: dict[str, Any] = {
    "network": "mobilenet_v2",
    "cnn": {"filters": None},
    # The fixture writes this file and adds its digest.
    "backbone": {"weights": "x.weights.h5", "alpha": 0.35, "dense_units": [8]},
}

FEATUREWISE = TUNED | {"normalization": "featurewise"}
AUGMENTED = FEATUREWISE | {"augmentation": ALL_ON}
SMALL: dict[str, Any] = {"network": "keras_mnist_cnn", "cnn": {"filters": [4, 4]}, "epochs": 2}
# The changes to SMALL of each training, in the order in which they run.
TRAININGS: dict[str, dict[str, Any]] = {
    "augmented": AUGMENTED,
    "augmented again": AUGMENTED,
    "augmented with another seed": AUGMENTED | {"seed": 7},
    "featurewise": FEATUREWISE,
    "zca": {"normalization": "zca"},
    "rejected": {"normalization": "zca", "zca": {"maximum_megabytes": 0.1}},
}
# It needs larger images.
LARGE_TRAININGS: dict[str, dict[str, Any]] = {"transfer": TRANSFER, "transfer again": TRANSFER}
# Importing TensorFlow takes ten seconds, and its threads can be set only once, so one process runs all trainings.
DRIVER = """
import gc, os, shutil, sys
from pathlib import Path
import keras
from darkroom.pipeline.stage import StageError
from stages.train import main
gc.freeze()  # keep the garbage collector off what was imported
for folder in sys.argv[1:]:
    os.chdir(folder)
    for params in sorted(Path("params").iterdir()):
        shutil.copy(params, "params.yaml")
        keras.utils.clear_session()
        try:
            main()
            Path("metrics/train.json").rename("data/train/train.json")
            Path("data/train").rename(Path("trained", params.stem.partition(" ")[2]))
        except StageError as error:
            Path("trained/error").write_text(str(error))
"""


def write_data(root: Path, side: int) -> None:
    """Write sixty bright and dark images, each stored unrotated and rotated, as the earlier stages do."""
    random = np.random.default_rng(4)
    names = [f"{label}-{number:02d}" for label in ("bright", "dark") for number in range(30)]
    index = [ImageRow(name, name.split("-")[0], degrees, "none") for name in names for degrees in (0.0, 90.0)]
    shades = np.array([150 if row.label == "bright" else 0 for row in index])[:, None, None, None]
    (root / AUGMENT_IMAGES).parent.mkdir(parents=True)
    images = (random.integers(0, 100, (120, side, side, 3)) + shades).astype(np.uint8)
    write_rows(root / AUGMENT_INDEX, ImageRow, index)
    (root / subset_rows("train")).parent.mkdir(parents=True)
    held_out = [number for number in range(0, 120, 2) if number % 5 == 0]
    images[held_out] //= 2  # the training subset must be normalized by itself
    np.save(root / AUGMENT_IMAGES, images)
    np.save(root / subset_rows("train"), np.array([row for row in range(120) if row // 2 * 2 not in held_out]))
    np.save(root / subset_rows("validation"), np.array(held_out))


def write_trainings(root: Path, trainings: dict[str, dict[str, Any]]) -> None:
    yaml = YAML()
    for folder in ("params", "trained"):
        (root / folder).mkdir()
    for number, (name, changes) in enumerate(trainings.items()):
        params = read_recipe("digits")
        params["train"] = change(params["train"], SMALL | changes)
        yaml.dump(params, root / "params" / f"{number:02d} {name}.yaml")


def write_weights(file: Path) -> str:
    """Write random weights of the backbone; return their digest."""
    keras.utils.set_random_seed(2)
    keras.applications.MobileNetV2((32, 32, 3), alpha=0.35, include_top=False, weights=None).save_weights(file)
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which all trainings have run: on small images here, on large ones in the folder large."""
    root = tmp_path_factory.mktemp("train")
    large = root / "large"
    write_data(root, 12)
    write_data(large, 32)
    write_trainings(root, TRAININGS)
    TRANSFER["backbone"] |= {"weights_sha256": write_weights(large / "x.weights.h5")}
    write_trainings(large, LARGE_TRAININGS)
    # No server answers there. This is faster than creating a database, and training continues without MLflow.
    done = Project(root).run(
        "python", "-c", DRIVER, str(root), str(large), PYTHONPATH=str(ROOT), MLFLOW_TRACKING_URI="http://127.0.0.1:9"
    )
    (large / "printed").write_text(done.stdout)
    return root


@pytest.fixture
def trained(root: Path) -> Path:
    """The outputs for small images, a folder per training."""
    return root / "trained"


@pytest.fixture
def large(root: Path) -> Path:
    return root / "large"


def read_model(folder: Path) -> bytes:
    return (folder / TRAIN_MODEL.name).read_bytes()


def pixels(trained: Path) -> np.ndarray:
    images: np.ndarray = np.load(trained.parent / AUGMENT_IMAGES)
    return images


def test_the_stage_writes_its_outputs(trained: Path) -> None:
    folder = trained / "zca"
    assert sorted(path.name for path in folder.iterdir()) == [
        "environment.json",
        "history.csv",
        "labels.json",
        "model.keras",
        "normalization.png",
        "preview.png",
        "train.json",
    ]
    environment = json.loads((folder / "environment.json").read_bytes())
    assert environment["precision"]["requested"] == "auto"
    assert environment["precision"]["used"] == json.loads((folder / "train.json").read_bytes())["precision"]
    assert environment["threads"] == {"requested": 2, "used": 2}
    assert environment["deterministic"] == {"requested": True, "reached": True}
    assert [row["epoch"] for row in read_table(folder / "history.csv", ("epoch", *CURVES))] == ["1", "2"]
    assert load_model(folder / "model.keras").predict(pixels(trained)[:3], verbose=0).shape == (3, 2)
    assert Image.open(folder / "preview.png").width > 2 * Image.open(folder / "normalization.png").width


def test_a_training_with_all_augmentations_is_deterministic(trained: Path) -> None:
    first, again, other = (trained / f"augmented{which}" for which in ("", " again", " with another seed"))
    for file in first.iterdir():
        assert (again / file.name).read_bytes() == file.read_bytes()
    assert read_model(other) != read_model(first)
    assert (other / "preview.png").read_bytes() != (first / "preview.png").read_bytes()


def test_a_transfer_caches_features_and_trains_the_head(large: Path) -> None:
    printed = (large / "printed").read_text()
    cached = [path.stem for path in (large / ".cache/features").glob("*.npy")]
    assert len(cached) == 1
    assert printed.count(f"computed and cached at {large}/.cache/features/{cached[0]}.npy") == 1
    assert printed.count(f"found in the cache at {large}/.cache/features/{cached[0]}.npy") == 1
    assert read_model(large / "trained/transfer again") == read_model(large / "trained/transfer")
    # A head of eight units on 1280 features, with two outputs.
    summary = json.loads((large / "trained/transfer/train.json").read_bytes())
    assert summary["trainable_parameters"] == 1280 * 8 + 8 + 8 * 2 + 2
    assert summary["parameters"] == 410_208 + summary["trainable_parameters"]


def test_the_model_of_a_transfer_includes_the_backbone(large: Path) -> None:
    model = load_model(large / "trained/transfer" / TRAIN_MODEL.name)
    rows = np.load(large / subset_rows("validation"))
    index = read_table(large / AUGMENT_INDEX, ImageRow._fields)
    class_ids = [("bright", "dark").index(index[row]["label"]) for row in rows]
    probabilities = model.predict(np.load(large / AUGMENT_IMAGES)[rows], verbose=0)
    loss = -np.log(probabilities[np.arange(len(rows)), class_ids]).mean()
    summary = json.loads((large / "trained/transfer/train.json").read_bytes())
    assert loss == pytest.approx(summary["best_val_loss"], rel=1e-4)


def test_augmentation_changes_the_training_and_is_not_part_of_the_model(trained: Path) -> None:
    assert read_model(trained / "augmented") != read_model(trained / "featurewise")
    configs = [
        json.loads(zipfile.ZipFile(trained / name / TRAIN_MODEL.name).read("config.json"))
        for name in ("augmented", "featurewise")
    ]
    assert configs[0] == configs[1]
    model = load_model(trained / "augmented" / TRAIN_MODEL.name)
    np.testing.assert_array_equal(
        np.asarray(model(pixels(trained)[:4])), np.asarray(model(pixels(trained)[:4], training=False))
    )


def test_a_normalization_is_saved_and_not_counted(trained: Path) -> None:
    # Only the parameters of the network, not those of the normalization.
    assert json.loads((trained / "zca" / "train.json").read_bytes())["parameters"] == 8_838
    probabilities = load_model(trained / "zca" / TRAIN_MODEL.name).predict(pixels(trained)[:4], verbose=0)
    assert np.isfinite(probabilities).all()


def test_a_normalization_is_fitted_only_on_the_training_subset(trained: Path) -> None:
    rows = np.load(trained.parent / subset_rows("train"))
    first = load_model(trained / "featurewise" / TRAIN_MODEL.name).layers[1]
    np.testing.assert_allclose(first.get_config()["mean"], pixels(trained)[rows].mean(axis=(0, 1, 2)))


def test_the_plot_of_a_normalization_shows_its_effect(trained: Path) -> None:
    plots = {(trained / name / "normalization.png").read_bytes() for name in ("featurewise", "zca")}
    assert len(plots) == 2


def test_a_normalization_that_needs_too_much_memory_is_an_error(trained: Path) -> None:
    assert "train.zca.maximum_megabytes" in (trained / "error").read_text()
    assert not (trained / "rejected").exists()


def test_the_summary_has_the_best_epoch_of_the_monitored_metric() -> None:
    dense = keras.layers.Dense
    model = keras.Sequential([keras.Input((3,)), dense(2), dense(5, trainable=False), dense(1)])
    curves = {"loss": [3.0, 2.0, 1.0], "accuracy": [0.1, 0.2, 0.3]}
    curves |= {"val_loss": [3.0, 1.5, 2.0], "val_accuracy": [0.1, 0.5, 0.5]}
    normalization = model.layers[:1]
    normalization[0].trainable = False
    precision = ChosenPrecision("float32", "as asked for")
    summary = summarize_training(TrainingResult(BuiltNetwork(model, normalization), curves, precision), "val_loss")
    assert json.loads(json.dumps(summary)) == {
        "epochs_run": 3,
        "best_epoch": 2,
        "best_val_loss": 1.5,
        "best_val_accuracy": 0.5,
        "parameters": 15 + 6,
        "trainable_parameters": 6,
        "device": find_device().name,
        "precision": "float32",
    }
    assert (
        summarize_training(TrainingResult(BuiltNetwork(model, []), curves, precision), "val_accuracy")["best_epoch"]
        == 2
    )


def test_a_live_run_has_the_params_of_the_earlier_stages_and_its_own() -> None:
    stages = {name: {"params": {"params.yaml": {name: {"size": 3}}}} for name in ("acquire", "train", "evaluate")}
    assert live_params(stages, {"epochs": 4}) == {"acquire.size": "3", "train.epochs": "4"}
