"""The processors of this machine."""

import os


def count_processors() -> int:
    """How many processors this process may use, which containers and job systems often make fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
