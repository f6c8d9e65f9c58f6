"""The model that MLflow serves: photos in, labels and probabilities out.

MLflow runs this file to load the model (`mlflow.pyfunc.load_model`, `mlflow models serve`). The logged model contains
this file and the project's code that it imports, so that photos are prepared by the same function as in training.
"""

import base64
import binascii
import json
import re
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from darkroom.photos.photo_file import UnreadableFile, check_size, read_photo_file
from darkroom.pipeline.arrays import Probabilities
from darkroom.serving.classifier import MAXIMUM_BYTES, Classifier, list_likeliest

NOT_BASE64 = re.compile(rb"[^A-Za-z0-9+/=\r\n]")
CHECKED_BYTES = 1000


class OutputRow(NamedTuple):
    """A row of the predictions: those for a photo, or the reason why there are none."""

    label: str | None
    probability: float | None
    probabilities: dict[str, float] | None
    reason: str | None


class PhotoClassifier(PythonModel):
    """Classify photos. The artifacts are model.keras, labels.json and preparation.json (resize, resampling, color)."""

    def load_context(self, context: PythonModelContext) -> None:
        # Imported here, because recording a model runs this file and needs no Keras.
        from darkroom.models.model_file import load_model

        files = {name: Path(path) for name, path in context.artifacts.items()}
        self.classifier = Classifier(
            load_model(files["model"]),
            json.loads(files["labels"].read_bytes())["labels"],
            json.loads(files["preparation"].read_bytes()),
        )

    def predict(
        self,
        context: PythonModelContext,  # noqa: ARG002
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,  # noqa: ARG002
    ) -> pd.DataFrame:
        """Classify photos.

        Args:
            context: not used.
            model_input: each row has either the bytes of an image file in the column "image", or in the column "path"
                the path of one on the machine that runs the model.
            params: not used.

        Returns:
            for each row label, probability (0 to 1), probabilities (label to probability, in the model's order) and
            reason. If a row's photo cannot be read, reason says why and the other columns are None; otherwise reason
            is None.

        Raises:
            MlflowException: both columns are missing.
        """
        if not {"image", "path"} & set(model_input):
            raise MlflowException(
                'expected a column "image" with the bytes of an image file per row (base64 in JSON), or a column '
                f'"path", got {", ".join(map(str, model_input)) or "neither"}',
                INVALID_PARAMETER_VALUE,
            )
        images, paths = (list_column(model_input, name) for name in ("image", "path"))
        reads = [partial(read_photo_bytes, image, path) for image, path in zip(images, paths, strict=True)]
        rows = [
            self.describe(probabilities, reason)
            for batch in self.classifier.classify(reads)
            for probabilities, reason in batch.per_photo()
        ]
        # Of type object, so that a missing probability stays None: JSON has null, but no NaN.
        predictions = pd.DataFrame(rows, columns=list(OutputRow._fields), dtype=object)
        return predictions if any(row.reason for row in rows) else predictions.astype({"probability": float})

    def describe(self, probabilities: Probabilities, reason: str) -> OutputRow:
        if reason:
            return OutputRow(None, None, None, reason)
        (likeliest,) = list_likeliest(probabilities, self.classifier.labels, 1)
        by_label = dict(zip(self.classifier.labels, map(float, probabilities), strict=True))
        return OutputRow(likeliest.label, likeliest.probability, by_label, None)


def list_column(table: pd.DataFrame, name: str) -> list[Any]:
    """List the values of an optional column, None where a value or the column is missing."""
    if name not in table:
        return [None] * len(table)
    return [None if value is None or value is pd.NA or value != value else value for value in table[name]]


def read_photo_bytes(image: object, path: object) -> bytes:
    """Return the bytes of a photo, given either by its content or by its path.

    Raises:
        UnreadableFile: both or neither are given, a value has the wrong type, or the photo is too large or cannot be
            read.
    """
    if (image is None) == (path is None):
        got = "neither" if image is None else "both"
        raise UnreadableFile(f'expected a value in exactly one of the columns "image" and "path", got {got}')
    if path is not None:
        if not isinstance(path, str):
            raise UnreadableFile(f"expected a path as a string, got {type(path).__name__}")
        return read_photo_file(path, MAXIMUM_BYTES)
    if not isinstance(image, bytes):
        raise UnreadableFile(f"expected the bytes of an image file, got {type(image).__name__}")
    content = decode_base64(image)
    check_size(len(content), MAXIMUM_BYTES)
    return content


def decode_base64(content: bytes) -> bytes:
    """Decode base64; return other content, such as every image file, unchanged.

    MLflow decodes base64 itself if a JSON request has a data frame, but not if it has `inputs` or `instances`.
    """
    if NOT_BASE64.search(content, 0, CHECKED_BYTES):  # no need to search megabytes of a photo
        return content
    try:
        return base64.b64decode(content.translate(None, b"\r\n"), validate=True)
    except binascii.Error:
        return content


set_model(PhotoClassifier())
