"""The page as a Gradio app, and its server.

Set GRADIO_TEMP_DIR before importing this module: Gradio stores uploaded photos there.
"""

import socket
import sys
from pathlib import Path

import gradio
import uvicorn
from fastapi import FastAPI

from commands.page.access import OwnPageOnly, block_outgoing_connections
from commands.page.page import STYLE, classify_photo, write_prediction, write_reason
from commands.page.uploads import LIFETIME_SECONDS
from darkroom.explanation.gradcam import GradCam
from darkroom.photos.formats import FORMATS
from darkroom.photos.images import ImageError
from darkroom.photos.photo_file import UnreadableFile, read_photo_file
from darkroom.serving.classifier import MAXIMUM_BYTES, Classifier

TITLE = "Darkroom"
INSTRUCTIONS = (
    f"Drop a photo or choose a file: {', '.join(FORMATS[:-1])} or {FORMATS[-1]}, at most "
    f"{MAXIMUM_BYTES // 1_000_000} MB ({MAXIMUM_BYTES / 2**20:.1f} MiB). It is sent only to the machine that serves "
    f"this page, and deleted there after {LIFETIME_SECONDS // 60} minutes."
)
SHUTDOWN_SECONDS = 1  # for pending responses; an open page never closes its connection
# System fonts: the browser would have to download Gradio's own.
THEME = gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])


def build_page(classifier: Classifier, gradcam: GradCam | None, about: str) -> gradio.Blocks:
    """Lay out the page: the upload field, the prediction, and `about`, the HTML of the section about the model."""

    def classify(uploaded: str) -> tuple[None, str]:
        return None, classify_file(classifier, gradcam, Path(uploaded))

    page: gradio.Blocks
    with gradio.Blocks(title=TITLE, analytics_enabled=False) as page:
        gradio.Markdown(f"# {TITLE}\n\n{INSTRUCTIONS}")
        photo = gradio.File(label="Photo", height=150)
        prediction = gradio.HTML()
        gradio.HTML(about)
        photo.upload(classify, photo, [photo, prediction], concurrency_limit=1, api_visibility="private")
    return page


def classify_file(classifier: Classifier, gradcam: GradCam | None, file: Path) -> str:
    """The HTML of an uploaded file's prediction, or of the reason why it has none."""
    try:
        content = read_photo_file(file, MAXIMUM_BYTES)
        return write_prediction(file.name, classify_photo(classifier, gradcam, content))
    except (ImageError, UnreadableFile) as error:
        return write_reason(file.name, str(error))


def serve_page(page: gradio.Blocks, listener: socket.socket) -> None:
    """Serve a page on a listening socket until a signal ends this process.

    Gradio's `launch` is not used: it chooses a port itself, and connects to itself through the proxy that the
    environment names.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    gradio.mount_gradio_app(
        app,
        page,
        path="/",
        max_file_size=MAXIMUM_BYTES,
        theme=THEME,
        css=STYLE,
        footer_links=[],
        run_history=False,  # it would store photos in the browser
        enable_monitoring=False,
        show_error=False,
        ssr_mode=False,
        pwa=False,
    )
    # Without these, which only `launch` sets, Gradio sends any file that this process can read to any client.
    page.has_launched = page.is_running = True
    app.add_middleware(OwnPageOnly, bound=listener.getsockname()[0])
    # uvloop's connections do not raise audit events.
    config = uvicorn.Config(
        app, loop="asyncio", log_level="warning", access_log=False, timeout_graceful_shutdown=SHUTDOWN_SECONDS
    )
    sys.addaudithook(block_outgoing_connections)
    uvicorn.Server(config).run([listener])
