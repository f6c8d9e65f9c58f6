"""How many requests a service still allows, counted across processes and restarts."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pyrate_limiter import Rate, RateItem, SQLiteBucket
from pyrate_limiter.abstracts.algorithm import Decision

from darkroom.acquisition.clock import Clock, time_of_day
from darkroom.acquisition.ledger import database_errors
from darkroom.params.acquire import AtLimit
from darkroom.pipeline.stage import StageError

# The service counts a request when it arrives. One that was long under way must still have left its window, by the
# service's clock, when the request that takes its place arrives.
MARGIN_SECONDS = 10
LONGEST_WAIT_SECONDS = 2 * 3600
WITHOUT_IT = "the requests that were counted so far are forgotten then"


class Window(NamedTuple):
    """At most `requests` in any `seconds`, which people call a `name`: a minute, an hour."""

    requests: int
    seconds: int
    name: str


class RequestBudget:
    """Sliding windows over the requests that were sent, in a database beside the ledger."""

    def __init__(self, file: Path, windows: Sequence[Window], at_limit: AtLimit, clock: Clock) -> None:
        self.windows = {(window.seconds + MARGIN_SECONDS) * 1000: window for window in windows}
        self.at_limit = at_limit
        self.clock = clock
        file.parent.mkdir(parents=True, exist_ok=True)
        self.file = file
        rates = [Rate(window.requests, interval) for interval, window in self.windows.items()]
        with database_errors(file, WITHOUT_IT):
            self.bucket = SQLiteBucket.init_from_file(binding_rates(rates), db_path=str(file), use_file_lock=True)
            self.bucket.leak(self.now())

    def now(self) -> int:
        return int(self.clock.now() * 1000)

    def take(self) -> None:
        """Count a request that is about to be sent, when its turn has come.

        Raises:
            StageError: the limit is reached, and `at_limit` is "stop" or the wait would be long.
        """
        while True:
            with database_errors(self.file, WITHOUT_IT):
                decision = self.bucket.put_decision(RateItem("request", self.now()))
            assert isinstance(decision, Decision)  # this bucket is not asynchronous
            if decision.failing_rate is None:
                return
            window = self.windows[decision.failing_rate.interval]
            seconds = (decision.retry_after_ms or 0) / 1000
            self.pause(
                self.clock.now() + seconds, f"the limit of {window.requests} requests per {window.name} is reached"
            )

    def pause(self, moment: float, reason: str) -> None:
        """Wait until `moment`, or stop, as `at_limit` says.

        Raises:
            StageError: `at_limit` is "stop" or the wait would be long.
        """
        if self.at_limit == "stop" or moment - self.clock.now() > LONGEST_WAIT_SECONDS:
            raise StageError(f"{reason}; run again at {time_of_day(moment)}. What was fetched is kept")
        self.clock.wait_until(moment, f"acquire: {reason}")

    def close(self) -> None:
        self.bucket.close()  # type: ignore[no-untyped-call]


def binding_rates(rates: Sequence[Rate]) -> list[Rate]:
    """Leave out the rates that others make sure of, which the bucket refuses: 10 an hour is never 20,000 a month."""
    ordered = sorted(rates, key=lambda rate: rate.interval)
    binding: list[Rate] = []
    for rate in ordered:
        if any(rate.limit >= shorter.limit * -(-rate.interval // shorter.interval) for shorter in binding):
            continue
        # The bucket wants a longer window to allow no more in proportion; where it would, a little less is allowed.
        limit = min([rate.limit, *(shorter.limit * rate.interval // shorter.interval for shorter in binding)])
        # A short window that may take as much as this longer one says nothing.
        binding = [shorter for shorter in binding if shorter.limit < limit]
        binding.append(Rate(limit, rate.interval))
    return binding
