"""Deletes old uploads: photos that visitors of the page have uploaded into one folder.

They are not deleted as soon as they are classified: Gradio stores equal photos of equal name as one file, and another
visitor may still wait for a result. Gradio's own cleanup never finds the files of interrupted uploads.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LIFETIME_SECONDS = 120  # classifying a photo takes a second, and the queue is short
CHECK_SECONDS = 5


def delete_old_files(folder: Path, lifetime_seconds: float) -> None:
    """Delete all files below a folder that were last written more than `lifetime_seconds` ago.

    Folders stay, because Gradio may be about to move a file into one.
    """
    for file in folder.rglob("*"):
        with suppress(FileNotFoundError):
            if file.is_file() and time.time() - file.stat().st_mtime > lifetime_seconds:
                file.unlink()


@contextmanager
def deleting_old_files(folder: Path) -> Iterator[None]:
    """Delete old files below a folder every few seconds while a block runs."""
    is_over = threading.Event()

    def keep_deleting() -> None:
        while not is_over.wait(CHECK_SECONDS):
            delete_old_files(folder, LIFETIME_SECONDS)

    thread = threading.Thread(target=keep_deleting, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
