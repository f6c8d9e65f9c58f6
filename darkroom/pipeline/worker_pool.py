"""A pool of worker processes, one for each processor."""

import multiprocessing
import os
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
    processes = max(1, min(count_processors(), tasks))
    try:
        with ProcessPoolExecutor(processes, context, start_worker, (os.getpid(),)) as pool:
            yield pool
    except BrokenProcessPool:
        raise StageError(
            "a worker process was killed, most likely because memory ran out; "
            f"close other programs or reduce {param_to_reduce}, then run `dvc repro` again"
        ) from None


def start_worker(parent: int) -> None:
    """Let the parent handle keyboard interrupts, and end with it: a worker without a parent would wait forever.

    `parent` is a process ID, because the parent may have been killed before this process could look it up.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent(parent)
