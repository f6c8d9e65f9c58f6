"""The page as Gradio draws it, and its server.

Set GRADIO_TEMP_DIR before this is imported: photos are uploaded there.
"""

import socket
import sys
from pathlib import Path

import gradio
import uvicorn
from fastapi import FastAPI

from commands.page.access import OwnPageOnly, refuse_calls_out
from commands.page.page import STYLE, answer_photo, write_answer, write_reason
from commands.page.uploads import KEPT_SECONDS
from darkroom.explanation.gradcam import GradCam
from darkroom.photos.images import FORMATS, ImageError
from darkroom.photos.photo_file import UnreadableFile, read_photo_file
from darkroom.serving.classifier import MAXIMUM_BYTES, Classifier

TITLE = "Darkroom"
HOW_TO = (
    f"Drop a photo, or choose one: a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} file of at most "
    f"{MAXIMUM_BYTES // 1_000_000} MB ({MAXIMUM_BYTES / 2**20:.1f} MiB). It goes to "
    f"the machine that serves this page and nowhere else, and is deleted there after {KEPT_SECONDS // 60} minutes."
)
SHUTDOWN_SECONDS = 1  # for answers on their way; a page that is open holds a connection for ever
# Fonts that the browser has: Gradio's own would be fetched.
THEME = gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])


def build_page(classifier: Classifier, gradcam: GradCam | None, about: str) -> gradio.Blocks:
    """Lay out the page: a place for a photo, its answer, and `about`, the HTML of what is known of the model."""

    def tell(uploaded: str) -> tuple[None, str]:
        return None, tell_file(classifier, gradcam, Path(uploaded))

    page: gradio.Blocks
    with gradio.Blocks(title=TITLE, analytics_enabled=False) as page:
        gradio.Markdown(f"# {TITLE}\n\n{HOW_TO}")
        photo = gradio.File(label="Photo", height=150)
        answer = gradio.HTML()
        gradio.HTML(about)
        photo.upload(tell, photo, [photo, answer], concurrency_limit=1, api_visibility="private")
    return page


def tell_file(classifier: Classifier, gradcam: GradCam | None, file: Path) -> str:
    """The HTML of what an uploaded file shows, or why it shows nothing."""
    try:
        content = read_photo_file(file, MAXIMUM_BYTES)
        return write_answer(file.name, answer_photo(classifier, gradcam, content))
    except (ImageError, UnreadableFile) as error:
        return write_reason(file.name, str(error))


def serve_page(page: gradio.Blocks, listener: socket.socket) -> None:
    """Serve a page at a port until a signal ends this process.

    Not by Gradio's `launch`: it looks for a port by itself, and calls itself over the proxy of the environment.
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
        run_history=False,  # which would keep photos in the browser
        enable_monitoring=False,
        show_error=False,
        ssr_mode=False,
        pwa=False,
    )
    # Else it opens, for whoever asks, any file that this process may read: only `launch` says so by itself.
    page.has_launched = page.is_running = True
    app.add_middleware(OwnPageOnly, bound=listener.getsockname()[0])
    # uvloop would connect behind Python's back.
    config = uvicorn.Config(
        app, loop="asyncio", log_level="warning", access_log=False, timeout_graceful_shutdown=SHUTDOWN_SECONDS
    )
    sys.addaudithook(refuse_calls_out)
    uvicorn.Server(config).run([listener])
