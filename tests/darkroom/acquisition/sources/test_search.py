from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import pytest

from darkroom.acquisition.candidate import Candidate, PhotoUnavailable
from darkroom.acquisition.clock import Clock
from darkroom.acquisition.ledger import Ledger
from darkroom.acquisition.photo_check import PhotoCheck, PhotoLimits
from darkroom.acquisition.photo_download import PhotoFetcher
from darkroom.acquisition.refresh import CURRENT_SECONDS, Refresh
from darkroom.acquisition.sources.pexels import Pexels
from darkroom.acquisition.sources.search import PAUSES, Search
from darkroom.acquisition.web.client import WebClient
from darkroom.acquisition.web.rate_limit import RequestBudget
from darkroom.params.acquire import AtLimit
from darkroom.pipeline.stage import StageError
from tests.fake_services import FakePexels
from tests.fake_web import Answer, FakeWeb, json_answer

HOUR = 3600
START = 1_900_000_000.0
HTML = Answer(200, b"<!doctype html><title>Sign in</title>", {"Content-Type": "text/html"})
NO_CHANGES = [
    "0 changed at the source: none",
    "0 deleted at the source: none",
    "0 not usable at the source any more, kept as they were: none",
    "0 no longer on the pages that were asked: none",
    "0 new on these pages: none",
]
NO_FILTERS = {"orientation": "any", "size": "any", "color": "any", "locale": "any"}


@dataclass
class OwnTime(Clock):
    """A clock whose sleeps take no time; `slept` holds how long each would have been."""

    moment: float = START
    slept: list[float] = field(default_factory=list)

    def now(self) -> float:
        return self.moment

    def sleep(self, seconds: float, _wake: object = None) -> None:
        self.slept.append(seconds)
        self.moment += seconds


@dataclass
class Place:
    """A folder with a ledger, in which searches are opened as in successive runs of the stage."""

    folder: Path
    web: FakeWeb
    fake: FakePexels
    clock: OwnTime = field(default_factory=OwnTime)

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
            closing(RequestBudget(self.folder / "pexels.sqlite", service.windows, at_limit, self.clock)) as budget,
        ):
            check = PhotoCheck(ledger, PhotoLimits(1, 10_000, 100_000))
            asked_anew = Refresh(ledger, self.clock) if refresh else None
            fetcher = PhotoFetcher(client, ledger, check, asked_anew)
            yield Search(service, client, fetcher, ledger, budget, self.clock, asked_anew)

    def find(self, words: str = "cats", **settings: object) -> list[str]:
        """Everything that is found, by its names."""
        with self.search(**settings) as search:
            return names(search, words)

    def fault(self, words: str = "cats", **settings: object) -> str:
        with pytest.raises(StageError) as caught:
            self.find(words, **settings)
        return str(caught.value)

    @property
    def pages(self) -> list[str]:
        """The pages that were asked for, in this order."""
        return [request.query["page"] for request in self.web.requests_to("api.pexels.com")]

    @property
    def photos_asked(self) -> list[str]:
        """The ids of the photos that were asked for, in this order."""
        return [request.path.split("/")[2] for request in self.web.requests_to("images.pexels.com")]

    def kept_answers(self) -> list[str]:
        with closing(Ledger(self.folder)) as ledger:
            return [body for (body,) in ledger.connection.execute("SELECT body FROM answers")]


def names(search: Search, words: str = "cats") -> list[str]:
    return [candidate.photo for candidate in listed(search, words)]


def read_all(search: Search, limit: int | None = None) -> dict[str, str]:
    """Read each photo, or the first ones; why it cannot be, or nothing, by its name."""
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
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setenv("PEXELS_API_KEY", "test-key")
    with FakeWeb() as web:
        for name, value in web.environment.items():
            monkeypatch.setenv(name, value)
        fake = FakePexels({"cats": range(1, 201)}).install(web)
        fake.month_reset = int(START) + 20 * 86_400
        yield Place(tmp_path / "acquire", web, fake)


class TestPages:
    def test_all_pages_are_asked_once_in_their_order(self, place: Place) -> None:
        assert place.find() == cats(range(1, 201))
        assert place.pages == ["1", "2", "3"]

    def test_a_page_is_asked_only_when_its_photos_are_wanted(self, place: Place) -> None:
        with place.search() as search:
            candidates = listed(search)
            assert place.pages == []
            assert len(list(islice(candidates, 80))) == 80
            assert place.pages == ["1"]
            next(candidates)
            assert place.pages == ["1", "2"]

    def test_a_later_search_asks_only_for_new_pages(self, place: Place) -> None:
        with place.search() as search:
            list(islice(listed(search), 10))
        assert place.find() == cats(range(1, 201))
        assert place.find() == cats(range(1, 201))
        assert place.pages == ["1", "2", "3"]

    def test_a_page_that_is_exactly_full_may_be_the_last(self, place: Place) -> None:
        place.fake.photos["cats"] = range(1, 161)
        assert place.find() == cats(range(1, 161))
        assert place.pages == ["1", "2"]

    @pytest.mark.parametrize("count", [0, 1, 79, 80, 81, 160, 200])
    @pytest.mark.parametrize("omitted", ["next_page", "total", "both"])
    def test_all_are_found_without_a_next_page_or_a_total(self, place: Place, omitted: str, count: int) -> None:
        place.fake.photos["cats"] = range(1, count + 1)
        place.fake.omit_next_page = omitted != "total"
        place.fake.omit_total = omitted != "next_page"
        assert place.find() == cats(range(1, count + 1))
        assert len(place.pages) <= count // 80 + 1

    @pytest.mark.parametrize("omit_next_page", [False, True])
    def test_fewer_photos_than_the_total_says_end_with_an_empty_page(self, place: Place, omit_next_page: bool) -> None:
        place.fake.total_results_extra = 8000
        place.fake.omit_next_page = omit_next_page
        assert place.find() == cats(range(1, 201))
        assert place.pages == ["1", "2", "3", "4"]

    @pytest.mark.parametrize("omit_next_page", [False, True])
    def test_a_short_page_is_not_taken_for_the_last(self, place: Place, omit_next_page: bool) -> None:
        place.fake.withheld = {3, 4, 5, *range(90, 160)}
        place.fake.omit_next_page = omit_next_page
        assert place.find() == cats([number for number in range(1, 201) if number not in place.fake.withheld])

    def test_a_photo_that_moves_to_a_later_page_is_listed_once(self, place: Place) -> None:
        place.fake.photos["cats"] = [*range(1, 81), 80, 79, *range(81, 100), 1]
        assert place.find() == cats(range(1, 100))

    def test_no_results_are_an_empty_list(self, place: Place) -> None:
        assert place.find("words that nothing has") == []
        assert place.pages == ["1"]

    def test_two_labels_are_asked_apart(self, place: Place) -> None:
        place.fake.photos["dogs"] = [7]
        with place.search() as search:
            listing = search.list_photos({"cat": "cats", "dog": "dogs"})
            (dog,) = listing.candidates["dog"]
            assert (dog.photo, dog.label, dog.identity) == ("dog-7", "dog", "7")
            assert place.pages == ["1"]
            assert {candidate.label for candidate in listing.candidates["cat"]} == {"cat"}

    @pytest.mark.parametrize(
        "words", ["Bär im Wald", "a & b = c?", "100% #cats", "日本 猫", "+plus +", '"quoted"', "a/b\\c"]
    )
    def test_words_arrive_as_they_are(self, place: Place, words: str) -> None:
        place.fake.photos[words] = [5]
        assert [place.find(words) for _ in range(2)] == [["cat-5"]] * 2
        assert [request.query["query"] for request in place.web.requests] == [words]

    def test_a_candidate_reads_its_photo(self, place: Place) -> None:
        with place.search() as search:
            content = next(listed(search)).read(100_000)
        assert content.startswith(b"\xff\xd8")
        (request,) = place.web.requests_to("images.pexels.com")
        assert "Authorization" not in request.headers


class TestTrouble:
    @pytest.mark.parametrize(
        "answer",
        [
            Answer(500),
            Answer(503, b"<html>"),
            Answer(drop=True),
            Answer(200, b'{"photos": []}', cut_after=5),
            HTML,
            Answer(200, b""),
            Answer(200, b"\xff\xfe"),
            json_answer({"error": "none"}),
            json_answer([1, 2]),
            json_answer(None),
            Answer(200, b'{"photos": [], "total_results": 0}' + b" " * 100, seconds_per_kilobyte=100),
        ],
        ids=["500", "503", "dropped", "cut", "html", "empty", "bytes", "other", "list", "null", "slow"],
    )
    def test_a_bad_answer_is_asked_again_and_never_kept(self, place: Place, answer: Answer) -> None:
        place.fake.script = [answer]
        assert place.find(timeout_seconds=1) == cats(range(1, 201))
        assert place.pages == ["1", "1", "2", "3"]
        assert len(place.kept_answers()) == 3
        assert all('"photos": [{' in body for body in place.kept_answers())

    @pytest.mark.parametrize(
        ("answer", "reason"),
        [
            (HTML, "the answer is no page of search results"),
            (Answer(502), "HTTP 502"),
            (Answer(drop=True), "no connection"),
            (Answer(200, b"[" * 100_000), "the answer is no page of search results"),
            (Answer(200, b'{"photos": [], "total_results": ' + b"1" * 9999 + b"}"), "the answer is no page of"),
        ],
        ids=["html", "502", "dropped", "deep", "long number"],
    )
    def test_what_stays_bad_ends_the_run_in_one_line_and_is_not_kept(
        self, place: Place, answer: Answer, reason: str
    ) -> None:
        place.fake.script = [answer] * 3
        message = place.fault()
        assert message.startswith(f"Pexels cannot be asked: {reason}")
        assert message.endswith("What was fetched is kept; run again later")
        assert "\n" not in message
        assert place.kept_answers() == []
        assert place.find() == cats(range(1, 201))

    def test_pages_before_the_trouble_are_kept(self, place: Place) -> None:
        with place.search() as search:
            candidates = listed(search)
            list(islice(candidates, 80))
            place.fake.script = [Answer(500)] * 3
            with pytest.raises(StageError):
                next(candidates)
        assert place.find() == cats(range(1, 201))
        assert place.pages == ["1", *"222", *"23"]

    def test_pauses_between_attempts_grow(self, place: Place) -> None:
        place.fake.script = [Answer(500)] * 4
        place.find(attempts=5)
        assert place.clock.slept == [1, 2, 4, 8]

    def test_an_answer_of_endless_size_is_refused(self, place: Place) -> None:
        place.fake.script = [Answer(200, b" " * 10_000_001, chunked=True)]
        assert place.fault().startswith("Pexels cannot be asked: more than 10000000 bytes")

    def test_a_redirect_is_refused_and_the_key_goes_nowhere_else(self, place: Place) -> None:
        place.web.add("images.pexels.com", lambda _: json_answer({"photos": []}))
        place.fake.script = [Answer(302, headers={"Location": "https://images.pexels.com/v1/search"})]
        assert place.fault() == "Pexels refuses: redirects; check the search words and the filters in acquire.pexels"
        assert place.web.requests_to("images.pexels.com") == []
        assert place.kept_answers() == []

    @pytest.mark.parametrize("status", [400, 404, 418])
    def test_a_refusal_is_not_asked_again(self, place: Place, status: int) -> None:
        place.fake.script = [Answer(status)]
        assert place.fault() == (
            f"Pexels refuses: HTTP {status}; check the search words and the filters in acquire.pexels"
        )
        assert place.pages == ["1"]


class TestTooManyRequests:
    def test_a_429_that_passes_is_asked_again_after_a_pause(self, place: Place) -> None:
        place.fake.script = [Answer(429), Answer(429)]
        assert place.find() == cats(range(1, 201))
        assert place.clock.slept == [1, 2]

    def test_the_seconds_that_it_asks_for_are_waited(self, place: Place) -> None:
        place.fake.script = [Answer(429, headers={"Retry-After": "17"})]
        assert place.find() == cats(range(1, 201))
        assert place.clock.slept == [17]

    def test_one_that_stays_is_waited_for_and_said(self, place: Place, capsys: pytest.CaptureFixture[str]) -> None:
        place.fake.script = [Answer(429)] * 3
        assert place.find(at_limit="wait") == cats(range(1, 201))
        assert START + 603 <= place.clock.moment < START + 700
        assert capsys.readouterr().out.splitlines() == [
            "acquire: Pexels: HTTP 429 (too many requests); trying again in 1 s",
            "acquire: Pexels: HTTP 429 (too many requests); trying again in 2 s",
            "acquire: Pexels answers HTTP 429 (too many requests); going on at 2030-03-17 17:56:43 UTC",
        ]

    def test_one_that_stays_for_the_time_that_it_asks_for_is_waited_for(self, place: Place) -> None:
        place.fake.script = [Answer(429, headers={"Retry-After": "3000"})] * 3
        assert place.find() == cats(range(1, 201))
        assert place.clock.moment >= START + 3000

    def test_one_that_stays_stops_the_run_where_that_is_wanted(self, place: Place) -> None:
        place.fake.script = [Answer(429, headers={"Retry-After": "30"})] * 3
        assert place.fault(at_limit="stop") == (
            "Pexels answers HTTP 429 (too many requests); run again at 2030-03-17 17:48:10 UTC. What was fetched is "
            "kept"
        )
        assert len(place.pages) == 3
        assert place.find(at_limit="stop") == cats(range(1, 201))

    def test_one_for_more_than_two_hours_stops_the_run(self, place: Place) -> None:
        place.fake.script = [Answer(429, headers={"Retry-After": "7300"})] * 3
        assert "run again at" in place.fault(at_limit="wait")
        assert place.clock.moment < START + HOUR

    def test_one_that_never_ends_ends_the_run(self, place: Place) -> None:
        place.fake.script = [Answer(429)] * 3 * PAUSES
        assert place.fault() == (
            "Pexels still answers HTTP 429 (too many requests): its limit is used up elsewhere. What was fetched is "
            "kept; run again later"
        )
        assert place.fake.script == []

    @pytest.mark.parametrize("words", ["soon", "-5", "1e9", "Wed, 21 Oct 2015 07:28:00 GMT", "²", ""])
    def test_a_time_that_is_no_number_counts_as_none(self, place: Place, words: str) -> None:
        place.fake.script = [Answer(429, headers={"Retry-After": words})]
        assert place.find() == cats(range(1, 201))
        assert place.clock.slept == [1]


class TestLimits:
    def test_the_hour_is_waited_for_by_the_clients_own_count(self, place: Place) -> None:
        place.fake.hour_limit = 2
        sleep = place.clock.sleep

        def sleep_and_let_the_hour_pass(seconds: float, _wake: object = None) -> None:
            sleep(seconds, _wake)
            if place.clock.moment >= START + HOUR:
                place.fake.hour_used = 0

        place.clock.sleep = sleep_and_let_the_hour_pass
        assert place.find(requests_per_hour=2) == cats(range(1, 201))
        # Not one 429 was provoked.
        assert place.pages == ["1", "2", "3"]
        assert START + HOUR <= place.clock.moment < START + HOUR + 60

    def test_the_hour_stops_the_run_where_that_is_wanted_also_after_a_restart(self, place: Place) -> None:
        for _ in range(2):
            message = place.fault(requests_per_hour=2, at_limit="stop")
            assert message.startswith("the limit of 2 requests per hour is reached; run again at 2030-03-17 18:4")
            assert place.pages == ["1", "2"]
        place.clock.moment += HOUR + 60
        assert place.find(requests_per_hour=2, at_limit="stop") == cats(range(1, 201))

    def test_attempts_that_failed_count_as_requests(self, place: Place) -> None:
        place.fake.script = [Answer(500)] * 2
        assert place.fault(requests_per_hour=3, at_limit="stop").startswith("the limit of 3 requests per hour")
        assert place.pages == ["1", "1", "1"]

    def test_a_month_that_is_used_up_ends_the_run_unasked_also_after_a_restart(self, place: Place) -> None:
        place.fake.month_remaining = 2
        for _ in range(2):
            assert place.fault() == (
                "Pexels allows no more requests until 2030-04-06 17:46:40 UTC (20000 are used up); run again then. "
                "What was fetched is kept"
            )
            assert place.pages == ["1", "2"]
        place.clock.moment = place.fake.month_reset + 1
        place.fake.month_remaining = 20_000
        assert place.find() == cats(range(1, 201))

    def test_pages_that_are_kept_need_no_month(self, place: Place) -> None:
        place.fake.month_remaining = 3
        assert place.find() == place.find() == cats(range(1, 201))

    @pytest.mark.parametrize("requests_per_hour", [50, 200])
    def test_raising_the_requests_per_month_helps_at_once(self, place: Place, requests_per_hour: int) -> None:
        place.fake.month_remaining = 19_900
        message = place.fault(requests_per_month=102, requests_per_hour=requests_per_hour)
        assert message.endswith("(102 are used up); run again then. What was fetched is kept")
        assert place.pages == ["1", "2"]
        assert place.find(requests_per_month=103, requests_per_hour=requests_per_hour) == cats(range(1, 201))

    def test_headers_on_good_answers_only_are_enough(self, place: Place) -> None:
        """Pexels leaves them out of a 429 and of other errors."""
        place.fake.month_remaining = 1
        place.find("nothing")
        place.fake.script = [Answer(500), Answer(429)]
        assert place.fault().startswith("Pexels allows no more requests until ")
        assert len(place.fake.script) == 2

    @pytest.mark.parametrize("value", ["", "many", "1e400"])
    def test_headers_that_are_no_numbers_are_passed_over(self, place: Place, value: str) -> None:
        quota = dict.fromkeys(("X-Ratelimit-Limit", "X-Ratelimit-Remaining", "X-Ratelimit-Reset"), value)
        place.fake.script = [json_answer({"photos": [], "total_results": 0}, headers=quota)]
        assert place.find() == []


class TestFinish:
    def test_a_repetition_asks_nobody_although_a_photo_did_not_come(self, place: Place) -> None:
        place.fake.photos["cats"] = [1, 2, 3]
        place.fake.photo_script[2] = [Answer(403)]
        outcomes = []
        for _ in range(2):
            with place.search() as search:
                outcomes.append(read_all(search))
                assert search.finish() == []
        assert outcomes == [{"cat-1": "", "cat-2": "HTTP 403", "cat-3": ""}] * 2
        assert len(place.web.requests) == 4

    def test_after_a_run_that_was_broken_off_such_a_photo_is_asked_again(self, place: Place) -> None:
        place.fake.photos["cats"] = [1, 2, 3]
        place.fake.photo_script[2] = [Answer(403)]
        with place.search() as search:
            read_all(search)
        with place.search() as search:
            assert read_all(search) == {"cat-1": "", "cat-2": "", "cat-3": ""}
        assert place.photos_asked == ["1", "2", "3", "2"]


class TestRefresh:
    def changes(self, place: Place, act: Callable[[], object] = lambda: None, read: bool = True) -> list[str]:
        """Search and read everything, let `act` change the source, and refresh."""
        for refresh in (False, True):
            with place.search(refresh=refresh) as search:
                read_all(search) if read else names(search)
                changes = search.finish()
            if not refresh:
                assert changes == []
                act()
                place.web.requests.clear()
        return changes

    @pytest.mark.parametrize("read", [False, True])
    def test_every_page_is_asked_anew_and_no_change_is_said_so(self, place: Place, read: bool) -> None:
        place.fake.photos["cats"] = range(1, 91)
        assert self.changes(place, read=read) == NO_CHANGES
        assert place.pages == ["1", "2"]
        assert len(place.photos_asked) == 90 * read

    def test_what_changed_is_named(self, place: Place) -> None:
        place.fake.photos["cats"] = range(1, 9)

        def act() -> None:
            place.fake.changed.add(3)
            place.fake.deleted.add(4)
            place.fake.photo_script[5] = [HTML]
            place.fake.photos["cats"] = [9, 1, 2, 3, 4, 5, 6, 7]

        assert self.changes(place, act) == [
            "1 changed at the source: cat-3",
            "1 deleted at the source: cat-4",
            "1 not usable at the source any more, kept as they were: cat-5",
            "1 no longer on the pages that were asked: cat-8",
            "1 new on these pages: cat-9",
        ]

    def test_a_photo_that_moves_to_another_page_is_not_new(self, place: Place) -> None:
        def act() -> None:
            place.fake.photos["cats"] = range(200, 0, -1)

        assert self.changes(place, act, read=False) == NO_CHANGES

    def test_a_first_search_may_be_one_that_asks_anew(self, place: Place) -> None:
        place.fake.photos["cats"] = [1, 2]
        with place.search(refresh=True) as search:
            assert read_all(search) == {"cat-1": "", "cat-2": ""}
            assert search.finish() == [*NO_CHANGES[:-1], "2 new on these pages: cat-1, cat-2"]

    def test_the_new_answer_takes_the_place_of_the_old_one(self, place: Place) -> None:
        def act() -> None:
            place.fake.photos["cats"] = range(5, 9)

        self.changes(place, act, read=False)
        assert place.find() == cats(range(5, 9))

    def test_without_an_answer_the_old_one_is_kept(self, place: Place) -> None:
        place.find()
        place.fake.script = [Answer(500)] * 3
        assert place.fault(refresh=True).startswith("Pexels cannot be asked: HTTP 500")
        assert place.find() == cats(range(1, 201))


class TestRefreshBrokenOff:
    @pytest.fixture(autouse=True)
    def broken_off(self, place: Place) -> None:
        """Everything was fetched, then the source changed, and a refresh came as far as the first photo of page 2."""
        place.fake.photos["cats"] = range(1, 91)
        with place.search() as search:
            read_all(search)
        place.fake.changed = {3, 85}
        place.fake.deleted = {4, 86}
        place.fake.photos["cats"] = [91, *range(1, 90)]
        place.web.requests.clear()
        with place.search(refresh=True) as search:
            read_all(search, limit=81)
        assert place.pages == ["1", "2"]
        assert place.photos_asked == ["91", *map(str, range(1, 81))]
        place.web.requests.clear()

    def test_it_goes_on_asks_nothing_twice_and_reports_all_that_it_found(self, place: Place) -> None:
        with place.search(refresh=True) as search:
            outcomes = read_all(search)
            changes = search.finish()
        assert [name for name, reason in outcomes.items() if reason] == ["cat-4", "cat-86"]
        assert place.pages == []
        assert place.photos_asked == [str(number) for number in range(81, 90)]
        assert changes == [
            "2 changed at the source: cat-3, cat-85",
            "2 deleted at the source: cat-4, cat-86",
            "0 not usable at the source any more, kept as they were: none",
            "1 no longer on the pages that were asked: cat-90",
            "1 new on these pages: cat-91",
        ]

    def test_a_search_in_between_asks_nothing_and_does_not_end_it(self, place: Place) -> None:
        with place.search() as search:
            assert names(search) == cats([91, *range(1, 90)])
            assert search.finish() == []
        with place.search(refresh=True) as search:
            names(search)
            changes = search.finish()
        assert place.web.requests == []
        assert changes[0] == "1 changed at the source: cat-3"

    def test_it_is_not_ended_by_trouble_with_a_page(self, place: Place) -> None:
        place.fake.photos["cats"] = [*place.fake.photos["cats"], *range(92, 200)]
        place.fake.script = [Answer(500)] * 3
        assert place.fault("dogs", refresh=True).startswith("Pexels cannot be asked: HTTP 500")
        assert place.find(refresh=True) == cats([91, *range(1, 90)])
        assert place.pages == ["1"] * 3

    def test_after_its_end_everything_is_asked_anew(self, place: Place) -> None:
        for _ in range(2):
            with place.search(refresh=True) as search:
                read_all(search)
                changes = search.finish()
        assert place.pages == ["1", "2"]
        assert len(place.photos_asked) == 9 + 90
        assert changes == NO_CHANGES

    def test_after_a_day_it_is_begun_anew(self, place: Place) -> None:
        place.clock.moment += CURRENT_SECONDS + 1
        with place.search(refresh=True) as search:
            names(search)
        assert place.pages == ["1", "2"]
