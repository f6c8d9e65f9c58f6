"""How a stage ends when something is wrong, and how two of the same stage keep out of each other's way."""

import argparse
import errno
import os
import select
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from darkroom import STARTED_BY

LOCKS_FOLDER = Path(".cache/locks")
PARENT_CHECK_SECONDS = 0.5
INTERRUPTED = 130  # as shells report a process that SIGINT has ended
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


class StageError(Exception):
    """A fault that its reader can mend: what was received, what was expected, how to fix it."""


def run_stage(name: str, main: Callable[[], None]) -> None:
    """Run a stage's `main`, alone in this workspace; a `StageError` becomes its message on stderr and exit code 1.

    A stage that DVC started ends soon after DVC was killed, because nobody would take its outputs. Until then the next
    one waits here, so that the two do not write the same files at once.
    """
    if "DVC_STAGE" in os.environ:
        end_with_parent()
    message = f"{name}: waiting for an earlier {name} that is still running in this folder"

    def run_alone() -> None:
        with hold_lock(LOCKS_FOLDER / f"{name}.lock", message):
            main()

    run_command(name, run_alone)


def refuse_arguments(name: str, description: str | None) -> None:
    """End a stage that has no options with a usage error where it gets any; `--help` prints its description."""
    parser = argparse.ArgumentParser(
        prog=f"python -m stages.{name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.parse_args()


def run_command(name: str, main: Callable[[], None]) -> None:
    """Run what may run several times at once; a `StageError` becomes its message on stderr and exit code 1."""
    try:
        main()
    except StageError as error:
        sys.exit(f"{name}: {error}")
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        if not is_output_closed():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python itself complains at its end
        sys.exit(1)
    except OSError as error:
        if not is_disk_full(error):
            raise
        where = error.filename or Path.cwd()
        sys.exit(f"{name}: the disk is full ({where}): free some space, then run this again")


def is_output_closed() -> bool:
    """Whether standard output is a pipe whose reader has had enough, as `head` has."""
    with suppress(OSError):  # it is no file
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
    return False


def is_disk_full(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in DISK_FULL


@contextmanager
def hold_lock(file: Path, message: str) -> Iterator[None]:
    """Hold the lock of `file`; while another process has it, say `message` on stderr and wait."""
    from filelock import FileLock, Timeout  # loads asyncio: what only prints its help does without

    file.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(message, file=sys.stderr, flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def name_some(names: Sequence[str], limit: int = 20) -> str:
    """The first names, for a message."""
    more = f" and {len(names) - limit:,} more" if len(names) > limit else ""
    return (", ".join(names[:limit]) or "none") + more


def end_with_parent() -> None:
    """From now on, end this process at once when the one that started it is gone.

    DVC may start a stage through a shell that outlives it; then the shell's parent counts too.
    """
    import psutil

    try:
        parent = psutil.Process(STARTED_BY)
        watched = [parent, *([parent.parent()] if "-c" in parent.cmdline() else [])]
    except psutil.NoSuchProcess:
        os._exit(1)

    def watch() -> None:
        while os.getppid() == STARTED_BY and all(process is not None and process.is_running() for process in watched):
            time.sleep(PARENT_CHECK_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
