"""Photos that a page's visitors have uploaded: they lie in one folder, and are deleted when they are old.

Not as soon as they are answered: Gradio keeps equal photos of equal name as one file, and another visitor may still
wait for an answer. Nor by Gradio itself, which never finds what an upload that was broken off has left.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

KEPT_SECONDS = 120  # an answer takes a second, and who waits for it stands behind few others
LOOKING_SECONDS = 5


def delete_old(folder: Path, kept_seconds: float) -> None:
    """Delete all files below a folder that nothing was written to for so many seconds. Folders stay, as Gradio may be
    about to move a file into one."""
    for file in folder.rglob("*"):
        with suppress(FileNotFoundError):
            if file.is_file() and time.time() - file.stat().st_mtime > kept_seconds:
                file.unlink()


@contextmanager
def deleting_old(folder: Path) -> Iterator[None]:
    """Delete old files below a folder again and again while a block runs."""
    is_over = threading.Event()

    def keep_deleting() -> None:
        while not is_over.wait(LOOKING_SECONDS):
            delete_old(folder, KEPT_SECONDS)

    thread = threading.Thread(target=keep_deleting, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
