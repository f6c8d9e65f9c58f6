import json
import re
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest

from darkroom.models.model_file import check_model, load_model, number_shared_objects, save_model
from darkroom.pipeline.stage import StageError
from darkroom.training.networks import build_network
from tests.examples import train_params

pytestmark = pytest.mark.slow


def make_network() -> keras.Model:
    keras.utils.clear_session()  # layers are named by counting from the start of a session
    keras.utils.set_random_seed(9)
    params = train_params(network="keras_cifar10_cnn")
    return build_network(params, (12, 12, 3), 4, [keras.layers.Rescaling(1 / 255)]).model


def test_equal_models_give_equal_bytes(workspace: Path) -> None:
    save_model(make_network(), workspace / "one.keras")
    save_model(make_network(), workspace / "two.keras")
    assert (workspace / "one.keras").read_bytes() == (workspace / "two.keras").read_bytes()
    assert sorted(path.name for path in workspace.iterdir()) == ["one.keras", "two.keras"]


def test_a_saved_model_predicts_as_before_and_has_no_optimizer(workspace: Path) -> None:
    network = make_network()
    images = np.random.default_rng(0).integers(0, 256, (5, 12, 12, 3), np.uint8)
    expected = network.predict(images, verbose=0)
    save_model(network, workspace / "model.keras")

    loaded = load_model(workspace / "model.keras")

    np.testing.assert_array_equal(loaded.predict(images, verbose=0), expected)
    weights = sum(weight.size for weight in network.get_weights()) * 4
    assert (workspace / "model.keras").stat().st_size < 1.3 * weights


def test_the_file_contains_no_current_time(workspace: Path) -> None:
    save_model(make_network(), workspace / "model.keras")
    with zipfile.ZipFile(workspace / "model.keras") as file:
        assert {member.date_time for member in file.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert json.loads(file.read("metadata.json"))["date_saved"] == "1980-01-01@00:00:00"


def test_shared_objects_are_numbered_in_order_of_appearance() -> None:
    document = {"a": {"shared_object_id": 991}, "b": [{"shared_object_id": 17}, {"shared_object_id": 991}]}
    number_shared_objects(document, {})
    assert document == {"a": {"shared_object_id": 0}, "b": [{"shared_object_id": 1}, {"shared_object_id": 0}]}


@pytest.mark.parametrize("content", [None, b"", b"no zip file", b"PK\x03\x04 cut"])
def test_files_that_are_not_models_are_rejected_with_advice(workspace: Path, content: bytes | None) -> None:
    if content is not None:
        (workspace / "model.keras").write_bytes(content)
    with pytest.raises(StageError, match=r"model\.keras: cannot be loaded as a Keras model .*dvc repro --force"):
        load_model(workspace / "model.keras")


def test_a_model_that_contains_code_is_rejected(workspace: Path) -> None:
    keras.Sequential([keras.Input((2,)), keras.layers.Lambda(lambda x: x + 1)]).save(workspace / "model.keras")
    with pytest.raises(StageError, match="cannot be loaded"):
        load_model(workspace / "model.keras")


def test_a_model_for_the_images_and_labels_is_accepted(workspace: Path) -> None:
    save_model(make_network(), workspace / "model.keras")
    check_model(load_model(workspace / "model.keras"), workspace / "model.keras", (12, 12, 3), 4)


@pytest.mark.parametrize(
    ("image_shape", "classes", "expected"),
    [
        ((12, 16, 3), 4, "images (None, 12, 16, 3) to probabilities (None, 4)"),
        ((16, 12, 3), 4, "images (None, 16, 12, 3) to probabilities (None, 4)"),
        ((12, 12, 1), 4, "images (None, 12, 12, 1) to probabilities (None, 4)"),
        ((12, 12, 3), 5, "images (None, 12, 12, 3) to probabilities (None, 5)"),
    ],
)
def test_a_model_for_other_images_or_labels_is_rejected_with_its_shapes(
    image_shape: tuple[int, int, int], classes: int, expected: str
) -> None:
    message = (
        f"data/train/model.keras: expected a model from {expected}, to match the images and labels in data/, "
        "got (None, 12, 12, 3) to (None, 4); `dvc repro` trains a matching one"
    )
    with pytest.raises(StageError, match=f"^{re.escape(message)}$"):
        check_model(make_network(), Path("data/train/model.keras"), image_shape, classes)
