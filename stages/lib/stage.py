"""How a stage ends when something is wrong, and how two of the same stage keep out of each other's way."""

import errno
import sys
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock, Timeout

LOCKS_FOLDER = Path(".cache/locks")
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


class StageError(Exception):
    """A fault that its reader can mend: what was received, what was expected, how to fix it."""


def run_stage(name: str, main: Callable[[], None]) -> None:
    """Run a stage's `main`, alone in this workspace; a `StageError` becomes its message on stderr and exit code 1.

    When DVC is killed, the stage that it had started lives on. The next one waits for it here, so that the two do
    not write the same files at once.
    """
    LOCKS_FOLDER.mkdir(parents=True, exist_ok=True)
    lock = FileLock(LOCKS_FOLDER / f"{name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"{name}: waiting for an earlier {name} that is still running in this folder", flush=True)
        lock.acquire()
    try:
        main()
    except StageError as error:
        sys.exit(f"{name}: {error}")
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        where = error.filename or Path.cwd()
        sys.exit(f"{name}: the disk is full ({where}): free some space, then run `dvc repro` again")
    finally:
        lock.release()
