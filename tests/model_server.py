"""A recorded model on MLflow's own server, as users start it."""

import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.browser import HOST, end_group, free_port, wait_for_server


@contextmanager
def serve_model(model: str, store: str, environment: Mapping[str, str], folder: Path) -> Iterator[str]:
    """Run `mlflow models serve`, with a log in `folder`, and give the address that takes photos."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", model, "--env-manager", "local"]
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen(
            [*command, "--host", HOST, "--port", str(port)],
            cwd=folder,
            env={**environment, "MLFLOW_TRACKING_URI": store},
            stdout=log,
            stderr=log,
            start_new_session=True,
        ) as process,
    ):
        try:
            wait_for_server(process, port, folder / "log")
            yield f"http://{HOST}:{port}/invocations"
        finally:
            end_group(process)
