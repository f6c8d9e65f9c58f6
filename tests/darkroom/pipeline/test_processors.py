import os

import pytest

from darkroom.pipeline.processors import count_processors


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system cannot limit a process's processors")
def test_it_counts_only_processors_that_this_process_may_use() -> None:
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert count_processors() == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert count_processors() == len(allowed)
