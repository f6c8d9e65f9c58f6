"""The model of a result as MLflow keeps it: served from code, without pickles, with requirements of its own."""

import io
import logging
import shutil
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import mlflow
import numpy as np
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelOutput, LoggedModelStatus, Run
from mlflow.models import Model, ModelSignature
from mlflow.types.schema import ColSpec, DataType, Map, Schema
from PIL import Image

from darkroom.pipeline.files import write_json
from darkroom.pipeline.paths import TRAIN_LABELS, TRAIN_MODEL
from darkroom.serving.classifier import PREPARATION, PREPARATION_FILE
from darkroom.tracking.client import TRACKING_FAULTS, storable_params

SERVING_CODE = Path("darkroom/serving/pyfunc_model.py")
# What the served model loads of the project, and all that a logged model carries of it.
SERVED_CODE = ("__init__.py", "photos", "pipeline", "serving")
MODEL_NAME = "model"
# What pyfunc_model.py imports, at the versions that trained the model.
MODEL_REQUIREMENTS = ("keras", "tensorflow", "numpy", "pandas", "pillow", "mlflow")

SIGNATURE = ModelSignature(
    # A row has one of the two.
    inputs=Schema(
        [ColSpec(DataType.binary, "image", required=False), ColSpec(DataType.string, "path", required=False)]
    ),
    # A row without a photo has the reason and nothing else.
    outputs=Schema(
        [
            ColSpec(DataType.string, "label", required=False),
            ColSpec(DataType.double, "probability", required=False),
            ColSpec(Map(DataType.double), "probabilities", required=False),
            ColSpec(DataType.string, "reason", required=False),
        ]
    ),
)
EXAMPLE_SIDE = 64  # pixels


def log_model(client: MlflowClient, run: Run, params: Mapping[str, str]) -> None:
    """Log the model with its preparation of photos, unless a run that was cut off has it already."""
    outputs = client.get_run(run.info.run_id).outputs
    if outputs is not None and outputs.model_outputs:
        return
    # Not mlflow.pyfunc.log_model: where there is an example it loads the model, and so TensorFlow, and asks it.
    experiment, run_id = run.info.experiment_id, run.info.run_id
    model = client.create_logged_model(experiment, MODEL_NAME, run_id, params=storable_params(params))
    try:
        with TemporaryDirectory(prefix="darkroom-record-") as folder:
            save_model(model, params, Path(folder))
            client.log_model_artifacts(model.model_id, str(Path(folder, MODEL_NAME)))
    except TRACKING_FAULTS:
        with suppress(*TRACKING_FAULTS):
            client.finalize_logged_model(model.model_id, LoggedModelStatus.FAILED)
        raise
    client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])


def save_model(model: LoggedModel, params: Mapping[str, str], folder: Path) -> None:
    """Write what a logged model consists of into `folder`."""
    logging.getLogger("mlflow.pyfunc").setLevel(logging.WARNING)  # it tells that it looks at the example
    # As a file: MLflow would add a model_config to the run's params.
    preparation = folder / PREPARATION_FILE
    write_json(preparation, {name: params[f"augment.{name}"] for name in PREPARATION})
    mlflow.pyfunc.save_model(
        path=str(folder / MODEL_NAME),
        mlflow_model=Model(
            artifact_path=model.artifact_location,
            run_id=model.source_run_id,
            model_uuid=model.model_id,
            model_id=model.model_id,
        ),
        python_model=SERVING_CODE,
        artifacts={"model": str(TRAIN_MODEL), "labels": str(TRAIN_LABELS), "preparation": str(preparation)},
        code_paths=[copy_served_code(folder)],
        signature=SIGNATURE,
        input_example=pd.DataFrame({"image": [draw_example()]}),
        pip_requirements=[f"{name}=={version(name)}" for name in MODEL_REQUIREMENTS],
    )


def copy_served_code(folder: Path) -> str:
    """Copy the code that a served model loads into `folder`, as MLflow takes it: the path of a package."""
    package = folder / "darkroom"
    package.mkdir()
    for name in SERVED_CODE:
        source = Path("darkroom", name)
        if source.is_dir():
            shutil.copytree(source, package / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(source, package / name)
    return str(package)


def draw_example() -> bytes:
    """A small picture as a PNG file, to show what the model takes."""
    shades = np.linspace(0, 255, EXAMPLE_SIDE, dtype=np.uint8)
    pixels = np.stack(np.broadcast_arrays(shades[:, None], shades[None], shades[::-1, None]), axis=-1)
    saved = io.BytesIO()
    Image.fromarray(pixels).save(saved, "PNG")
    return saved.getvalue()
