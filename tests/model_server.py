"""A recorded model on MLflow's own server."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.browser import HOST, free_port, run_server


@contextmanager
def serve_model(model: str, store: str, environment: Mapping[str, str], folder: Path) -> Iterator[str]:
    """Run `mlflow models serve` for a block, with a log in `folder`, and yield the URL for requests."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", model, "--env-manager", "local"]
    served = [*command, "--host", HOST, "--port", str(port)]
    with run_server(served, port, folder, {**environment, "MLFLOW_TRACKING_URI": store}):
        yield f"http://{HOST}:{port}/invocations"
