"""The model that MLflow serves, in this process; tests/test_parity.py asks it through MLflow's server."""

import base64
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PythonModelContext

from darkroom.models.model_file import save_model
from darkroom.photos.images import prepare_image
from darkroom.pipeline.dataset import write_labels
from darkroom.pipeline.files import write_json
from darkroom.serving.classifier import MAXIMUM_BYTES
from darkroom.serving.pyfunc_model import PhotoClassifier
from tests.examples import encode, noise

LABELS = ["cat", "dog"]
CONTEXT = PythonModelContext({}, {})

pytestmark = pytest.mark.usefixtures("workspace")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> PhotoClassifier:
    folder = tmp_path_factory.mktemp("artifacts")
    keras.utils.set_random_seed(4)
    pixels = keras.Input((8, 8, 1))
    values = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(pixels))
    save_model(keras.Model(pixels, keras.layers.Dense(2, activation="softmax")(values)), folder / "model.keras")
    write_labels(folder / "labels.json", LABELS)
    write_json(folder / "preparation.json", {"resize": "pad", "resampling": "bilinear", "color": "gray"})
    model = PhotoClassifier()
    files = {"model": "model.keras", "labels": "labels.json", "preparation": "preparation.json"}
    model.load_context(PythonModelContext({name: str(folder / file) for name, file in files.items()}, {}))
    return model


def ask(served: PhotoClassifier, **columns: list[object]) -> pd.DataFrame:
    return served.predict(CONTEXT, pd.DataFrame(columns))


def test_a_photo_is_told_by_its_bytes_and_by_its_path(served: PhotoClassifier) -> None:
    content = encode(noise(20, 30))
    Path("a.png").write_bytes(content)
    expected = served.classifier.model.predict(
        prepare_image(content, (8, 8), "pad", "bilinear", "gray")[None], verbose=0
    )[0]

    for told in (ask(served, image=[content]), ask(served, path=["a.png"])):
        (row,) = told.itertuples()
        assert row.probabilities == pytest.approx(dict(zip(LABELS, expected.tolist(), strict=True)), abs=1e-6)
        assert (row.label, row.reason) == (LABELS[expected.argmax()], None)
        assert row.probability == row.probabilities[row.label]
        assert told.probability.dtype == np.float64


def test_what_cannot_be_read_has_its_reason_and_the_others_are_told(served: PhotoClassifier) -> None:
    content = encode(noise(20, 30))
    told = ask(served, image=[b"", content, b"words", bytes(MAXIMUM_BYTES + 1)])
    assert list(told.reason) == [
        "the file is empty",
        None,
        "not a readable JPEG, PNG, WEBP, GIF, BMP, TIFF file",
        f"larger than allowed: more than {MAXIMUM_BYTES} bytes",
    ]
    assert told.label[1] in LABELS
    lacking = told.drop(index=1)[["label", "probability", "probabilities"]]
    assert all(value is None for value in lacking.to_numpy().ravel())  # NaN would be no JSON


@pytest.mark.parametrize(
    ("path", "reason"), [("missing.png", "No such file or directory"), ("/dev/zero", "not a regular file")]
)
def test_a_path_that_is_no_photo_has_its_reason(served: PhotoClassifier, path: str, reason: str) -> None:
    assert list(ask(served, path=[path]).reason) == [reason]


def test_rows_may_give_photos_in_different_ways_but_each_in_one(served: PhotoClassifier) -> None:
    content = encode(noise(20, 30))
    Path("a.png").write_bytes(content)
    told = ask(served, image=[content, None, None, content], path=[None, "a.png", np.nan, "a.png"])
    both = 'expected a value in one of the columns "image" and "path", got '
    assert list(told.reason) == [None, None, f"{both}neither", f"{both}both"]
    assert told.probabilities[0] == told.probabilities[1]


def test_base64_is_decoded_where_mlflow_has_not_done_it(served: PhotoClassifier) -> None:
    content = encode(noise(20, 30))
    told = ask(served, image=[content, base64.b64encode(content), base64.encodebytes(content)])
    assert told.probabilities[0] == told.probabilities[1] == told.probabilities[2]


def test_the_limit_is_that_of_the_photo_and_not_of_its_base64(served: PhotoClassifier) -> None:
    told = ask(served, image=[base64.b64encode(bytes(MAXIMUM_BYTES)), base64.b64encode(bytes(MAXIMUM_BYTES + 1))])
    assert [reason.partition(":")[0] for reason in told.reason] == [
        "not a readable JPEG, PNG, WEBP, GIF, BMP, TIFF file",
        "larger than allowed",
    ]


@pytest.mark.parametrize("value", [7, True, 1.5, [1, 2], {"a": 1}, "words"])
def test_what_are_no_bytes_and_no_path_has_its_reason(served: PhotoClassifier, value: object) -> None:
    kind = type(value).__name__
    assert list(ask(served, image=[value]).reason) == [f"expected the bytes of a picture file, got {kind}"]
    if not isinstance(value, str):
        assert list(ask(served, path=[value]).reason) == [f"expected a path as a text, got {kind}"]


def test_no_rows_give_no_rows(served: PhotoClassifier) -> None:
    assert list(ask(served, image=[]).columns) == ["label", "probability", "probabilities", "reason"]


def test_a_table_without_photos_is_refused(served: PhotoClassifier) -> None:
    with pytest.raises(
        MlflowException, match='^expected a column "image" .* or a column "path", got photo$'
    ) as refused:
        ask(served, photo=[b""])
    assert refused.value.error_code == "INVALID_PARAMETER_VALUE"
