"""The model that MLflow serves, run in this process; tests/test_parity.py runs it in MLflow's server."""

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


def classify(served: PhotoClassifier, **columns: list[object]) -> pd.DataFrame:
    return served.predict(CONTEXT, pd.DataFrame(columns))


def test_a_photo_is_classified_from_its_bytes_and_from_its_path(served: PhotoClassifier) -> None:
    content = encode(noise(20, 30))
    Path("a.png").write_bytes(content)
    expected = served.classifier.model.predict(
        prepare_image(content, (8, 8), "pad", "bilinear", "gray")[None], verbose=0
    )[0]

    for predictions in (classify(served, image=[content]), classify(served, path=["a.png"])):
        (row,) = predictions.itertuples()
        assert row.probabilities == pytest.approx(dict(zip(LABELS, expected.tolist(), strict=True)), abs=1e-6)
        assert (row.label, row.reason) == (LABELS[expected.argmax()], None)
        assert row.probability == row.probabilities[row.label]
        assert predictions.probability.dtype == np.float64


def test_unreadable_photos_have_their_reasons_and_the_others_are_classified(served: PhotoClassifier) -> None:
    content = encode(noise(20, 30))
    predictions = classify(served, image=[b"", content, b"words", bytes(MAXIMUM_BYTES + 1)])
    assert list(predictions.reason) == [
        "the file is empty",
        None,
        "not a readable JPEG, PNG, WEBP, AVIF, HEIF, GIF, BMP, TIFF file",
        f"larger than allowed: more than {MAXIMUM_BYTES} bytes",
    ]
    assert predictions.label[1] in LABELS
    missing = predictions.drop(index=1)[["label", "probability", "probabilities"]]
    assert all(value is None for value in missing.to_numpy().ravel())  # NaN is not valid JSON


@pytest.mark.parametrize(
    ("path", "reason"), [("missing.png", "No such file or directory"), ("/dev/zero", "not a regular file")]
)
def test_a_path_without_a_photo_has_its_reason(served: PhotoClassifier, path: str, reason: str) -> None:
    assert list(classify(served, path=[path]).reason) == [reason]


def test_each_row_has_either_bytes_or_a_path(served: PhotoClassifier) -> None:
    content = encode(noise(20, 30))
    Path("a.png").write_bytes(content)
    predictions = classify(served, image=[content, None, None, content], path=[None, "a.png", np.nan, "a.png"])
    both = 'expected a value in exactly one of the columns "image" and "path", got '
    assert list(predictions.reason) == [None, None, f"{both}neither", f"{both}both"]
    assert predictions.probabilities[0] == predictions.probabilities[1]


def test_base64_is_decoded_if_mlflow_has_not_done_it(served: PhotoClassifier) -> None:
    content = encode(noise(20, 30))
    predictions = classify(served, image=[content, base64.b64encode(content), base64.encodebytes(content)])
    assert predictions.probabilities[0] == predictions.probabilities[1] == predictions.probabilities[2]


def test_the_size_limit_applies_to_the_photo_not_to_its_base64(served: PhotoClassifier) -> None:
    predictions = classify(
        served, image=[base64.b64encode(bytes(MAXIMUM_BYTES)), base64.b64encode(bytes(MAXIMUM_BYTES + 1))]
    )
    assert [reason.partition(":")[0] for reason in predictions.reason] == [
        "not a readable JPEG, PNG, WEBP, AVIF, HEIF, GIF, BMP, TIFF file",
        "larger than allowed",
    ]


@pytest.mark.parametrize("value", [7, True, 1.5, [1, 2], {"a": 1}, "words"])
def test_values_of_another_type_have_their_reason(served: PhotoClassifier, value: object) -> None:
    kind = type(value).__name__
    assert list(classify(served, image=[value]).reason) == [f"expected the bytes of an image file, got {kind}"]
    if not isinstance(value, str):
        assert list(classify(served, path=[value]).reason) == [f"expected a path as a string, got {kind}"]


def test_no_rows_give_no_rows(served: PhotoClassifier) -> None:
    assert list(classify(served, image=[]).columns) == ["label", "probability", "probabilities", "reason"]


def test_a_table_without_photos_is_rejected(served: PhotoClassifier) -> None:
    with pytest.raises(MlflowException, match='^expected a column "image" .* or a column "path", got photo$') as caught:
        classify(served, photo=[b""])
    assert caught.value.error_code == "INVALID_PARAMETER_VALUE"
