"""A pool of worker processes, one for each processor."""

import multiprocessing
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

from darkroom.pipeline.processors import count_processors
from darkroom.pipeline.stage import StageError, end_with_parent


@contextmanager
def open_worker_pool(tasks: int, param_to_reduce: str) -> Iterator[ProcessPoolExecutor]:
    """Start a process for each processor, but no more than there are tasks. They end with this process.

    Raises:
        StageError: a worker was killed; the message names `param_to_reduce`.
    """
    # Not "fork": a forked copy of a process with threads can hang.
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(max(1, min(count_processors(), tasks)), context, start_worker) as pool:
            yield pool
    except BrokenProcessPool:
        raise StageError(
            "a worker process was killed, most likely because memory ran out; "
            f"close other programs or reduce {param_to_reduce}, then run `dvc repro` again"
        ) from None


def start_worker() -> None:
    """Let the parent handle keyboard interrupts, and end with it: a worker without a parent would wait forever."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
