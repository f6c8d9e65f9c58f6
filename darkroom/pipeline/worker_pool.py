"""Processes that work beside the stage's own, one for each processor."""

import multiprocessing
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

from darkroom.pipeline.processors import count_processors
from darkroom.pipeline.stage import StageError, end_with_parent


@contextmanager
def open_worker_pool(tasks: int, advice: str) -> Iterator[ProcessPoolExecutor]:
    """Start a process for each processor, but no more than there are tasks; they end with this process.

    Raises:
        StageError: one was ended from outside; `advice` tells what to turn down then.
    """
    # "spawn": a forked copy of a process that has threads can hang.
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(max(1, min(count_processors(), tasks)), context, start_worker) as pool:
            yield pool
    except BrokenProcessPool:
        raise StageError(
            "a worker process was ended from outside, most likely for lack of memory; "
            f"end other programs or turn {advice} down, then run `dvc repro` again"
        ) from None


def start_worker() -> None:
    """A worker without a parent would wait for ever; and an interrupt from the keyboard is for the parent to handle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
