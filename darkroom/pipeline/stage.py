"""Run a stage: report errors in one message, and never run the same stage twice at once in a folder."""

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
INTERRUPTED = 130  # as shells report a process that SIGINT ended
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
NOT_PERMITTED = (errno.EACCES, errno.EPERM, errno.EROFS)


class StageError(Exception):
    """An error that the user can fix. The message says what was received, what was expected, and how to fix it."""


def run_stage(name: str, main: Callable[[], None]) -> None:
    """Run a stage's `main`, one run at a time in this folder. A `StageError` goes to stderr, with exit code 1.

    A stage that DVC started ends soon after DVC is killed, because its outputs would not be used. Until then the next
    run waits here, so that two runs never write the same files at once.
    """
    if "DVC_STAGE" in os.environ:
        end_with_parent()
    message = f"{name}: waiting for an earlier {name} that is still running in this folder"

    def run_alone() -> None:
        with hold_lock(LOCKS_FOLDER / f"{name}.lock", message):
            main()

    run_command(name, run_alone)


def refuse_arguments(name: str, description: str | None) -> None:
    """Reject all arguments of a stage without options, except `--help`, which prints the description."""
    parser = argparse.ArgumentParser(
        prog=f"python -m stages.{name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.parse_args()


def run_command(name: str, main: Callable[[], None]) -> None:
    """Run a `main` that may run several times at once. A `StageError` goes to stderr, with exit code 1."""
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
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # otherwise Python prints an error at exit
        sys.exit(1)
    except OSError as error:
        where = error.filename or Path.cwd()
        if is_disk_full(error):
            sys.exit(f"{name}: the disk is full ({where}): free some space, then run this again")
        if error.errno not in NOT_PERMITTED or error.filename is None:
            raise
        sys.exit(
            f"{name}: {where} cannot be used ({error.strerror}): make it readable and writable for this user, then run "
            "this again"
        )


def is_output_closed() -> bool:
    """Whether standard output is a pipe whose reader has closed it, as `head` does."""
    with suppress(OSError):  # it is not a file
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
    return False


def is_disk_full(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in DISK_FULL


@contextmanager
def hold_lock(file: Path, message: str) -> Iterator[None]:
    """Hold the lock of `file`. While another process holds it, print `message` on stderr and wait."""
    from filelock import FileLock, Timeout  # loads asyncio, which --help does not need

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
    """List the first `limit` names, for a message."""
    more = f" and {len(names) - limit:,} more" if len(names) > limit else ""
    return (", ".join(names[:limit]) or "none") + more


def end_with_parent(started_by: int = STARTED_BY) -> None:
    """From now on, end this process when the process that started it is gone.

    DVC may start a stage through a shell that outlives DVC; then the shell's parent is watched too.

    Args:
        started_by: the ID of that process, by default of the parent when `darkroom` was imported.
    """
    import psutil

    try:
        parent = psutil.Process(started_by)
        watched = [parent, *([parent.parent()] if "-c" in parent.cmdline() else [])]
    except psutil.NoSuchProcess:
        os._exit(1)

    def watch() -> None:
        while os.getppid() == started_by and all(process is not None and process.is_running() for process in watched):
            time.sleep(PARENT_CHECK_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
