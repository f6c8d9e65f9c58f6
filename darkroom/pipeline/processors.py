"""The processors of this machine."""

import os


def count_processors() -> int:
    """The number of processors that this process may use; containers and job systems often allow only some."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
