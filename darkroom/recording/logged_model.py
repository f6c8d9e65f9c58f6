"""Log the model of a result in MLflow: served from code, without pickles, with its own requirements."""

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
from darkroom.tracking.client import storable_params
from darkroom.tracking.failures import TRACKING_ERRORS
from darkroom.tracking.store import MODEL_FILE

SERVING_CODE = Path("darkroom/serving/pyfunc_model.py")
# The parts of the project that the served model imports; a logged model contains these and no others.
SERVED_CODE = ("__init__.py", "models", "photos", "pipeline", "serving")
MODEL_NAME = "model"
# The packages that pyfunc_model.py imports, required in the versions that trained the model.
MODEL_REQUIREMENTS = ("keras", "tensorflow", "numpy", "pandas", "pi-heif", "pillow", "mlflow")

SIGNATURE = ModelSignature(
    # A row has one of the two columns.
    inputs=Schema(
        [ColSpec(DataType.binary, "image", required=False), ColSpec(DataType.string, "path", required=False)]
    ),
    # A row whose photo cannot be read has only the reason.
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
    """Log the model and how it prepares photos, unless the run has a model from an interrupted recording. If the files
    of that model are missing, they are logged again."""
    model_id = find_logged_model(client, run.info.run_id)
    if model_id is not None:
        if not has_model_files(client, model_id):
            log_model_files(client, client.get_logged_model(model_id), params)
        return
    # Not mlflow.pyfunc.log_model: with an input example it loads the model, and so TensorFlow, and runs it.
    experiment, run_id = run.info.experiment_id, run.info.run_id
    model = client.create_logged_model(experiment, MODEL_NAME, run_id, params=storable_params(params))
    try:
        log_model_files(client, model, params)
    except TRACKING_ERRORS:
        with suppress(*TRACKING_ERRORS):
            client.finalize_logged_model(model.model_id, LoggedModelStatus.FAILED)
        raise
    client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])


def find_logged_model(client: MlflowClient, run_id: str) -> str | None:
    """The id of the model that a run has logged; None if it has none."""
    outputs = client.get_run(run_id).outputs
    return outputs.model_outputs[0].model_id if outputs is not None and outputs.model_outputs else None


def has_model_files(client: MlflowClient, model_id: str) -> bool:
    return any(entry.path == MODEL_FILE for entry in client.list_logged_model_artifacts(model_id))


def log_model_files(client: MlflowClient, model: LoggedModel, params: Mapping[str, str]) -> None:
    with TemporaryDirectory(prefix="darkroom-record-") as folder:
        save_logged_model(model, params, Path(folder))
        client.log_model_artifacts(model.model_id, str(Path(folder, MODEL_NAME)))


def save_logged_model(model: LoggedModel, params: Mapping[str, str], folder: Path) -> None:
    """Write the files of a logged model to `folder`."""
    logging.getLogger("mlflow.pyfunc").setLevel(logging.WARNING)  # it logs that it validates the example
    # As a file, because MLflow would add a model_config to the run's params.
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
        input_example=pd.DataFrame({"image": [draw_input_example()]}),
        pip_requirements=[f"{name}=={version(name)}" for name in MODEL_REQUIREMENTS],
    )


def copy_served_code(folder: Path) -> str:
    """Copy the code that a served model imports to `folder`, and return the package's path."""
    package = folder / "darkroom"
    package.mkdir()
    for name in SERVED_CODE:
        source = Path("darkroom", name)
        if source.is_dir():
            shutil.copytree(source, package / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(source, package / name)
    return str(package)


def draw_input_example() -> bytes:
    """Draw a small image as PNG bytes, the example of the model's input."""
    shades = np.linspace(0, 255, EXAMPLE_SIDE, dtype=np.uint8)
    pixels = np.stack(np.broadcast_arrays(shades[:, None], shades[None], shades[::-1, None]), axis=-1)
    saved = io.BytesIO()
    Image.fromarray(pixels).save(saved, "PNG")
    return saved.getvalue()
