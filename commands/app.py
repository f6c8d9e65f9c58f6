"""Open a page in the browser that tells what photos show, with the model of the last `dvc repro` or of a run.

Reads   data/train/model.keras    pixels in, probabilities out; labels.json beside it has the labels
        dvc.lock                  how photos were prepared for the training
        MLflow                    the run that the model came from, and with --run the model itself
Writes  nothing                   photos lie in a temporary folder for two minutes
Run as  darkroom app [--run RUN] [--host 127.0.0.1] [--port 7860]

It needs the packages in requirements-extras.lock: `make extras`.
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

# What takes seconds to import is imported where it is used, after what can be refused at once.
if TYPE_CHECKING:
    from darkroom.explanation.gradcam import GradCam
    from darkroom.runs.model_loading import LoadedModel, Origin


def open_port(host: str, port: int) -> socket.socket:
    """Take a port of this machine; 0 is any free one.

    Raises:
        StageError: it is taken, or this machine has no such address.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family)
    except (OSError, UnicodeError) as error:  # the latter of what cannot be a name
        reason = str(getattr(error, "strerror", None) or error).partition(" (")[0]  # it has the address in brackets
        if isinstance(error, (socket.gaierror, UnicodeError)) or error.errno == errno.EADDRNOTAVAIL:
            raise StageError(
                f"the page cannot be at {host!r}, which is no address of this machine ({reason}); give another: "
                f"--host {HOST} is reached from here alone, --host 0.0.0.0 from everywhere"
            ) from None
        raise StageError(
            f"the page cannot have port {port} of {host} ({reason}); end what has it, or give another: "
            f"--port {port + 1 if 0 < port < 65535 else PORT}, or --port 0 for any free one"
        ) from None


def seek_origin(chosen: "LoadedModel") -> tuple["Origin | None", str]:
    """Find the run that a model came from, or say in a sentence why there is none."""
    from darkroom.runs.model_loading import find_origin

    if chosen.origin is not None:
        return chosen.origin, ""
    try:
        store = find_store()
        origin = find_origin(store, chosen.key) if chosen.key else None
    except StageError as error:
        return None, f"not known, because {error}"
    return origin, "" if origin else f"the result of the last `dvc repro` is not recorded in {store.shown_address}"


def make_gradcam(chosen: "LoadedModel") -> tuple["GradCam | None", str]:
    """Explain the network, or say why it cannot be."""
    from darkroom.explanation.gradcam import GradCam

    try:
        return GradCam(chosen.classifier.model), ""
    except StageError as error:
        return None, str(error)


def main(wanted: str | None, host: str, port: int) -> None:
    require_packages("the page needs", ["gradio"])
    for ending in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(ending) is not signal.SIG_IGN:  # as under nohup
            signal.signal(ending, end)
    with open_port(host, port) as listener, TemporaryDirectory(prefix="darkroom-app-") as folder:
        keep_private(Path(folder))
        from commands.page.access import is_loopback
        from commands.page.page import write_origin
        from commands.page.server import build_page, serve_page
        from commands.page.uploads import deleting_old
        from darkroom.runs.model_loading import choose_model

        chosen = choose_model(wanted)
        origin, unknown = seek_origin(chosen)
        gradcam, unexplained = make_gradcam(chosen)
        about = write_origin(origin, unknown, chosen.classifier.labels, unexplained)
        page = build_page(chosen.classifier, gradcam, about)

        bound, taken = listener.getsockname()[:2]
        whose = f"run {origin.name} ({origin.run_id[:ID_CHARACTERS]})" if origin else "the last `dvc repro`"
        address = f"http://{f'[{bound}]' if ':' in bound else bound}:{taken}"
        if not is_loopback(host):
            print(f"app: whoever reaches {host} from elsewhere, by any name, can use this page too", file=sys.stderr)
        print(f"app: {address} asks the model of {whose}; Ctrl-C ends it", flush=True)
        try:
            with deleting_old(Path(folder)):
                serve_page(page, listener)
        finally:
            gc.freeze()  # else Python looks for garbage once more at its end, for seconds: in all of TensorFlow


def keep_private(folder: Path) -> None:
    """Before Gradio is imported: uploads go into `folder`, and nothing is told to anybody."""
    os.environ |= {"GRADIO_TEMP_DIR": str(folder), "GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1"}


def end(number: int, _frame: object) -> None:
    sys.exit(128 + number)  # as shells report it, once all temporary files are gone
