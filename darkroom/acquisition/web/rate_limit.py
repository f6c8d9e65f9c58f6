"""Limit the rate of requests to a service, across processes and restarts."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pyrate_limiter import Rate, RateItem, SQLiteBucket
from pyrate_limiter.abstracts.algorithm import Decision

from darkroom.acquisition.clock import Clock, format_timestamp
from darkroom.acquisition.ledger import database_errors
from darkroom.params.acquire import AtLimit
from darkroom.pipeline.stage import StageError

# A service counts a request when it arrives. Even if a request took long to arrive, it must have left the service's
# window when the next request arrives that counts on its slot.
MARGIN_SECONDS = 10
LONGEST_WAIT_SECONDS = 2 * 3600
AFTER_REMOVAL = "the count of requests so far is then lost"


class Window(NamedTuple):
    """At most `requests` in any `seconds`; `name` is the unit in messages, such as minute or hour."""

    requests: int
    seconds: int
    name: str


class RateLimiter:
    """Sliding-window rate limits; the requests are counted in a database beside the ledger."""

    def __init__(self, file: Path, windows: Sequence[Window], at_limit: AtLimit, clock: Clock) -> None:
        self.windows = {(window.seconds + MARGIN_SECONDS) * 1000: window for window in windows}
        self.at_limit = at_limit
        self.clock = clock
        file.parent.mkdir(parents=True, exist_ok=True)
        self.file = file
        rates = [Rate(window.requests, interval) for interval, window in self.windows.items()]
        with database_errors(file, AFTER_REMOVAL):
            self.bucket = SQLiteBucket.init_from_file(binding_rates(rates), db_path=str(file), use_file_lock=True)
            self.bucket.leak(self.now())

    def now(self) -> int:
        return int(self.clock.now() * 1000)

    def wait_for_slot(self) -> None:
        """Wait until a request may be sent, and count it.

        Raises:
            StageError: the limit is reached, and `at_limit` is "stop" or the wait would be long.
        """
        while True:
            with database_errors(self.file, AFTER_REMOVAL):
                decision = self.bucket.put_decision(RateItem("request", self.now()))
            assert isinstance(decision, Decision)  # this bucket is not asynchronous
            if decision.failing_rate is None:
                return
            window = self.windows[decision.failing_rate.interval]
            seconds = (decision.retry_after_ms or 0) / 1000
            self.pause(
                self.clock.now() + seconds, f"the limit of {window.requests} requests per {window.name} is reached"
            )

    def pause(self, until: float, reason: str) -> None:
        """Wait until the given timestamp, or stop, as `at_limit` says.

        Raises:
            StageError: `at_limit` is "stop" or the wait would be long.
        """
        if self.at_limit == "stop" or until - self.clock.now() > LONGEST_WAIT_SECONDS:
            raise StageError(f"{reason}; run again at {format_timestamp(until)}. Downloads so far are saved")
        self.clock.wait_until(until, f"acquire: {reason}")

    def close(self) -> None:
        self.bucket.close()  # type: ignore[no-untyped-call]


def binding_rates(rates: Sequence[Rate]) -> list[Rate]:
    """Leave out rates implied by others, which the bucket refuses: 10 an hour never make 20,000 a month."""
    ordered = sorted(rates, key=lambda rate: rate.interval)
    binding: list[Rate] = []
    for rate in ordered:
        if any(rate.limit >= shorter.limit * -(-rate.interval // shorter.interval) for shorter in binding):
            continue
        # The bucket requires that a longer window has no higher rate; if it has, its limit is reduced a little.
        limit = min([rate.limit, *(shorter.limit * rate.interval // shorter.interval for shorter in binding)])
        # A shorter window that allows as many requests as this longer one has no effect.
        binding = [shorter for shorter in binding if shorter.limit < limit]
        binding.append(Rate(limit, rate.interval))
    return binding
