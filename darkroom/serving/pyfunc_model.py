"""The model as MLflow serves it: photos in, labels and probabilities out.

MLflow runs this file when the model is loaded (`mlflow.pyfunc.load_model`, `mlflow models serve`); it stands in the
model together with a copy of `stages`, so that a photo is prepared by the same function as in training.
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

NO_BASE64 = re.compile(rb"[^A-Za-z0-9+/=\r\n]")
LOOKED_AT = 1000  # bytes


class Row(NamedTuple):
    """What is told of a photo, or why nothing is."""

    label: str | None
    probability: float | None
    probabilities: dict[str, float] | None
    reason: str | None


class PhotoClassifier(PythonModel):
    """Tells what photos show. The artifacts are model.keras, labels.json and preparation.json (resize, resampling
    and color)."""

    def load_context(self, context: PythonModelContext) -> None:
        # Only who loads the model needs Keras; who records it does not.
        import keras

        files = {name: Path(path) for name, path in context.artifacts.items()}
        self.classifier = Classifier(
            keras.models.load_model(files["model"], compile=False, safe_mode=True),
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
            model_input: each row has in the column "image" the bytes of a picture file, or in the column "path" where
                one lies on the machine that the model runs on.
            params: not used.

        Returns:
            for each row label, probability (0 to 1), probabilities (label to probability, in the network's order) and
            reason. Where a row holds no photo that can be read, reason says why and the others are None; elsewhere
            reason is None.

        Raises:
            MlflowException: there is neither column.
        """
        if not {"image", "path"} & set(model_input):
            raise MlflowException(
                'expected a column "image" with the bytes of a picture file per row (base64 in JSON), or a column '
                f'"path", got {", ".join(map(str, model_input)) or "neither"}',
                INVALID_PARAMETER_VALUE,
            )
        images, paths = (list_column(model_input, name) for name in ("image", "path"))
        reads = [partial(read_row, image, path) for image, path in zip(images, paths, strict=True)]
        rows = [
            self.describe(probabilities, reason)
            for answers in self.classifier.ask(reads)
            for probabilities, reason in answers.rows()
        ]
        # As objects a lacking probability stays None, which JSON has a word for; it has none for NaN.
        told = pd.DataFrame(rows, columns=list(Row._fields), dtype=object)
        return told if any(row.reason for row in rows) else told.astype({"probability": float})

    def describe(self, probabilities: Probabilities, reason: str) -> Row:
        if reason:
            return Row(None, None, None, reason)
        (likeliest,) = list_likeliest(probabilities, self.classifier.labels, 1)
        every = dict(zip(self.classifier.labels, map(float, probabilities), strict=True))
        return Row(likeliest.label, likeliest.probability, every, None)


def list_column(table: pd.DataFrame, name: str) -> list[Any]:
    """The values of a column that need not be there, nor have a value in each row."""
    if name not in table:
        return [None] * len(table)
    return [None if value is None or value is pd.NA or value != value else value for value in table[name]]


def read_row(image: object, path: object) -> bytes:
    """The bytes of a photo, which is given in one of two ways.

    Raises:
        UnreadableFile: it is given in none or in both, or otherwise than as bytes or as a path, is too large, or cannot
            be read.
    """
    if (image is None) == (path is None):
        got = "neither" if image is None else "both"
        raise UnreadableFile(f'expected a value in one of the columns "image" and "path", got {got}')
    if path is not None:
        if not isinstance(path, str):
            raise UnreadableFile(f"expected a path as a text, got {type(path).__name__}")
        return read_photo_file(path, MAXIMUM_BYTES)
    if not isinstance(image, bytes):
        raise UnreadableFile(f"expected the bytes of a picture file, got {type(image).__name__}")
    content = decode_text(image)
    check_size(len(content), MAXIMUM_BYTES)
    return content


def decode_text(content: bytes) -> bytes:
    """The bytes that a text in base64 stands for; what is none stays as it is, as every picture file does.

    MLflow decodes it where JSON has a data frame, and leaves it where JSON has `inputs` or `instances`.
    """
    if NO_BASE64.search(content, 0, LOOKED_AT):  # which spares a photo of megabytes the rest
        return content
    try:
        return base64.b64decode(content.translate(None, b"\r\n"), validate=True)
    except binascii.Error:
        return content


set_model(PhotoClassifier())
