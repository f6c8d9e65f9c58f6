import os
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest

from darkroom.pipeline.stage import StageError
from darkroom.pipeline.worker_pool import open_worker_pool
from tests.imports import ROOT

PATIENCE_SECONDS = 30


def test_tasks_run_in_other_processes() -> None:
    with open_worker_pool(2, "nothing") as pool:
        assert set(pool.map(call, [os.getpid] * 4)).isdisjoint({os.getpid()})


def test_a_killed_worker_ends_the_stage_with_advice() -> None:
    with pytest.raises(StageError) as caught, open_worker_pool(1, "augment.image_size") as pool:
        pool.submit(signal.raise_signal, signal.SIGKILL).result()
    assert str(caught.value) == (
        "a worker process was killed, most likely because memory ran out; close other programs or reduce "
        "augment.image_size, then run `dvc repro` again"
    )


def test_workers_ignore_keyboard_interrupts() -> None:
    with open_worker_pool(1, "nothing") as pool:
        pool.submit(signal.raise_signal, signal.SIGINT).result()
        assert pool.submit(call, os.getppid).result() == os.getpid()


def call(function: Callable[[], int]) -> int:
    return function()


# The worker is still importing modules when this process is killed.
KILLED_PARENT = """
import os, signal
from darkroom.pipeline.worker_pool import open_worker_pool
with open_worker_pool(1, "nothing") as pool:
    pool.submit(print)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_worker_whose_parent_is_killed_before_it_is_ready_ends_too() -> None:
    parent = subprocess.Popen([sys.executable, "-c", KILLED_PARENT], cwd=ROOT, stdout=subprocess.PIPE)
    # Reading to the end waits for the worker too, which has inherited the other end.
    parent.communicate(timeout=PATIENCE_SECONDS)
    assert parent.returncode == -signal.SIGKILL
