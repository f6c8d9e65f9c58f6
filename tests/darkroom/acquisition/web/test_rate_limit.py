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
from darkroom.acquisition.clock import Clock, time_of_day
from darkroom.acquisition.ledger import Ledger
from darkroom.acquisition.photo_check import PhotoCheck, PhotoLimits
from darkroom.acquisition.selection import Acquisition, Workers, take_each
from darkroom.acquisition.sources.opening import open_source
from darkroom.acquisition.web.rate_limit import MARGIN_SECONDS, RequestBudget, Window, binding_rates
from darkroom.params.acquire import AcquireParams, AtLimit
from darkroom.pipeline.dataset import PhotoRow
from darkroom.pipeline.stage import StageError
from tests.examples import photo_row
from tests.fake_services import FakePexels
from tests.fake_web import Answer, FakeWeb, Request

ROOT = Path(__file__).parents[4]
START = 1_789_000_000.0
HOUR = 3600
# Takes what it can get of a budget, and says how much that was.
TAKE_ALL = """
import sys
from pathlib import Path
from darkroom.acquisition.clock import Clock
from darkroom.acquisition.web.rate_limit import RequestBudget, Window
from darkroom.pipeline.stage import StageError

budget = RequestBudget(Path(sys.argv[1]), [Window(100, 3600, "hour")], "stop", Clock())
print("open", flush=True)
sys.stdin.readline()
taken = 0
try:
    while True:
        budget.take()
        taken += 1
except StageError as error:
    print(taken, error)
"""


class SimulatedClock(Clock):
    """Time passes only by sleeping, and by `pass_by`."""

    def __init__(self, moment: float = START) -> None:
        self.moment = moment
        self.slept = 0.0
        self.lock = threading.Lock()

    def now(self) -> float:
        return self.moment

    def sleep(self, seconds: float, _wake: object = None) -> None:
        self.slept += seconds
        self.pass_by(seconds)

    def pass_by(self, seconds: float) -> None:
        with self.lock:
            self.moment += seconds


@pytest.fixture
def clock() -> SimulatedClock:
    return SimulatedClock()


@pytest.fixture
def open_budget(tmp_path: Path, clock: SimulatedClock) -> Iterator[Callable[..., RequestBudget]]:
    """Opens budgets of one database."""
    budgets = []

    def open_one(*windows: Window, at_limit: AtLimit = "wait") -> RequestBudget:
        budgets.append(RequestBudget(tmp_path / "cache/service.sqlite", windows, at_limit, clock))
        return budgets[-1]

    yield open_one
    for budget in budgets:
        budget.close()


def most_in_any(times: Sequence[float], seconds: float) -> int:
    """The largest number of moments in any window of so many seconds, both of its ends counted."""
    ordered = sorted(times)
    first, most = 0, 0
    for last, moment in enumerate(ordered):
        while moment - ordered[first] > seconds:
            first += 1
        most = max(most, last - first + 1)
    return most


def take_for(budget: RequestBudget, clock: SimulatedClock, seconds: float, pauses: Iterator[float]) -> list[float]:
    """Take requests for so long, with pauses between them, and tell when each was given."""
    times = []
    end = clock.now() + seconds
    while clock.now() < end:
        budget.take()
        times.append(clock.now())
        clock.pass_by(next(pauses))
    return times


class Interrupted(Exception):
    """What a person or a broken machine does to a run."""


def give_nothing_back(photo: PhotoRow) -> NoReturn:
    raise AssertionError(photo)


class TestSearches:
    REQUESTS_PER_HOUR = 200
    LABELS = 250
    PHOTOS_PER_CLASS = 8
    PHOTOS = LABELS * PHOTOS_PER_CLASS

    @pytest.fixture
    def params(self) -> AcquireParams:
        return AcquireParams.model_validate(
            {
                "source": "pexels",
                "folder": "photos",
                "classes": {f"label-{number:03}": f"search words {number}" for number in range(self.LABELS)},
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
        """Take the photos, all parts that it takes new; after so many photos of this run something happens."""
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
                acquisition = Acquisition(opened.listing.candidates, params.photos_per_class, give_nothing_back)
                try:
                    photos, rejected = acquisition.run(workers, lambda _: None)
                finally:
                    opened.stop()
                    pool.shutdown(wait=True, cancel_futures=True)
        assert rejected == []
        return photos

    @pytest.mark.slow
    def test_two_thousand_photos_come_within_the_limit_of_every_hour_with_three_restarts(
        self, web: FakeWeb, params: AcquireParams, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PEXELS_API_KEY", "test-key")
        clock = SimulatedClock()
        pexels = FakePexels(
            {words: range(number * 100, number * 100 + 20) for number, words in enumerate(params.classes.values())}
        ).install(web)
        arrivals: list[float] = []
        under_way = random.Random(7)

        def answer(request: Request) -> Answer:
            # A request may be long under way: it counts for the service when it arrives.
            clock.pass_by(under_way.choice([0, 0.2, MARGIN_SECONDS - 0.5]))
            arrivals.append(clock.now())
            return pexels.answer_search(request)

        web.add(pexels.API_HOST, answer)
        seen = 0
        # The third of these runs has waited for the second hour when it is broken off.
        for interrupt_after in (300, 1100, 1900):
            with pytest.raises(Interrupted):
                self.acquire(params, tmp_path, clock, interrupt_after)
            assert len(arrivals) > seen
            seen = len(arrivals)
            clock.pass_by(60)
        photos = self.acquire(params, tmp_path, clock, interrupt_after=None)

        assert len(photos) == self.PHOTOS
        assert Counter(photo.label for photo in photos) == dict.fromkeys(params.classes, self.PHOTOS_PER_CLASS)
        assert len({photo.sha256 for photo in photos}) == self.PHOTOS
        # The limit was reached, and not passed.
        assert most_in_any(arrivals, HOUR) == self.REQUESTS_PER_HOUR
        assert clock.slept > 0
        pages = [(request.query["query"], request.query["page"]) for request in web.requests_to(pexels.API_HOST)]
        assert sorted(pages) == sorted((words, "1") for words in params.classes.values())

    def test_what_was_acquired_is_acquired_again_without_a_request(
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


class TestTake:
    def test_the_limit_is_reached_and_not_passed_in_any_window(
        self, open_budget: Callable[..., RequestBudget], clock: SimulatedClock
    ) -> None:
        pauses = random.Random(1)
        budget = open_budget(Window(20, 60, "minute"))
        times = take_for(budget, clock, 3000, iter(lambda: pauses.choice([0, 0.001, 1, 30]), None))
        assert most_in_any(times, 60) == 20

    def test_the_one_too_many_waits_until_the_first_has_left_the_window_and_the_margin(
        self, open_budget: Callable[..., RequestBudget], clock: SimulatedClock, capsys: pytest.CaptureFixture[str]
    ) -> None:
        budget = open_budget(Window(2, 60, "minute"))
        budget.take()
        clock.pass_by(5)
        budget.take()
        clock.pass_by(5)
        budget.take()
        assert clock.now() == pytest.approx(START + 60 + MARGIN_SECONDS, abs=0.01)
        assert capsys.readouterr().out == (
            "acquire: the limit of 2 requests per minute is reached; going on at 2026-09-10 00:27:50 UTC\n"
        )

    def test_several_windows_hold_at_once(
        self, open_budget: Callable[..., RequestBudget], clock: SimulatedClock
    ) -> None:
        budget = open_budget(Window(60, 600, "ten minutes"), Window(20, 60, "minute"), Window(90, 3600, "hour"))
        times = take_for(budget, clock, 4 * HOUR, iter(lambda: 0.0, None))
        assert [most_in_any(times, seconds) for seconds in (60, 600, HOUR)] == [20, 60, 90]

    def test_a_minute_s_limit_is_waited_for_and_a_day_s_stops(
        self, open_budget: Callable[..., RequestBudget], clock: SimulatedClock
    ) -> None:
        budget = open_budget(Window(20, 60, "minute"), Window(100, 86_400, "day"))
        for _ in range(100):
            budget.take()
        assert clock.slept > 4 * 60
        with pytest.raises(StageError, match="^the limit of 100 requests per day is reached; run again at "):
            budget.take()

    def test_what_was_taken_before_a_restart_counts(
        self, open_budget: Callable[..., RequestBudget], clock: SimulatedClock
    ) -> None:
        hour = Window(10, HOUR, "hour")
        for _ in range(10):
            budget = open_budget(hour, at_limit="stop")
            budget.take()
            budget.close()
            clock.pass_by(1)
        with pytest.raises(StageError):
            open_budget(hour, at_limit="stop").take()
        clock.pass_by(HOUR + MARGIN_SECONDS)
        open_budget(hour, at_limit="stop").take()

    def test_a_window_that_is_longer_now_counts_what_was_taken_before(
        self, open_budget: Callable[..., RequestBudget], clock: SimulatedClock
    ) -> None:
        budget = open_budget(Window(5, HOUR, "hour"), at_limit="stop")
        for _ in range(5):
            budget.take()
        budget.close()
        clock.pass_by(600)
        with pytest.raises(StageError, match="the limit of 5 requests per day is reached"):
            open_budget(Window(5, 86_400, "day"), at_limit="stop").take()

    def test_at_limit_stop_says_when_to_run_again(
        self, open_budget: Callable[..., RequestBudget], clock: SimulatedClock
    ) -> None:
        budget = open_budget(Window(2, HOUR, "hour"), at_limit="stop")
        budget.take()
        clock.pass_by(100)
        budget.take()
        with pytest.raises(StageError) as caught:
            budget.take()
        assert str(caught.value) == (
            "the limit of 2 requests per hour is reached; run again at 2026-09-10 01:26:50 UTC. "
            "What was fetched is kept"
        )
        assert clock.slept == 0
        clock.moment = START + HOUR + MARGIN_SECONDS + 0.001
        budget.take()

    def test_a_wait_of_up_to_two_hours_is_waited_and_a_longer_one_stops(
        self, open_budget: Callable[..., RequestBudget], clock: SimulatedClock
    ) -> None:
        budget = open_budget(Window(1, 3 * HOUR, "three hours"))
        budget.take()
        clock.pass_by(HOUR + MARGIN_SECONDS - 1)
        with pytest.raises(StageError, match="^the limit of 1 requests per three hours is reached; run again at "):
            budget.take()
        assert clock.slept == 0
        clock.pass_by(2)
        budget.take()
        assert clock.slept == pytest.approx(2 * HOUR - 1, abs=0.01)

    def test_a_stop_takes_nothing(self, open_budget: Callable[..., RequestBudget], clock: SimulatedClock) -> None:
        budget = open_budget(Window(3, HOUR, "hour"), at_limit="stop")
        for _ in range(3):
            budget.take()
        for _ in range(50):
            with pytest.raises(StageError):
                budget.take()
        clock.pass_by(HOUR + MARGIN_SECONDS + 1)
        for _ in range(3):
            budget.take()

    @settings(deadline=None, max_examples=50)
    @given(st.lists(st.sampled_from([0, 1, 30, 55, 70, 200, -1, -30, -100, -5000]), min_size=20, max_size=120))
    def test_a_clock_that_goes_backwards_lets_no_more_through(
        self, tmp_path_factory: pytest.TempPathFactory, steps: list[int]
    ) -> None:
        clock = SimulatedClock()
        true_time = 0.0
        times = []
        file = tmp_path_factory.mktemp("budget") / "service.sqlite"
        with closing(RequestBudget(file, [Window(5, 60, "minute")], "stop", clock)) as budget:
            for step in steps:
                # A clock that is put back goes on from there; true time only ever goes on.
                true_time += max(step, 1)
                clock.pass_by(step)
                try:
                    budget.take()
                except StageError:
                    continue
                times.append(true_time)
        assert times
        assert most_in_any(times, 60) <= 5

    def test_two_processes_share_a_budget(self, tmp_path: Path) -> None:
        file = tmp_path / "service.sqlite"
        takers = [
            subprocess.Popen(
                [sys.executable, "-c", TAKE_ALL, str(file)],
                cwd=ROOT,
                text=True,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            for _ in range(2)
        ]
        for taker in takers:
            assert taker.stdout
            assert taker.stdout.readline() == "open\n"
        for taker in takers:
            assert taker.stdin
            taker.stdin.write("go\n")
            taker.stdin.flush()
        outputs = [taker.communicate(timeout=60)[0] for taker in takers]
        assert [taker.returncode for taker in takers] == [0, 0]
        assert sum(int(output.split()[0]) for output in outputs) == 100
        assert all("the limit of 100 requests per hour is reached; run again at " in output for output in outputs)


class TestPause:
    def test_it_waits_until_the_moment_and_says_why(
        self, open_budget: Callable[..., RequestBudget], clock: SimulatedClock, capsys: pytest.CaptureFixture[str]
    ) -> None:
        open_budget(Window(1, 60, "minute")).pause(START + 100.5, "the service is tired")
        assert clock.now() == START + 100.5
        assert capsys.readouterr().out == "acquire: the service is tired; going on at 2026-09-10 00:28:20 UTC\n"

    def test_a_moment_that_has_passed_is_not_waited_for(
        self, open_budget: Callable[..., RequestBudget], clock: SimulatedClock
    ) -> None:
        open_budget(Window(1, 60, "minute")).pause(START - 5, "the service was tired")
        assert clock.now() == START

    @pytest.mark.parametrize(("at_limit", "seconds"), [("stop", 1), ("wait", 2 * HOUR + 1)])
    def test_it_stops_where_that_is_wanted_or_the_wait_is_long(
        self, open_budget: Callable[..., RequestBudget], clock: SimulatedClock, at_limit: AtLimit, seconds: int
    ) -> None:
        moment = time_of_day(START + seconds)
        with pytest.raises(StageError, match=f"^the service is tired; run again at {moment}. What was fetched is kept"):
            open_budget(Window(1, 60, "minute"), at_limit=at_limit).pause(START + seconds, "the service is tired")
        assert clock.slept == 0

    @pytest.mark.parametrize("seconds", [float("inf"), 1e15])
    def test_a_moment_that_no_calendar_has_stops_too(
        self, open_budget: Callable[..., RequestBudget], seconds: float
    ) -> None:
        with pytest.raises(StageError, match="^the service is tired; "):
            open_budget(Window(1, 60, "minute")).pause(START + seconds, "the service is tired")


class TestClock:
    def test_the_systems_clock_counts_from_1970_and_waits(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        clock = Clock()
        moment = clock.now() + 0.05
        clock.wait_until(moment, "a test")
        assert clock.now() >= moment
        assert abs(tmp_path.stat().st_mtime - moment) < HOUR
        assert capsys.readouterr().out == f"a test; going on at {time_of_day(moment)}\n"

    def test_a_moment_is_told_in_utc(self) -> None:
        assert time_of_day(0) == "1970-01-01 00:00:00 UTC"
        assert time_of_day(1_789_000_000.9) == "2026-09-10 00:26:40 UTC"

    def test_a_wait_counts_down_where_a_terminal_shows_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
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
    def test_they_let_through_no_more_than_each_of_the_limits(self, rates: list[Rate]) -> None:
        bucket = InMemoryBucket(binding_rates(rates))
        # As many as the bucket takes, each as soon as it takes it.
        times = []
        for moment in range(600):
            while bucket.put(RateItem("request", moment)):
                times.append(moment)
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
    def test_those_of_the_services_stay_as_they_are(self, limits: list[tuple[int, int]]) -> None:
        assert binding(*reversed(limits)) == limits

    def test_one_that_another_makes_sure_of_is_left_out(self) -> None:
        assert binding((10, 3_610_000), (20_000, 2_592_010_000)) == [(10, 3_610_000)]
        assert binding((200, 70_000), (200, 86_410_000)) == [(200, 86_410_000)]
