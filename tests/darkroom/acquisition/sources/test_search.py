from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import pytest

from darkroom.acquisition.candidate import Candidate, PhotoUnavailable
from darkroom.acquisition.clock import LAST_TIMESTAMP, Clock
from darkroom.acquisition.ledger import Ledger, Quota
from darkroom.acquisition.photo_check import PhotoCheck, PhotoLimits
from darkroom.acquisition.photo_download import PhotoFetcher
from darkroom.acquisition.refresh import CURRENT_SECONDS, Refresh
from darkroom.acquisition.sources.pexels import Pexels
from darkroom.acquisition.sources.search import PAUSES, Search
from darkroom.acquisition.web.client import WebClient
from darkroom.acquisition.web.rate_limit import RateLimiter
from darkroom.params.acquire import AtLimit
from darkroom.pipeline.stage import StageError
from tests.fake_services import FakePexels
from tests.fake_web import FakeWeb, Response, json_response

HOUR = 3600
DAY = 24 * HOUR
START = 1_900_000_000.0
HTML = Response(200, b"<!doctype html><title>Sign in</title>", {"Content-Type": "text/html"})
NO_CHANGES = [
    "0 changed at the source: none",
    "0 deleted at the source: none",
    "0 no longer usable at the source, saved copies used: none",
    "0 no longer on the requested pages of results: none",
    "0 new on the requested pages of results: none",
]
NO_FILTERS = {"orientation": "any", "size": "any", "color": "any", "locale": "any"}


@dataclass
class SimulatedClock(Clock):
    """A clock whose sleeps take no time; `slept` records their durations."""

    timestamp: float = START
    slept: list[float] = field(default_factory=list)

    def now(self) -> float:
        return self.timestamp

    def sleep(self, seconds: float, _wake: object = None) -> None:
        self.slept.append(seconds)
        self.timestamp += seconds


@dataclass
class SearchRuns:
    """A folder with a ledger, and searches that share it like successive runs of the stage."""

    folder: Path
    web: FakeWeb
    fake: FakePexels
    clock: SimulatedClock = field(default_factory=SimulatedClock)

    @contextmanager
    def search(
        self,
        *,
        at_limit: AtLimit = "wait",
        requests_per_hour: int = 200,
        requests_per_month: int = 20_000,
        attempts: int = 3,
        refresh: bool = False,
        timeout_seconds: float = 5,
    ) -> Iterator[Search]:
        service = Pexels(NO_FILTERS, "medium", requests_per_hour, requests_per_month)
        with (
            closing(Ledger(self.folder)) as ledger,
            closing(WebClient(service.hosts, timeout_seconds, attempts, 4, self.clock)) as client,
            closing(RateLimiter(self.folder / "pexels.sqlite", service.windows, at_limit, self.clock)) as rate_limiter,
        ):
            check = PhotoCheck(ledger, PhotoLimits(1, 10_000, 100_000))
            current_refresh = Refresh(ledger, self.clock) if refresh else None
            fetcher = PhotoFetcher(client, ledger, check, current_refresh)
            yield Search(service, client, fetcher, ledger, rate_limiter, self.clock, current_refresh)

    def find(self, words: str = "cats", **settings: object) -> list[str]:
        """The names of all photos that are found."""
        with self.search(**settings) as search:
            return names(search, words)

    def error(self, words: str = "cats", **settings: object) -> str:
        with pytest.raises(StageError) as caught:
            self.find(words, **settings)
        return str(caught.value)

    @property
    def pages(self) -> list[str]:
        """The requested pages, in order."""
        return [request.query["page"] for request in self.web.requests_to("api.pexels.com")]

    @property
    def requested_photos(self) -> list[str]:
        """The ids of the requested photos, in order."""
        return [request.path.split("/")[2] for request in self.web.requests_to("images.pexels.com")]

    def saved_responses(self) -> list[str]:
        with closing(Ledger(self.folder)) as ledger:
            return [body for (body,) in ledger.connection.execute("SELECT body FROM answers")]


def names(search: Search, words: str = "cats") -> list[str]:
    return [candidate.photo for candidate in listed(search, words)]


def read_all(search: Search, limit: int | None = None) -> dict[str, str]:
    """Read all photos, or the first ones; return the reason of each failure, or "", by name."""
    outcomes = {}
    for candidate in islice(listed(search), limit):
        try:
            candidate.read(100_000)
            outcomes[candidate.photo] = ""
        except PhotoUnavailable as error:
            outcomes[candidate.photo] = str(error)
    return outcomes


def listed(search: Search, words: str = "cats") -> Iterator[Candidate]:
    return iter(search.list_photos({"cat": words}).candidates["cat"])


def cats(ids: Sequence[int] | range) -> list[str]:
    return [f"cat-{number}" for number in ids]


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SearchRuns]:
    monkeypatch.setenv("PEXELS_API_KEY", "test-key")
    with FakeWeb() as web:
        for name, value in web.environment.items():
            monkeypatch.setenv(name, value)
        fake = FakePexels({"cats": range(1, 201)}).install(web)
        fake.month_reset = int(START) + 20 * 86_400
        yield SearchRuns(tmp_path / "acquire", web, fake)


class TestPages:
    def test_all_pages_are_requested_once_in_order(self, runs: SearchRuns) -> None:
        assert runs.find() == cats(range(1, 201))
        assert runs.pages == ["1", "2", "3"]

    def test_a_page_is_requested_only_when_its_photos_are_needed(self, runs: SearchRuns) -> None:
        with runs.search() as search:
            candidates = listed(search)
            assert runs.pages == []
            assert len(list(islice(candidates, 80))) == 80
            assert runs.pages == ["1"]
            next(candidates)
            assert runs.pages == ["1", "2"]

    def test_a_later_search_requests_only_new_pages(self, runs: SearchRuns) -> None:
        with runs.search() as search:
            list(islice(listed(search), 10))
        assert runs.find() == cats(range(1, 201))
        assert runs.find() == cats(range(1, 201))
        assert runs.pages == ["1", "2", "3"]

    def test_a_page_that_is_exactly_full_may_be_the_last(self, runs: SearchRuns) -> None:
        runs.fake.photos["cats"] = range(1, 161)
        assert runs.find() == cats(range(1, 161))
        assert runs.pages == ["1", "2"]

    @pytest.mark.parametrize("count", [0, 1, 79, 80, 81, 160, 200])
    @pytest.mark.parametrize("omitted", ["next_page", "total", "both"])
    def test_all_are_found_without_a_next_page_or_a_total(self, runs: SearchRuns, omitted: str, count: int) -> None:
        runs.fake.photos["cats"] = range(1, count + 1)
        runs.fake.omit_next_page = omitted != "total"
        runs.fake.omit_total = omitted != "next_page"
        assert runs.find() == cats(range(1, count + 1))
        assert len(runs.pages) <= count // 80 + 1

    @pytest.mark.parametrize("omit_next_page", [False, True])
    def test_fewer_photos_than_the_total_says_end_with_an_empty_page(
        self, runs: SearchRuns, omit_next_page: bool
    ) -> None:
        runs.fake.total_results_extra = 8000
        runs.fake.omit_next_page = omit_next_page
        assert runs.find() == cats(range(1, 201))
        assert runs.pages == ["1", "2", "3", "4"]

    @pytest.mark.parametrize("omit_next_page", [False, True])
    def test_a_short_page_is_not_taken_for_the_last(self, runs: SearchRuns, omit_next_page: bool) -> None:
        runs.fake.withheld = {3, 4, 5, *range(90, 160)}
        runs.fake.omit_next_page = omit_next_page
        assert runs.find() == cats([number for number in range(1, 201) if number not in runs.fake.withheld])

    def test_a_photo_that_moves_to_a_later_page_is_listed_once(self, runs: SearchRuns) -> None:
        runs.fake.photos["cats"] = [*range(1, 81), 80, 79, *range(81, 100), 1]
        assert runs.find() == cats(range(1, 100))

    def test_no_results_are_an_empty_list(self, runs: SearchRuns) -> None:
        assert runs.find("words that nothing has") == []
        assert runs.pages == ["1"]

    def test_two_labels_are_searched_separately(self, runs: SearchRuns) -> None:
        runs.fake.photos["dogs"] = [7]
        with runs.search() as search:
            listing = search.list_photos({"cat": "cats", "dog": "dogs"})
            (dog,) = listing.candidates["dog"]
            assert (dog.photo, dog.label, dog.identity) == ("dog-7", "dog", "7")
            assert runs.pages == ["1"]
            assert {candidate.label for candidate in listing.candidates["cat"]} == {"cat"}

    @pytest.mark.parametrize(
        "words", ["Bär im Wald", "a & b = c?", "100% #cats", "日本 猫", "+plus +", '"quoted"', "a/b\\c"]
    )
    def test_words_are_sent_unchanged(self, runs: SearchRuns, words: str) -> None:
        runs.fake.photos[words] = [5]
        assert [runs.find(words) for _ in range(2)] == [["cat-5"]] * 2
        assert [request.query["query"] for request in runs.web.requests] == [words]

    def test_a_candidate_reads_its_photo(self, runs: SearchRuns) -> None:
        with runs.search() as search:
            content = next(listed(search)).read(100_000)
        assert content.startswith(b"\xff\xd8")
        (request,) = runs.web.requests_to("images.pexels.com")
        assert "Authorization" not in request.headers


class TestFruitlessPages:
    """Searches whose pages bring nothing new, or nothing that may be requested."""

    ELSEWHERE: Mapping[str, object] = {"src": {"medium": "https://elsewhere.org/1.jpeg"}}

    def page(self, runs: SearchRuns, *ids: int, **changes: object) -> Response:
        """A page of photos, which is not the last one."""
        photos = [runs.fake.describe(number) | changes for number in ids]
        return json_response({"photos": photos, "next_page": "https://api.pexels.com/v1/search/?page=2"})

    def test_the_same_page_again_and_again_ends_the_search(
        self, runs: SearchRuns, capsys: pytest.CaptureFixture[str]
    ) -> None:
        runs.fake.script = [self.page(runs, *range(1, 81))] * 50
        assert [runs.find() for _ in range(2)] == [cats(range(1, 81))] * 2
        assert runs.pages == ["1", "2", "3"]
        assert capsys.readouterr().out == 2 * (
            "acquire: cat: the search for 'cats' ends after page 3, because the last 2 pages have no new usable photo: "
            "listed on an earlier page (160); use other search terms\n"
        )

    def test_photos_on_a_host_that_is_not_allowed_end_the_search(
        self, runs: SearchRuns, capsys: pytest.CaptureFixture[str]
    ) -> None:
        runs.fake.script = [
            self.page(runs, *range(80 * number, 80 * number + 80), **self.ELSEWHERE) for number in range(50)
        ]
        with runs.search() as search:
            outcomes = read_all(search)
        assert outcomes == dict.fromkeys(cats(range(160)), "host not allowed: elsewhere.org")
        assert runs.pages == ["1", "2"]
        assert capsys.readouterr().out == (
            "acquire: cat: the search for 'cats' ends after page 2, because the last 2 pages have no new usable photo: "
            "host not allowed: elsewhere.org (160); try another acquire.pexels.photo_size; if that does not help, "
            "update Darkroom\n"
        )

    def test_entries_without_an_id_end_the_search(self, runs: SearchRuns, capsys: pytest.CaptureFixture[str]) -> None:
        runs.fake.script = [self.page(runs, *range(80), id=None)] * 50
        assert runs.find() == []
        assert runs.pages == ["1", "2"]
        assert "no new usable photo: no entry has an id; use other search terms" in capsys.readouterr().out

    def test_a_page_with_a_single_usable_photo_is_worth_the_next_one(
        self, runs: SearchRuns, capsys: pytest.CaptureFixture[str]
    ) -> None:
        pages = [
            self.page(runs, *range(80), **self.ELSEWHERE),
            self.page(runs, *range(80), 1000),
            self.page(runs, *range(80)),
            self.page(runs, 1001, *range(80)),
        ]
        runs.fake.script = [*pages, json_response({"photos": []})]
        assert runs.find() == cats([*range(80), 1000, 1001])
        assert runs.pages == ["1", "2", "3", "4", "5"]
        assert capsys.readouterr().out == ""

    def test_results_that_have_all_moved_to_the_next_page_do_not_end_the_search(self, runs: SearchRuns) -> None:
        with runs.search() as search:
            list(islice(listed(search), 80))
        runs.fake.photos["cats"] = range(-79, 201)
        assert runs.find() == cats(range(1, 201))

    def test_saved_pages_of_an_earlier_version_give_the_same_photos_without_a_request(self, runs: SearchRuns) -> None:
        runs.fake.script = [self.page(runs, *range(1, 81))] * 3
        found = runs.find()
        with closing(Ledger(runs.folder)) as ledger:
            body = runs.saved_responses()[0]
            for number in range(4, 20):
                ledger.save_response(f"https://api.pexels.com/v1/search?page={number}&per_page=80&query=cats", body)
        runs.web.requests.clear()
        assert runs.find() == found
        assert runs.web.requests == []

    def test_a_refresh_requests_no_more_pages_than_the_search(self, runs: SearchRuns) -> None:
        runs.fake.script = [self.page(runs, *range(1, 81))] * 6
        assert runs.find() == runs.find(refresh=True)
        assert runs.pages == ["1", "2", "3"] * 2


class TestErrors:
    @pytest.mark.parametrize(
        "response",
        [
            Response(500),
            Response(503, b"<html>"),
            Response(drop=True),
            Response(200, b'{"photos": []}', cut_after=5),
            HTML,
            Response(200, b""),
            Response(200, b"\xff\xfe"),
            json_response({"error": "none"}),
            json_response([1, 2]),
            json_response(None),
            Response(200, b'{"photos": [], "total_results": 0}' + b" " * 100, seconds_per_kilobyte=100),
        ],
        ids=["500", "503", "dropped", "cut", "html", "empty", "bytes", "other", "list", "null", "slow"],
    )
    def test_a_bad_response_is_requested_again_and_never_saved(self, runs: SearchRuns, response: Response) -> None:
        runs.fake.script = [response]
        assert runs.find(timeout_seconds=1) == cats(range(1, 201))
        assert runs.pages == ["1", "1", "2", "3"]
        assert len(runs.saved_responses()) == 3
        assert all('"photos": [{' in body for body in runs.saved_responses())

    @pytest.mark.parametrize(
        ("response", "reason"),
        [
            (HTML, "the response is not a page of search results"),
            (Response(502), "HTTP 502"),
            (Response(drop=True), "no connection"),
            (Response(200, b"[" * 100_000), "the response is not a page of search results"),
            (Response(200, b'{"photos": [], "total_results": ' + b"1" * 9999 + b"}"), "the response is not a page of"),
        ],
        ids=["html", "502", "dropped", "deep", "long number"],
    )
    def test_repeated_bad_responses_end_the_run_in_one_line_and_are_not_saved(
        self, runs: SearchRuns, response: Response, reason: str
    ) -> None:
        runs.fake.script = [response] * 3
        message = runs.error()
        assert message.startswith(f"a request to Pexels failed: {reason}")
        assert message.endswith("Downloads so far are saved; run again later")
        assert "\n" not in message
        assert runs.saved_responses() == []
        assert runs.find() == cats(range(1, 201))

    def test_pages_before_the_error_are_saved(self, runs: SearchRuns) -> None:
        with runs.search() as search:
            candidates = listed(search)
            list(islice(candidates, 80))
            runs.fake.script = [Response(500)] * 3
            with pytest.raises(StageError):
                next(candidates)
        assert runs.find() == cats(range(1, 201))
        assert runs.pages == ["1", *"222", *"23"]

    def test_pauses_between_attempts_grow(self, runs: SearchRuns) -> None:
        runs.fake.script = [Response(500)] * 4
        runs.find(attempts=5)
        assert runs.clock.slept == [1, 2, 4, 8]

    def test_an_oversized_response_is_refused(self, runs: SearchRuns) -> None:
        runs.fake.script = [Response(200, b" " * 10_000_001, chunked=True)]
        assert runs.error().startswith("a request to Pexels failed: more than 10000000 bytes")

    def test_a_redirect_is_refused_and_the_key_goes_nowhere_else(self, runs: SearchRuns) -> None:
        runs.web.add("images.pexels.com", lambda _: json_response({"photos": []}))
        runs.fake.script = [Response(302, headers={"Location": "https://images.pexels.com/v1/search"})]
        assert (
            runs.error()
            == "Pexels rejected the request: redirect refused; check the search terms and the filters in acquire.pexels"
        )
        assert runs.web.requests_to("images.pexels.com") == []
        assert runs.saved_responses() == []

    @pytest.mark.parametrize("status", [400, 404, 418])
    def test_a_rejected_request_is_not_repeated(self, runs: SearchRuns, status: int) -> None:
        runs.fake.script = [Response(status)]
        assert runs.error() == (
            f"Pexels rejected the request: HTTP {status}; check the search terms and the filters in acquire.pexels"
        )
        assert runs.pages == ["1"]


class TestTooManyRequests:
    def test_a_temporary_429_is_retried_after_a_pause(self, runs: SearchRuns) -> None:
        runs.fake.script = [Response(429), Response(429)]
        assert runs.find() == cats(range(1, 201))
        assert runs.clock.slept == [1, 2]

    def test_the_requested_seconds_are_waited(self, runs: SearchRuns) -> None:
        runs.fake.script = [Response(429, headers={"Retry-After": "17"})]
        assert runs.find() == cats(range(1, 201))
        assert runs.clock.slept == [17]

    def test_a_lasting_one_is_waited_for_and_reported(
        self, runs: SearchRuns, capsys: pytest.CaptureFixture[str]
    ) -> None:
        runs.fake.script = [Response(429)] * 3
        assert runs.find(at_limit="wait") == cats(range(1, 201))
        assert START + 603 <= runs.clock.timestamp < START + 700
        assert capsys.readouterr().out.splitlines() == [
            "acquire: Pexels: HTTP 429 (too many requests); retrying in 1 s",
            "acquire: Pexels: HTTP 429 (too many requests); retrying in 2 s",
            "acquire: Pexels returned HTTP 429 (too many requests); resuming at 2030-03-17 17:56:43 UTC",
        ]

    def test_a_lasting_one_is_waited_for_as_long_as_requested(self, runs: SearchRuns) -> None:
        runs.fake.script = [Response(429, headers={"Retry-After": "3000"})] * 3
        assert runs.find() == cats(range(1, 201))
        assert runs.clock.timestamp >= START + 3000

    def test_a_lasting_one_stops_the_run_if_at_limit_is_stop(self, runs: SearchRuns) -> None:
        runs.fake.script = [Response(429, headers={"Retry-After": "30"})] * 3
        assert runs.error(at_limit="stop") == (
            "Pexels returned HTTP 429 (too many requests); run again at 2030-03-17 17:48:10 UTC. "
            "Downloads so far are saved"
        )
        assert len(runs.pages) == 3
        assert runs.find(at_limit="stop") == cats(range(1, 201))

    def test_one_for_more_than_two_hours_stops_the_run(self, runs: SearchRuns) -> None:
        runs.fake.script = [Response(429, headers={"Retry-After": "7300"})] * 3
        assert "run again at" in runs.error(at_limit="wait")
        assert runs.clock.timestamp < START + HOUR

    def test_an_endless_one_ends_the_run(self, runs: SearchRuns) -> None:
        runs.fake.script = [Response(429)] * 3 * PAUSES
        assert runs.error() == (
            "Pexels still returns HTTP 429 (too many requests): its limit is used up elsewhere. "
            "Downloads so far are saved; run again later"
        )
        assert runs.fake.script == []

    @pytest.mark.parametrize("words", ["soon", "-5", "1e9", "Wed, 21 Oct 2015 07:28:00 GMT", "²", ""])
    def test_a_time_that_is_not_a_number_is_ignored(self, runs: SearchRuns, words: str) -> None:
        runs.fake.script = [Response(429, headers={"Retry-After": words})]
        assert runs.find() == cats(range(1, 201))
        assert runs.clock.slept == [1]


class TestLimits:
    def test_the_hourly_limit_is_waited_for_by_the_clients_own_count(self, runs: SearchRuns) -> None:
        runs.fake.hour_limit = 2
        sleep = runs.clock.sleep

        def sleep_and_let_the_hour_pass(seconds: float, _wake: object = None) -> None:
            sleep(seconds, _wake)
            if runs.clock.timestamp >= START + HOUR:
                runs.fake.hour_used = 0

        runs.clock.sleep = sleep_and_let_the_hour_pass
        assert runs.find(requests_per_hour=2) == cats(range(1, 201))
        # No 429 was provoked.
        assert runs.pages == ["1", "2", "3"]
        assert START + HOUR <= runs.clock.timestamp < START + HOUR + 60

    def test_the_hourly_limit_stops_the_run_if_at_limit_is_stop_also_after_a_restart(self, runs: SearchRuns) -> None:
        for _ in range(2):
            message = runs.error(requests_per_hour=2, at_limit="stop")
            assert message.startswith("the limit of 2 requests per hour is reached; run again at 2030-03-17 18:4")
            assert runs.pages == ["1", "2"]
        runs.clock.timestamp += HOUR + 60
        assert runs.find(requests_per_hour=2, at_limit="stop") == cats(range(1, 201))

    def test_attempts_that_failed_count_as_requests(self, runs: SearchRuns) -> None:
        runs.fake.script = [Response(500)] * 2
        assert runs.error(requests_per_hour=3, at_limit="stop").startswith("the limit of 3 requests per hour")
        assert runs.pages == ["1", "1", "1"]

    def test_a_used_up_monthly_quota_ends_the_run_without_a_request_also_after_a_restart(
        self, runs: SearchRuns
    ) -> None:
        runs.fake.month_remaining = 2
        for _ in range(2):
            assert runs.error() == (
                "Pexels allows no more requests until 2030-04-06 17:46:40 UTC (20000 are used up); run again then. "
                "Downloads so far are saved"
            )
            assert runs.pages == ["1", "2"]
        runs.clock.timestamp = runs.fake.month_reset + 1
        runs.fake.month_remaining = 20_000
        assert runs.find() == cats(range(1, 201))

    def test_saved_pages_need_no_quota(self, runs: SearchRuns) -> None:
        runs.fake.month_remaining = 3
        assert runs.find() == runs.find() == cats(range(1, 201))

    @pytest.mark.parametrize("requests_per_hour", [50, 200])
    def test_raising_the_requests_per_month_helps_at_once(self, runs: SearchRuns, requests_per_hour: int) -> None:
        runs.fake.month_remaining = 19_900
        message = runs.error(requests_per_month=102, requests_per_hour=requests_per_hour)
        assert message.endswith("(102 are used up); run again then. Downloads so far are saved")
        assert runs.pages == ["1", "2"]
        assert runs.find(requests_per_month=103, requests_per_hour=requests_per_hour) == cats(range(1, 201))

    def test_headers_on_good_responses_only_are_enough(self, runs: SearchRuns) -> None:
        """Pexels omits them in a 429 and other errors."""
        runs.fake.month_remaining = 1
        runs.find("nothing")
        runs.fake.script = [Response(500), Response(429)]
        assert runs.error().startswith("Pexels allows no more requests until ")
        assert len(runs.fake.script) == 2

    @pytest.mark.parametrize("is_saved", [False, True], ids=["in a header", "in a ledger of an earlier version"])
    @pytest.mark.parametrize(
        "quota",
        [
            pytest.param(Quota(20_000, -1, START + DAY), id="negative remainder"),
            pytest.param(Quota(-1, 0, START + DAY), id="negative limit"),
            pytest.param(Quota(0, 0, START + DAY), id="limit of zero"),
            pytest.param(Quota(10**9, 10**9 + 1, START + DAY), id="remainder above the limit"),
            pytest.param(Quota(20_000, 0, START), id="reset now"),
            pytest.param(Quota(20_000, 0, 0), id="reset in the past"),
            pytest.param(Quota(20_000, 0, START + 32 * DAY + 1), id="reset in more than a month"),
            pytest.param(Quota(20_000, 0, LAST_TIMESTAMP), id="reset in the year 9999"),
            pytest.param(Quota(20_000, 0, 1000 * (START + DAY)), id="reset in milliseconds"),
        ],
    )
    def test_a_quota_that_cannot_be_true_locks_nobody_out(self, runs: SearchRuns, quota: Quota, is_saved: bool) -> None:
        if is_saved:
            with closing(Ledger(runs.folder)) as ledger:
                ledger.save_quota("pexels", quota)
        headers = zip(("X-Ratelimit-Limit", "X-Ratelimit-Remaining", "X-Ratelimit-Reset"), quota, strict=True)
        odd = {name: str(int(value)) for name, value in headers}
        runs.fake.script = [json_response({"photos": [], "total_results": 0}, headers=odd)]
        assert runs.find("nothing") == []
        assert runs.find() == cats(range(1, 201))

    def test_a_quota_that_cannot_be_true_does_not_replace_a_true_one(self, runs: SearchRuns) -> None:
        runs.fake.month_remaining = 1
        runs.find("nothing")
        with closing(Ledger(runs.folder)) as ledger:
            true = ledger.find_quota("pexels")
            assert true == Quota(20_000, 0, runs.fake.month_reset)
            ledger.save_quota("pexels", true._replace(remaining=1))
        runs.fake.script = [
            json_response(
                {"photos": [], "total_results": 0},
                headers={"X-Ratelimit-Limit": "9", "X-Ratelimit-Remaining": "10", "X-Ratelimit-Reset": "1"},
            )
        ]
        assert runs.find("something") == []
        with closing(Ledger(runs.folder)) as ledger:
            assert ledger.find_quota("pexels") == true._replace(remaining=1)

    def test_a_quota_of_a_whole_month_is_believed(self, runs: SearchRuns) -> None:
        runs.fake.month_remaining = 1
        runs.fake.month_reset = int(START) + 32 * DAY
        runs.find("nothing")
        assert runs.error().startswith("Pexels allows no more requests until ")

    @pytest.mark.parametrize("value", ["", "many", "1e400"])
    def test_headers_that_are_not_numbers_are_ignored(self, runs: SearchRuns, value: str) -> None:
        quota = dict.fromkeys(("X-Ratelimit-Limit", "X-Ratelimit-Remaining", "X-Ratelimit-Reset"), value)
        runs.fake.script = [json_response({"photos": [], "total_results": 0}, headers=quota)]
        assert runs.find() == []


class TestFinish:
    def test_a_repetition_sends_no_request_although_a_photo_failed(self, runs: SearchRuns) -> None:
        runs.fake.photos["cats"] = [1, 2, 3]
        runs.fake.photo_script[2] = [Response(403)]
        outcomes = []
        for _ in range(2):
            with runs.search() as search:
                outcomes.append(read_all(search))
                assert search.finish() == []
        assert outcomes == [{"cat-1": "", "cat-2": "HTTP 403", "cat-3": ""}] * 2
        assert len(runs.web.requests) == 4

    def test_after_an_interrupted_run_a_failed_photo_is_requested_again(self, runs: SearchRuns) -> None:
        runs.fake.photos["cats"] = [1, 2, 3]
        runs.fake.photo_script[2] = [Response(403)]
        with runs.search() as search:
            read_all(search)
        with runs.search() as search:
            assert read_all(search) == {"cat-1": "", "cat-2": "", "cat-3": ""}
        assert runs.requested_photos == ["1", "2", "3", "2"]


class TestRefresh:
    def changes(self, runs: SearchRuns, act: Callable[[], object] = lambda: None, read: bool = True) -> list[str]:
        """Search and read everything, let `act` change the source, and refresh."""
        for refresh in (False, True):
            with runs.search(refresh=refresh) as search:
                read_all(search) if read else names(search)
                changes = search.finish()
            if not refresh:
                assert changes == []
                act()
                runs.web.requests.clear()
        return changes

    @pytest.mark.parametrize("read", [False, True])
    def test_every_page_is_requested_again_and_no_change_is_reported(self, runs: SearchRuns, read: bool) -> None:
        runs.fake.photos["cats"] = range(1, 91)
        assert self.changes(runs, read=read) == NO_CHANGES
        assert runs.pages == ["1", "2"]
        assert len(runs.requested_photos) == 90 * read

    def test_what_changed_is_named(self, runs: SearchRuns) -> None:
        runs.fake.photos["cats"] = range(1, 9)

        def act() -> None:
            runs.fake.changed.add(3)
            runs.fake.deleted.add(4)
            runs.fake.photo_script[5] = [HTML]
            runs.fake.photos["cats"] = [9, 1, 2, 3, 4, 5, 6, 7]

        assert self.changes(runs, act) == [
            "1 changed at the source: cat-3",
            "1 deleted at the source: cat-4",
            "1 no longer usable at the source, saved copies used: cat-5",
            "1 no longer on the requested pages of results: cat-8",
            "1 new on the requested pages of results: cat-9",
        ]

    def test_a_photo_that_moves_to_another_page_is_not_new(self, runs: SearchRuns) -> None:
        def act() -> None:
            runs.fake.photos["cats"] = range(200, 0, -1)

        assert self.changes(runs, act, read=False) == NO_CHANGES

    def test_a_first_search_may_be_a_refresh(self, runs: SearchRuns) -> None:
        runs.fake.photos["cats"] = [1, 2]
        with runs.search(refresh=True) as search:
            assert read_all(search) == {"cat-1": "", "cat-2": ""}
            assert search.finish() == [*NO_CHANGES[:-1], "2 new on the requested pages of results: cat-1, cat-2"]

    def test_the_new_response_replaces_the_old_one(self, runs: SearchRuns) -> None:
        def act() -> None:
            runs.fake.photos["cats"] = range(5, 9)

        self.changes(runs, act, read=False)
        assert runs.find() == cats(range(5, 9))

    def test_without_a_response_the_old_one_stays(self, runs: SearchRuns) -> None:
        runs.find()
        runs.fake.script = [Response(500)] * 3
        assert runs.error(refresh=True).startswith("a request to Pexels failed: HTTP 500")
        assert runs.find() == cats(range(1, 201))


class TestInterruptedRefresh:
    @pytest.fixture(autouse=True)
    def broken_off(self, runs: SearchRuns) -> None:
        """Everything was downloaded, the source changed, and a refresh got as far as the first photo of page 2."""
        runs.fake.photos["cats"] = range(1, 91)
        with runs.search() as search:
            read_all(search)
        runs.fake.changed = {3, 85}
        runs.fake.deleted = {4, 86}
        runs.fake.photos["cats"] = [91, *range(1, 90)]
        runs.web.requests.clear()
        with runs.search(refresh=True) as search:
            read_all(search, limit=81)
        assert runs.pages == ["1", "2"]
        assert runs.requested_photos == ["91", *map(str, range(1, 81))]
        runs.web.requests.clear()

    def test_it_resumes_repeats_no_request_and_reports_all_changes(self, runs: SearchRuns) -> None:
        with runs.search(refresh=True) as search:
            outcomes = read_all(search)
            changes = search.finish()
        assert [name for name, reason in outcomes.items() if reason] == ["cat-4", "cat-86"]
        assert runs.pages == []
        assert runs.requested_photos == [str(number) for number in range(81, 90)]
        assert changes == [
            "2 changed at the source: cat-3, cat-85",
            "2 deleted at the source: cat-4, cat-86",
            "0 no longer usable at the source, saved copies used: none",
            "1 no longer on the requested pages of results: cat-90",
            "1 new on the requested pages of results: cat-91",
        ]

    def test_a_search_in_between_sends_no_request_and_does_not_end_it(self, runs: SearchRuns) -> None:
        with runs.search() as search:
            assert names(search) == cats([91, *range(1, 90)])
            assert search.finish() == []
        with runs.search(refresh=True) as search:
            names(search)
            changes = search.finish()
        assert runs.web.requests == []
        assert changes[0] == "1 changed at the source: cat-3"

    def test_it_is_not_ended_by_a_failed_page(self, runs: SearchRuns) -> None:
        runs.fake.photos["cats"] = [*runs.fake.photos["cats"], *range(92, 200)]
        runs.fake.script = [Response(500)] * 3
        assert runs.error("dogs", refresh=True).startswith("a request to Pexels failed: HTTP 500")
        assert runs.find(refresh=True) == cats([91, *range(1, 90)])
        assert runs.pages == ["1"] * 3

    def test_after_its_end_everything_is_requested_again(self, runs: SearchRuns) -> None:
        for _ in range(2):
            with runs.search(refresh=True) as search:
                read_all(search)
                changes = search.finish()
        assert runs.pages == ["1", "2"]
        assert len(runs.requested_photos) == 9 + 90
        assert changes == NO_CHANGES

    def test_after_a_day_it_restarts(self, runs: SearchRuns) -> None:
        runs.clock.timestamp += CURRENT_SECONDS + 1
        with runs.search(refresh=True) as search:
            names(search)
        assert runs.pages == ["1", "2"]
