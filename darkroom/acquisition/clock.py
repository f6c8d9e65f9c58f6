"""The time of day, and waiting for it in sight of the person who waits."""

import threading
import time
from datetime import UTC, datetime

from tqdm import tqdm

SHOWN_SECONDS = 1.0
LAST_MOMENT = 253_402_300_799.0  # of the year 9999, the last that a date can name


class Clock:
    """The system's clock. A subclass with a time of its own makes hours pass in no time."""

    def now(self) -> float:
        """Seconds since 1970, UTC."""
        return time.time()

    def sleep(self, seconds: float, wake: threading.Event | None = None, /) -> None:
        """Sleep, but no longer than until `wake` is set."""
        (wake or threading.Event()).wait(seconds)

    def wait_until(self, moment: float, reason: str) -> None:
        """Say why and until when, then wait for `moment`, with a countdown where a terminal shows one."""
        seconds = max(0.0, moment - self.now())
        tqdm.write(f"{reason}; going on at {time_of_day(moment)}")
        with tqdm(total=round(seconds), desc="waiting", unit="s", disable=None, leave=False) as bar:
            while (left := moment - self.now()) > 0:
                self.sleep(min(SHOWN_SECONDS, left))
                bar.update(round(seconds - left) - bar.n)


def time_of_day(moment: float) -> str:
    """A moment in seconds since 1970 as a person reads it."""
    return datetime.fromtimestamp(min(moment, LAST_MOMENT), UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
