"""The model as MLflow serves it: photos' bytes in, labels and probabilities out.

MLflow runs this file when the model is loaded (`mlflow.pyfunc.load_model`, `mlflow models serve`); it stands in the
model together with a copy of `stages`, so that a photo is prepared by the same function as in training.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from stages.lib.images import ImageError, prepare_image


class PhotoClassifier(PythonModel):
    """Tells what photos show. The artifacts are model.keras, labels.json and preparation.json (resize, resampling
    and color)."""

    def load_context(self, context: PythonModelContext) -> None:
        # Only who loads the model needs Keras; who records it does not.
        import keras

        self.model = keras.models.load_model(context.artifacts["model"], compile=False, safe_mode=True)
        self.labels = json.loads(Path(context.artifacts["labels"]).read_bytes())["labels"]
        self.preparation = json.loads(Path(context.artifacts["preparation"]).read_bytes())

    def predict(
        self,
        context: PythonModelContext,  # noqa: ARG002
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,  # noqa: ARG002
    ) -> pd.DataFrame:
        """Classify photos.

        Args:
            context: not used.
            model_input: the column "image" holds the bytes of a picture file per row.
            params: not used.

        Returns:
            label, probability (0 to 1) and probabilities (label to probability, in the network's order) per row.

        Raises:
            MlflowException: a row holds no picture.
        """
        height, width = self.model.input_shape[1:3]
        pixels = []
        for number, content in enumerate(model_input["image"]):
            try:
                pixels.append(prepare_image(bytes(content), (height, width), **self.preparation))
            except ImageError as error:
                raise MlflowException(f"image {number}: {error}", INVALID_PARAMETER_VALUE) from None
        probabilities = self.model.predict(np.stack(pixels), verbose=0)
        best = probabilities.argmax(axis=1)
        return pd.DataFrame(
            {
                "label": [self.labels[number] for number in best],
                "probability": probabilities.max(axis=1).astype(float),
                "probabilities": [dict(zip(self.labels, map(float, row), strict=True)) for row in probabilities],
            }
        )


set_model(PhotoClassifier())
