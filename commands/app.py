"""Serve a web page that classifies photos, with the model of the last `dvc repro` or of a recorded run.

Reads   data/train/model.keras    pixels in, probabilities out; labels.json beside it has the labels
        dvc.lock                  how photos were prepared for training
        MLflow                    the run that recorded the model, and with --run the model itself
Writes  nothing                   uploaded photos stay in a temporary folder for two minutes
Run as  darkroom app [--run RUN] [--host 127.0.0.1] [--port 7860]

It needs the packages of requirements-extras.lock, which `make extras` installs.
"""

import errno
import gc
import os
import signal
import socket
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from commands.extras import require_packages
from commands.page.address import HOST, PORT
from darkroom.pipeline.stage import StageError
from darkroom.tracking.store import ID_CHARACTERS, find_store

# Modules that take seconds to import are imported in functions, after the checks that need none of them.
if TYPE_CHECKING:
    from darkroom.explanation.gradcam import GradCam
    from darkroom.runs.model_loading import LoadedModel, Origin


def open_port(host: str, port: int) -> socket.socket:
    """Listen on a port of this machine; 0 picks a free one.

    Raises:
        StageError: the port is in use, or this machine has no such address.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family)
    except (OSError, UnicodeError) as error:  # UnicodeError: the host is not a valid name
        reason = str(getattr(error, "strerror", None) or error).partition(" (")[0]  # without the address in brackets
        if isinstance(error, (socket.gaierror, UnicodeError)) or error.errno == errno.EADDRNOTAVAIL:
            raise StageError(
                f"the page cannot be served at {host!r}, which is not an address of this machine ({reason}); use "
                f"--host {HOST} for access from this machine only, or --host 0.0.0.0 for access from the network"
            ) from None
        raise StageError(
            f"the page cannot be served at port {port} of {host} ({reason}); stop the program that uses it, or choose "
            f"another: --port {port + 1 if 0 < port < 65535 else PORT}, or --port 0 for a free one"
        ) from None


def find_model_run(chosen: "LoadedModel") -> tuple["Origin | None", str]:
    """Find the run that recorded a model; without one, return None and the reason."""
    from darkroom.runs.model_loading import find_origin

    if chosen.origin is not None:
        return chosen.origin, ""
    try:
        store = find_store()
        origin = find_origin(store, chosen.key, *chosen.earlier_keys) if chosen.key else None
    except StageError as error:
        return None, f"unknown: {error}"
    return origin, "" if origin else f"the result of the last `dvc repro` is not recorded in {store.shown_address}"


def make_gradcam(chosen: "LoadedModel") -> tuple["GradCam | None", str]:
    """Set up Grad-CAM for the model; if that is not possible, return None and the reason."""
    from darkroom.explanation.gradcam import GradCam

    try:
        return GradCam(chosen.classifier.model), ""
    except StageError as error:
        return None, str(error)


def main(wanted: str | None, host: str, port: int) -> None:
    require_packages("the page needs", ["gradio"])
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores SIGHUP
            signal.signal(number, exit_on_signal)
    with open_port(host, port) as listener, TemporaryDirectory(prefix="darkroom-app-") as folder:
        configure_gradio(Path(folder))
        from commands.page.access import is_loopback
        from commands.page.page import write_origin
        from commands.page.server import build_page, serve_page
        from commands.page.uploads import deleting_old_files
        from darkroom.runs.model_loading import choose_model

        chosen = choose_model(wanted)
        origin, no_origin = find_model_run(chosen)
        gradcam, no_gradcam = make_gradcam(chosen)
        about = write_origin(origin, no_origin, chosen.classifier.labels, no_gradcam)
        page = build_page(chosen.classifier, gradcam, about)

        bound_host, bound_port = listener.getsockname()[:2]
        source = f"run {origin.name} ({origin.run_id[:ID_CHARACTERS]})" if origin else "the last `dvc repro`"
        address = f"http://{f'[{bound_host}]' if ':' in bound_host else bound_host}:{bound_port}"
        if not is_loopback(host):
            print(f"app: anyone who can reach {host} over the network can use this page", file=sys.stderr)
        print(f"app: serving the model of {source} at {address}; press Ctrl-C to stop", flush=True)
        try:
            with deleting_old_files(Path(folder)):
                serve_page(page, listener)
        finally:
            gc.freeze()  # else Python's last garbage collection takes seconds, because it visits all of TensorFlow


def configure_gradio(folder: Path) -> None:
    """Let Gradio store uploads in `folder`, and keep it from sending telemetry or calling the Hugging Face Hub.

    Call this before Gradio is imported.
    """
    os.environ |= {"GRADIO_TEMP_DIR": str(folder), "GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1"}


def exit_on_signal(number: int, _frame: object) -> None:
    sys.exit(128 + number)  # the exit code that shells report; temporary files are removed first
