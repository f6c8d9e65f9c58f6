"""The recipe digits on the other backends of Keras, if they are installed."""

import json
from importlib.util import find_spec

import pytest

from darkroom.pipeline.dataset import read_labels
from darkroom.pipeline.paths import EVALUATE_METRICS, TRAIN_ENVIRONMENT, TRAIN_LABELS, TRAIN_MODEL
from tests.project import Project, copy_project

pytestmark = pytest.mark.slow

BACKENDS = [
    pytest.param(name, marks=pytest.mark.skipif(find_spec(name) is None, reason=f"{name} is not installed"))
    for name in ("jax", "torch")
]


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = copy_project(tmp_path_factory.mktemp("digits") / "project")
    project.set_params(train__epochs=3)
    for stage in ("acquire", "augment", "split"):
        project.run("python", "-m", f"stages.{stage}")
    return project


@pytest.mark.parametrize("backend", BACKENDS)
def test_digits_are_trained_and_evaluated(digits: Project, backend: str) -> None:
    models = []
    for _ in range(2):
        for stage in ("train", "evaluate", "explain"):
            digits.run(
                "python", "-m", f"stages.{stage}", KERAS_BACKEND=backend, MLFLOW_TRACKING_URI="http://127.0.0.1:9"
            )
        models.append((digits.root / TRAIN_MODEL).read_bytes())
    assert models[0] == models[1]
    assert json.loads((digits.root / EVALUATE_METRICS).read_bytes())["accuracy"] > 0.9
    environment = json.loads((digits.root / TRAIN_ENVIRONMENT).read_bytes())
    assert environment["backend"].startswith(backend)
    assert environment["deterministic"]["reached"]
    assert read_labels(digits.root / TRAIN_LABELS) == list("0123456789")
