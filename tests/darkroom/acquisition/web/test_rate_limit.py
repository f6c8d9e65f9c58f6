import io
import random
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from itertools import count
from pathlib import Path
from typing import NoReturn

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pyrate_limiter import InMemoryBucket, Rate, RateItem

from darkroom.acquisition.candidate import Candidate
from darkroom.acquisition.clock import Clock, format_timestamp
from darkroom.acquisition.ledger import Ledger
from darkroom.acquisition.photo_check import PhotoCheck, PhotoLimits
from darkroom.acquisition.selection import Selection, Workers, take_each
from darkroom.acquisition.sources.opening import open_source
from darkroom.acquisition.web.rate_limit import MARGIN_SECONDS, RateLimiter, Window, binding_rates
from darkroom.params.acquire import AcquireParams, AtLimit
from darkroom.pipeline.dataset import PhotoRow
from darkroom.pipeline.stage import StageError
from tests.examples import photo_row
from tests.fake_services import FakePexels
from tests.fake_web import FakeWeb, Request, Response

ROOT = Path(__file__).parents[4]
START = 1_789_000_000.0
HOUR = 3600
# Sends as many requests as the rate limiter allows, and prints their number.
SEND_ALL = """
import sys
from pathlib import Path
from darkroom.acquisition.clock import Clock
from darkroom.acquisition.web.rate_limit import RateLimiter, Window
from darkroom.pipeline.stage import StageError

rate_limiter = RateLimiter(Path(sys.argv[1]), [Window(100, 3600, "hour")], "stop", Clock())
print("open", flush=True)
sys.stdin.readline()
sent = 0
try:
    while True:
        rate_limiter.wait_for_slot()
        sent += 1
except StageError as error:
    print(sent, error)
"""


class SimulatedClock(Clock):
    """Time passes only by sleeping, and by `pass_by`."""

    def __init__(self, timestamp: float = START) -> None:
        self.timestamp = timestamp
        self.slept = 0.0
        self.lock = threading.Lock()

    def now(self) -> float:
        return self.timestamp

    def sleep(self, seconds: float, _wake: object = None) -> None:
        self.slept += seconds
        self.pass_by(seconds)

    def pass_by(self, seconds: float) -> None:
        with self.lock:
            self.timestamp += seconds


@pytest.fixture
def clock() -> SimulatedClock:
    return SimulatedClock()


@pytest.fixture
def open_limiter(tmp_path: Path, clock: SimulatedClock) -> Iterator[Callable[..., RateLimiter]]:
    """Opens rate rate_limiters with the same database."""
    rate_limiters = []

    def open_one(*windows: Window, at_limit: AtLimit = "wait") -> RateLimiter:
        rate_limiters.append(RateLimiter(tmp_path / "cache/service.sqlite", windows, at_limit, clock))
        return rate_limiters[-1]

    yield open_one
    for rate_limiter in rate_limiters:
        rate_limiter.close()


def most_in_any(times: Sequence[float], seconds: float) -> int:
    """The largest number of timestamps in any window of the given length, including both of its ends."""
    ordered = sorted(times)
    first, most = 0, 0
    for last, timestamp in enumerate(ordered):
        while timestamp - ordered[first] > seconds:
            first += 1
        most = max(most, last - first + 1)
    return most


def send_requests(
    rate_limiter: RateLimiter, clock: SimulatedClock, seconds: float, pauses: Iterator[float]
) -> list[float]:
    """Send requests for the given time, with pauses between them, and return their timestamps."""
    times = []
    end = clock.now() + seconds
    while clock.now() < end:
        rate_limiter.wait_for_slot()
        times.append(clock.now())
        clock.pass_by(next(pauses))
    return times


class Interrupted(Exception):
    """Raised to interrupt a run."""


def discard_nothing(photo: PhotoRow) -> NoReturn:
    raise AssertionError(photo)


class TestSearches:
    REQUESTS_PER_HOUR = 48
    LABELS = 60
    PHOTOS_PER_CLASS = 8
    PHOTOS = LABELS * PHOTOS_PER_CLASS

    @pytest.fixture
    def params(self) -> AcquireParams:
        return AcquireParams.model_validate(
            {
                "source": "pexels",
                "folder": "photos",
                "classes": {f"label-{number:03}": f"search terms {number}" for number in range(self.LABELS)},
                "photos_per_class": self.PHOTOS_PER_CLASS,
                "minimum_side": 8,
                "maximum_pixels": 1_000_000,
                "maximum_megabytes": 1.0,
                "permission": None,
                "pexels": {
                    "orientation": "any",
                    "size": "any",
                    "color": "any",
                    "locale": "any",
                    "photo_size": "small",
                    "requests_per_hour": self.REQUESTS_PER_HOUR,
                    "requests_per_month": 20_000,
                    "at_limit": "wait",
                },
                "download": {"parallel": 8, "timeout_seconds": 60.0, "attempts": 5},
            }
        )

    def acquire(self, params: AcquireParams, folder: Path, clock: Clock, interrupt_after: int | None) -> list[PhotoRow]:
        """Select the photos with new objects; raise `Interrupted` after the given number of photos."""
        taken = count(1)

        with closing(Ledger(folder / "ledger")) as ledger, ThreadPoolExecutor(8) as pool:
            check = PhotoCheck(ledger, PhotoLimits(params.minimum_side, params.maximum_pixels, 1_000_000))

            def take_one(candidate: Candidate) -> PhotoRow:
                checked = check.check(candidate.read(check.limits.maximum_bytes))
                if next(taken) == interrupt_after:
                    raise Interrupted
                return photo_row(candidate.photo, candidate.label, sha256=checked.sha256)

            workers = Workers(pool, partial(take_each, take_one=take_one), parallel=8, batch_size=1)
            with open_source(params, ledger, check, clock, refresh=False) as opened:
                selection = Selection(opened.listing.candidates, params.photos_per_class, discard_nothing)
                try:
                    photos, rejected = selection.run(workers, lambda _: None)
                finally:
                    opened.stop()
                    pool.shutdown(wait=True, cancel_futures=True)
        assert rejected == []
        return photos

    @pytest.mark.slow
    def test_hundreds_of_photos_stay_within_the_hourly_limit_with_three_restarts(
        self, web: FakeWeb, params: AcquireParams, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PEXELS_API_KEY", "test-key")
        clock = SimulatedClock()
        pexels = FakePexels(
            {words: range(number * 100, number * 100 + 20) for number, words in enumerate(params.classes.values())}
        ).install(web)
        arrivals: list[float] = []
        delays = random.Random(7)

        def respond(request: Request) -> Response:
            # A request may take long to arrive: it counts for the service when it arrives.
            clock.pass_by(delays.choice([0, 0.2, MARGIN_SECONDS - 0.5]))
            arrivals.append(clock.now())
            return pexels.handle_search(request)

        web.add(pexels.API_HOST, respond)
        seen = 0
        # The third of these runs has waited for the second hour when it is interrupted.
        for interrupt_after in (72, 264, 456):
            with pytest.raises(Interrupted):
                self.acquire(params, tmp_path, clock, interrupt_after)
            assert len(arrivals) > seen
            seen = len(arrivals)
            clock.pass_by(60)
        photos = self.acquire(params, tmp_path, clock, interrupt_after=None)

        assert len(photos) == self.PHOTOS
        assert Counter(photo.label for photo in photos) == dict.fromkeys(params.classes, self.PHOTOS_PER_CLASS)
        assert len({photo.sha256 for photo in photos}) == self.PHOTOS
        # The limit was reached, but not exceeded.
        assert most_in_any(arrivals, HOUR) == self.REQUESTS_PER_HOUR
        assert clock.slept > 0
        pages = [(request.query["query"], request.query["page"]) for request in web.requests_to(pexels.API_HOST)]
        assert sorted(pages) == sorted((words, "1") for words in params.classes.values())

    def test_a_repetition_needs_no_request(
        self, web: FakeWeb, params: AcquireParams, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PEXELS_API_KEY", "test-key")
        FakePexels({words: range(n * 100, n * 100 + 20) for n, words in enumerate(params.classes.values())}).install(
            web
        )
        small = params.model_copy(update={"classes": dict(list(params.classes.items())[:3])})
        photos = self.acquire(small, tmp_path, SimulatedClock(), None)
        web.requests.clear()
        assert self.acquire(small, tmp_path, SimulatedClock(), None) == photos
        assert web.requests == []


class TestWaitForSlot:
    def test_the_limit_is_reached_but_not_exceeded_in_any_window(
        self, open_limiter: Callable[..., RateLimiter], clock: SimulatedClock
    ) -> None:
        pauses = random.Random(1)
        rate_limiter = open_limiter(Window(20, 60, "minute"))
        times = send_requests(rate_limiter, clock, 3000, iter(lambda: pauses.choice([0, 0.001, 1, 30]), None))
        assert most_in_any(times, 60) == 20

    def test_a_request_above_the_limit_waits_until_the_first_has_left_the_window_and_the_margin(
        self, open_limiter: Callable[..., RateLimiter], clock: SimulatedClock, capsys: pytest.CaptureFixture[str]
    ) -> None:
        rate_limiter = open_limiter(Window(2, 60, "minute"))
        rate_limiter.wait_for_slot()
        clock.pass_by(5)
        rate_limiter.wait_for_slot()
        clock.pass_by(5)
        rate_limiter.wait_for_slot()
        assert clock.now() == pytest.approx(START + 60 + MARGIN_SECONDS, abs=0.01)
        assert capsys.readouterr().out == (
            "acquire: the limit of 2 requests per minute is reached; resuming at 2026-09-10 00:27:50 UTC\n"
        )

    def test_several_windows_apply_at_once(
        self, open_limiter: Callable[..., RateLimiter], clock: SimulatedClock
    ) -> None:
        rate_limiter = open_limiter(Window(60, 600, "ten minutes"), Window(20, 60, "minute"), Window(90, 3600, "hour"))
        times = send_requests(rate_limiter, clock, 4 * HOUR, iter(lambda: 0.0, None))
        assert [most_in_any(times, seconds) for seconds in (60, 600, HOUR)] == [20, 60, 90]

    def test_a_limit_per_minute_is_waited_for_and_a_limit_per_day_stops(
        self, open_limiter: Callable[..., RateLimiter], clock: SimulatedClock
    ) -> None:
        rate_limiter = open_limiter(Window(20, 60, "minute"), Window(100, 86_400, "day"))
        for _ in range(100):
            rate_limiter.wait_for_slot()
        assert clock.slept > 4 * 60
        with pytest.raises(StageError, match="^the limit of 100 requests per day is reached; run again at "):
            rate_limiter.wait_for_slot()

    def test_requests_before_a_restart_count(
        self, open_limiter: Callable[..., RateLimiter], clock: SimulatedClock
    ) -> None:
        hour = Window(10, HOUR, "hour")
        for _ in range(10):
            rate_limiter = open_limiter(hour, at_limit="stop")
            rate_limiter.wait_for_slot()
            rate_limiter.close()
            clock.pass_by(1)
        with pytest.raises(StageError):
            open_limiter(hour, at_limit="stop").wait_for_slot()
        clock.pass_by(HOUR + MARGIN_SECONDS)
        open_limiter(hour, at_limit="stop").wait_for_slot()

    def test_a_longer_window_counts_earlier_requests(
        self, open_limiter: Callable[..., RateLimiter], clock: SimulatedClock
    ) -> None:
        rate_limiter = open_limiter(Window(5, HOUR, "hour"), at_limit="stop")
        for _ in range(5):
            rate_limiter.wait_for_slot()
        rate_limiter.close()
        clock.pass_by(600)
        with pytest.raises(StageError, match="the limit of 5 requests per day is reached"):
            open_limiter(Window(5, 86_400, "day"), at_limit="stop").wait_for_slot()

    def test_at_limit_stop_says_when_to_run_again(
        self, open_limiter: Callable[..., RateLimiter], clock: SimulatedClock
    ) -> None:
        rate_limiter = open_limiter(Window(2, HOUR, "hour"), at_limit="stop")
        rate_limiter.wait_for_slot()
        clock.pass_by(100)
        rate_limiter.wait_for_slot()
        with pytest.raises(StageError) as caught:
            rate_limiter.wait_for_slot()
        assert str(caught.value) == (
            "the limit of 2 requests per hour is reached; run again at 2026-09-10 01:26:50 UTC. "
            "Downloads so far are saved"
        )
        assert clock.slept == 0
        clock.timestamp = START + HOUR + MARGIN_SECONDS + 0.001
        rate_limiter.wait_for_slot()

    def test_a_wait_of_up_to_two_hours_is_accepted_and_a_longer_one_stops(
        self, open_limiter: Callable[..., RateLimiter], clock: SimulatedClock
    ) -> None:
        rate_limiter = open_limiter(Window(1, 3 * HOUR, "three hours"))
        rate_limiter.wait_for_slot()
        clock.pass_by(HOUR + MARGIN_SECONDS - 1)
        with pytest.raises(StageError, match="^the limit of 1 requests per three hours is reached; run again at "):
            rate_limiter.wait_for_slot()
        assert clock.slept == 0
        clock.pass_by(2)
        rate_limiter.wait_for_slot()
        assert clock.slept == pytest.approx(2 * HOUR - 1, abs=0.01)

    def test_a_stop_counts_no_request(self, open_limiter: Callable[..., RateLimiter], clock: SimulatedClock) -> None:
        rate_limiter = open_limiter(Window(3, HOUR, "hour"), at_limit="stop")
        for _ in range(3):
            rate_limiter.wait_for_slot()
        for _ in range(50):
            with pytest.raises(StageError):
                rate_limiter.wait_for_slot()
        clock.pass_by(HOUR + MARGIN_SECONDS + 1)
        for _ in range(3):
            rate_limiter.wait_for_slot()

    @settings(deadline=None, max_examples=50)
    @given(st.lists(st.sampled_from([0, 1, 30, 55, 70, 200, -1, -30, -100, -5000]), min_size=20, max_size=120))
    def test_a_clock_that_goes_backwards_allows_no_more_requests(
        self, tmp_path_factory: pytest.TempPathFactory, steps: list[int]
    ) -> None:
        clock = SimulatedClock()
        true_time = 0.0
        times = []
        file = tmp_path_factory.mktemp("limits") / "service.sqlite"
        with closing(RateLimiter(file, [Window(5, 60, "minute")], "stop", clock)) as rate_limiter:
            for step in steps:
                # A clock that is set back continues from there; true time only increases.
                true_time += max(step, 1)
                clock.pass_by(step)
                try:
                    rate_limiter.wait_for_slot()
                except StageError:
                    continue
                times.append(true_time)
        assert times
        assert most_in_any(times, 60) <= 5

    def test_two_processes_share_a_rate_limit(self, tmp_path: Path) -> None:
        file = tmp_path / "service.sqlite"
        senders = [
            subprocess.Popen(
                [sys.executable, "-c", SEND_ALL, str(file)],
                cwd=ROOT,
                text=True,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            for _ in range(2)
        ]
        for sender in senders:
            assert sender.stdout
            assert sender.stdout.readline() == "open\n"
        for sender in senders:
            assert sender.stdin
            sender.stdin.write("go\n")
            sender.stdin.flush()
        outputs = [sender.communicate(timeout=60)[0] for sender in senders]
        assert [sender.returncode for sender in senders] == [0, 0]
        assert sum(int(output.split()[0]) for output in outputs) == 100
        assert all("the limit of 100 requests per hour is reached; run again at " in output for output in outputs)


class TestPause:
    def test_it_waits_until_the_timestamp_and_prints_the_reason(
        self, open_limiter: Callable[..., RateLimiter], clock: SimulatedClock, capsys: pytest.CaptureFixture[str]
    ) -> None:
        open_limiter(Window(1, 60, "minute")).pause(START + 100.5, "the service is tired")
        assert clock.now() == START + 100.5
        assert capsys.readouterr().out == "acquire: the service is tired; resuming at 2026-09-10 00:28:20 UTC\n"

    def test_a_timestamp_in_the_past_is_not_waited_for(
        self, open_limiter: Callable[..., RateLimiter], clock: SimulatedClock
    ) -> None:
        open_limiter(Window(1, 60, "minute")).pause(START - 5, "the service was tired")
        assert clock.now() == START

    @pytest.mark.parametrize(("at_limit", "seconds"), [("stop", 1), ("wait", 2 * HOUR + 1)])
    def test_it_stops_if_at_limit_is_stop_or_the_wait_is_long(
        self, open_limiter: Callable[..., RateLimiter], clock: SimulatedClock, at_limit: AtLimit, seconds: int
    ) -> None:
        timestamp = format_timestamp(START + seconds)
        with pytest.raises(
            StageError, match=f"^the service is tired; run again at {timestamp}. Downloads so far are saved"
        ):
            open_limiter(Window(1, 60, "minute"), at_limit=at_limit).pause(START + seconds, "the service is tired")
        assert clock.slept == 0

    @pytest.mark.parametrize("seconds", [float("inf"), 1e15])
    def test_an_impossible_timestamp_stops_too(self, open_limiter: Callable[..., RateLimiter], seconds: float) -> None:
        with pytest.raises(StageError, match="^the service is tired; "):
            open_limiter(Window(1, 60, "minute")).pause(START + seconds, "the service is tired")


class TestClock:
    def test_the_systems_clock_counts_from_1970_and_waits(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        clock = Clock()
        timestamp = clock.now() + 0.05
        clock.wait_until(timestamp, "a test")
        assert clock.now() >= timestamp
        assert abs(tmp_path.stat().st_mtime - timestamp) < HOUR
        assert capsys.readouterr().out == f"a test; resuming at {format_timestamp(timestamp)}\n"

    def test_a_timestamp_is_formatted_in_utc(self) -> None:
        assert format_timestamp(0) == "1970-01-01 00:00:00 UTC"
        assert format_timestamp(1_789_000_000.9) == "2026-09-10 00:26:40 UTC"

    def test_a_wait_counts_down_in_a_terminal(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Terminal(io.StringIO):
            def isatty(self) -> bool:
                return True

        terminal = Terminal()
        monkeypatch.setattr(sys, "stderr", terminal)
        SimulatedClock().wait_until(START + 30, "a test")
        assert "waiting:" in terminal.getvalue()
        assert "/30" in terminal.getvalue()


LIMITS = st.lists(st.builds(Rate, st.integers(1, 40), st.integers(1, 200)), min_size=1, max_size=4)


def binding(*limits: tuple[int, int]) -> list[tuple[int, int]]:
    return [(rate.limit, rate.interval) for rate in binding_rates([Rate(*limit) for limit in limits])]


class TestBindingRates:
    @example([Rate(10, 1000), Rate(15, 1400)])
    @example([Rate(10, 3_610_000), Rate(7185, 2_592_010_000)])
    @given(LIMITS)
    def test_the_bucket_accepts_them(self, rates: list[Rate]) -> None:
        InMemoryBucket(binding_rates(rates))

    @example([Rate(10, 100), Rate(15, 140)])
    @example([Rate(20, 70), Rate(20, 70)])
    @example([Rate(3, 60), Rate(5, 60), Rate(4, 60)])
    @settings(deadline=None)
    @given(LIMITS)
    def test_they_allow_no_more_requests_than_each_of_the_limits(self, rates: list[Rate]) -> None:
        bucket = InMemoryBucket(binding_rates(rates))
        # Add as many as the bucket accepts, each as soon as possible.
        times = []
        for timestamp in range(600):
            while bucket.put(RateItem("request", timestamp)):
                times.append(timestamp)
        assert times
        for rate in rates:
            assert most_in_any(times, rate.interval) <= rate.limit

    @pytest.mark.parametrize(
        "limits",
        [
            pytest.param([(200, 3_610_000), (20_000, 2_592_010_000)], id="Pexels"),
            pytest.param([(20, 70_000), (200, 86_410_000)], id="Openverse"),
        ],
    )
    def test_those_of_the_services_stay_unchanged(self, limits: list[tuple[int, int]]) -> None:
        assert binding(*reversed(limits)) == limits

    def test_one_implied_by_another_is_left_out(self) -> None:
        assert binding((10, 3_610_000), (20_000, 2_592_010_000)) == [(10, 3_610_000)]
        assert binding((200, 70_000), (200, 86_410_000)) == [(200, 86_410_000)]
