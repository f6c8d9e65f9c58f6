import json
import zipfile
from pathlib import Path
from typing import Any, get_args

import keras
import numpy as np
import pytest
from PIL import Image
from ruamel.yaml import YAML

from stages.lib.dataset import ImageRow, write_rows
from stages.lib.files import read_table
from stages.lib.modelfile import load_model
from stages.lib.params import Normalization
from stages.lib.paths import AUGMENT_IMAGES, AUGMENT_INDEX, TRAIN_MODEL, subset_rows
from stages.lib.training import CURVES, Trained
from stages.train import list_examples, live_params, summarize_training
from tests.project import ROOT, Project

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


NORMALIZATIONS = get_args(Normalization)
# The params of each training that is not "plain"; they are trained in this order.
TRAININGS: dict[str, dict[str, Any]] = {
    "augmented": {"augmentation": ALL_ON, "normalization": "featurewise"},
    "augmented again": {"augmentation": ALL_ON, "normalization": "featurewise"},
    "augmented with another seed": {"augmentation": ALL_ON, "normalization": "featurewise", "seed": 7},
    **{name: {"normalization": name} for name in NORMALIZATIONS},
    "refused": {"normalization": "zca", "zca": {"epsilon": 0.001, "maximum_megabytes": 0.1}},
}
# Importing TensorFlow takes ten seconds, and its threads can be set once only: one process trains all.
DRIVER = """
import json, shutil, sys
from pathlib import Path
import keras
from stages.lib.stage import StageError
from stages.train import main
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


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the stage wrote, a folder per training: sixty bright and dark pictures, each stored unturned and turned."""
    root = tmp_path_factory.mktemp("train")
    random = np.random.default_rng(4)
    names = [f"{label}-{number:02d}" for label in ("bright", "dark") for number in range(30)]
    index = [ImageRow(name, name.split("-")[0], degrees, "none") for name in names for degrees in (0.0, 90.0)]
    shades = np.array([150 if row.label == "bright" else 0 for row in index])[:, None, None, None]
    (root / AUGMENT_IMAGES).parent.mkdir(parents=True)
    images = (random.integers(0, 100, (120, 12, 12, 3)) + shades).astype(np.uint8)
    write_rows(root / AUGMENT_INDEX, ImageRow, index)
    (root / subset_rows("train")).parent.mkdir(parents=True)
    held_out = [number for number in range(0, 120, 2) if number % 5 == 0]
    images[held_out] //= 2  # the training subset must be normalized by itself
    np.save(root / AUGMENT_IMAGES, images)
    np.save(root / subset_rows("train"), np.array([row for row in range(120) if row // 2 * 2 not in held_out]))
    np.save(root / subset_rows("validation"), np.array(held_out))
    yaml = YAML()
    for folder in ("params", "trained"):
        (root / folder).mkdir()
    for number, (name, changes) in enumerate(TRAININGS.items()):
        params = yaml.load(ROOT / "recipes/digits.yaml")
        params["train"] |= {"epochs": 2} | changes
        yaml.dump(params, root / "params" / f"{number:02d} {name}.yaml")
    # Nobody answers there, which takes less time than a new database; a training goes on without.
    Project(root).run("python", "-c", DRIVER, PYTHONPATH=str(ROOT), MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    return root / "trained"


def read_model(folder: Path) -> bytes:
    return (folder / TRAIN_MODEL.name).read_bytes()


def pixels(trained: Path) -> np.ndarray:
    images: np.ndarray = np.load(trained.parent / AUGMENT_IMAGES)
    return images


def test_the_stage_writes_its_outputs(trained: Path) -> None:
    folder = trained / "rescale"
    assert sorted(path.name for path in folder.iterdir()) == [
        "history.csv",
        "labels.json",
        "model.keras",
        "normalization.png",
        "preview.png",
        "train.json",
    ]
    assert [row["epoch"] for row in read_table(folder / "history.csv", ("epoch", *CURVES))] == ["1", "2"]
    assert load_model(folder / "model.keras").predict(pixels(trained)[:3], verbose=0).shape == (3, 2)
    assert Image.open(folder / "preview.png").width > 2 * Image.open(folder / "normalization.png").width


def test_a_training_with_everything_at_random_is_the_same_to_the_byte(trained: Path) -> None:
    first, again, other = (trained / f"augmented{which}" for which in ("", " again", " with another seed"))
    for file in first.iterdir():
        assert (again / file.name).read_bytes() == file.read_bytes()
    assert read_model(other) != read_model(first)
    assert (other / "preview.png").read_bytes() != (first / "preview.png").read_bytes()


def test_augmentation_changes_the_training_and_is_no_part_of_the_model(trained: Path) -> None:
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


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_every_normalization_trains_and_is_saved(trained: Path, normalization: str) -> None:
    # The network's alone: whatever the normalization holds is not counted.
    assert json.loads((trained / normalization / "train.json").read_bytes())["parameters"] == 99_874
    probabilities = load_model(trained / normalization / TRAIN_MODEL.name).predict(pixels(trained)[:4], verbose=0)
    assert np.isfinite(probabilities).all()


def test_a_normalization_is_fitted_on_the_training_subset_alone(trained: Path) -> None:
    rows = np.load(trained.parent / subset_rows("train"))
    first = load_model(trained / "featurewise" / TRAIN_MODEL.name).layers[0]
    np.testing.assert_allclose(first.get_config()["mean"], pixels(trained)[rows].mean(axis=(0, 1, 2)))


def test_the_picture_of_a_normalization_shows_what_it_does(trained: Path) -> None:
    pictures = {(trained / name / "normalization.png").read_bytes() for name in NORMALIZATIONS}
    assert len(pictures) == len(NORMALIZATIONS)


def test_a_normalization_that_does_not_fit_is_refused(trained: Path) -> None:
    assert "train.zca.maximum_megabytes" in (trained / "error").read_text()
    assert not (trained / "refused").exists()


def test_examples_are_originals_of_the_training_subset_of_every_label() -> None:
    index = [
        ImageRow(f"{label}{number}", label, degrees, "none")
        for label in "ab"
        for number in range(5)
        for degrees in (0, 9)
    ]
    chosen = list_examples(index, np.array([1, 2, 3, 4, 5, 10, 11, 14]))
    assert chosen == [2, 4, 10, 14]


def test_the_summary_names_the_epoch_that_the_monitored_figure_calls_best() -> None:
    network = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2), keras.layers.Dense(5)])
    curves = {"loss": [3.0, 2.0, 1.0], "accuracy": [0.1, 0.2, 0.3]}
    curves |= {"val_loss": [3.0, 1.5, 2.0], "val_accuracy": [0.1, 0.5, 0.5]}
    summary = summarize_training(Trained(network, network.layers[:1], curves), "val_loss")
    assert json.loads(json.dumps(summary)) == {
        "epochs_run": 3,
        "best_epoch": 2,
        "best_val_loss": 1.5,
        "best_val_accuracy": 0.5,
        "parameters": 15,
    }
    assert summarize_training(Trained(network, [], curves), "val_accuracy")["best_epoch"] == 2


def test_a_live_run_knows_what_the_earlier_stages_ran_with_and_its_own_params() -> None:
    stages = {name: {"params": {"params.yaml": {name: {"size": 3}}}} for name in ("acquire", "train", "evaluate")}
    assert live_params(stages, {"epochs": 4}) == {"acquire.size": "3", "train.epochs": "4"}
