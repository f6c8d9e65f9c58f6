"""The current time, and waiting with a visible countdown."""

import threading
import time
from datetime import UTC, datetime

from tqdm import tqdm

SHOWN_SECONDS = 1.0
# Services limit requests by the minute, hour, day or month. A longer limit cannot be true. One day more than a month,
# because clocks differ.
LONGEST_LIMIT_SECONDS = 32 * 86_400
LAST_TIMESTAMP = 253_402_300_799.0  # the end of the year 9999, the latest date that datetime supports


class Clock:
    """The system's clock. Tests replace it with a subclass that does not really wait."""

    def now(self) -> float:
        """Seconds since 1970, UTC."""
        return time.time()

    def sleep(self, seconds: float, wake: threading.Event | None = None, /) -> None:
        """Sleep until the time is over or `wake` is set."""
        (wake or threading.Event()).wait(seconds)

    def wait_until(self, timestamp: float, reason: str) -> None:
        """Print the reason and the end of the wait, then wait; a terminal shows a countdown."""
        seconds = max(0.0, timestamp - self.now())
        tqdm.write(f"{reason}; resuming at {format_timestamp(timestamp)}")
        with tqdm(total=round(seconds), desc="waiting", unit="s", disable=None, leave=False) as bar:
            while (left := timestamp - self.now()) > 0:
                self.sleep(min(SHOWN_SECONDS, left))
                bar.update(round(seconds - left) - bar.n)


def format_timestamp(timestamp: float) -> str:
    """Format seconds since 1970 as date and time in UTC."""
    return datetime.fromtimestamp(min(timestamp, LAST_TIMESTAMP), UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
