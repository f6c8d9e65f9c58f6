import hashlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from darkroom.acquisition.candidate import PhotoUnavailable
from darkroom.acquisition.clock import Clock
from darkroom.acquisition.ledger import Download, Ledger
from darkroom.acquisition.photo_check import PhotoCheck, PhotoLimits
from darkroom.acquisition.photo_download import GIVE_UP_AFTER, PhotoFetcher
from darkroom.acquisition.refresh import CHANGED, CURRENT_SECONDS, DELETED, UNCHANGED, UNUSABLE, Refresh
from darkroom.acquisition.web.client import WebClient
from darkroom.pipeline.stage import StageError
from tests.examples import encode, noise
from tests.fake_web import Answer, FakeWeb, Request

ROOT = Path(__file__).parents[3]
HOST = "photos.example.org"
ELSEWHERE = "elsewhere.example.org"
LIMIT = 100_000
PHOTO, OTHER = encode(noise(6, 8)), encode(noise(6, 8, seed=1))
HALF = PHOTO[: len(PHOTO) // 2]
HTML = b"<!doctype html><title>Sign in</title>" * 20
# Refreshes a photo, and is killed just before the first statement that begins with the given words.
REFRESH_UNTIL = """
import os
import signal
import sys
from pathlib import Path
from darkroom.acquisition.clock import Clock
from darkroom.acquisition.ledger import Ledger
from darkroom.acquisition.photo_check import PhotoCheck, PhotoLimits
from darkroom.acquisition.photo_download import PhotoFetcher
from darkroom.acquisition.refresh import Refresh
from darkroom.acquisition.web.client import WebClient

folder, host, address, words = sys.argv[1:]
ledger = Ledger(Path(folder))

def kill(statement):
    if statement.startswith(words):
        os.kill(os.getpid(), signal.SIGKILL)

check = PhotoCheck(ledger, PhotoLimits(1, 10_000, 100_000))
fetcher = PhotoFetcher(WebClient([host], 5, 1, 8, Clock()), ledger, check, Refresh(ledger, Clock()))
ledger.connection.set_trace_callback(kill)
fetcher.read(address, 100_000)
"""
pytestmark = pytest.mark.usefixtures("host")


@dataclass
class OwnTime(Clock):
    """Pauses between attempts take no time; it passes only where `moment` is set."""

    moment: float = 1_900_000_000.0

    def now(self) -> float:
        return self.moment

    def sleep(self, seconds: float, wake: object = None) -> None:
        pass


@dataclass
class PhotoHost:
    """Files by path, with ETags; `scripts` holds what the next requests for a path get instead."""

    web: FakeWeb
    files: dict[str, bytes] = field(default_factory=dict)
    scripts: dict[str, list[Answer]] = field(default_factory=dict)

    def answer(self, request: Request) -> Answer:
        if self.scripts.get(request.path):
            return self.scripts[request.path].pop(0)
        content = self.files.get(request.path)
        if content is None:
            return Answer(404)
        headers = {"ETag": etag(content)}
        if request.headers.get("If-None-Match") == etag(content):
            return Answer(304, headers=headers)
        return Answer(200, content, headers)

    @property
    def asked(self) -> list[str]:
        return [request.path for request in self.web.requests_to(HOST)]


@dataclass
class Desk:
    """A ledger in a folder, and fetchers that share it as successive runs of the stage do."""

    folder: Path
    ledger: Ledger
    clients: list[WebClient] = field(default_factory=list)

    clock: OwnTime = field(default_factory=OwnTime)

    def fetcher(
        self,
        *,
        refresh: bool = False,
        attempts: int = 1,
        maximum_pixels: int = 10_000,
        hosts: tuple[str, ...] = (HOST,),
    ) -> PhotoFetcher:
        self.clients.append(WebClient(hosts, 5, attempts, 8, self.clock))
        check = PhotoCheck(self.ledger, PhotoLimits(1, maximum_pixels, LIMIT))
        return PhotoFetcher(self.clients[-1], self.ledger, check, self.refresh() if refresh else None)

    def refresh(self) -> Refresh:
        return Refresh(self.ledger, self.clock)

    def noted(self, path: str = "/1.png") -> str | None:
        return self.refresh().find(address(path))

    def known(self, path: str = "/1.png") -> Download | None:
        return self.ledger.find_download(address(path))

    def put_file(self, content: bytes) -> None:
        """Put a file where the photo of /1.png is kept; the tables do not hear of it."""
        file = self.ledger.photo_file(address("/1.png"))
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)

    def kept_files(self) -> list[bytes]:
        """All photos and parts of photos."""
        places = (self.folder / "photos", self.folder / "partial")
        return [path.read_bytes() for place in places for path in place.rglob("*") if path.is_file()]


def address(path: str) -> str:
    return f"https://{HOST}{path}"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def etag(content: bytes) -> str:
    return f'"{sha256(content)[:8]}"'


def too_large(maximum_bytes: int) -> str:
    return f"larger than allowed: more than {maximum_bytes} bytes"


def redirect(location: str) -> Answer:
    return Answer(302, headers={"Location": location})


def why_not(fetcher: PhotoFetcher, path: str, maximum_bytes: int = LIMIT) -> str:
    with pytest.raises(PhotoUnavailable) as caught:
        fetcher.read(address(path), maximum_bytes)
    return str(caught.value)


@pytest.fixture
def host(web: FakeWeb) -> PhotoHost:
    host = PhotoHost(web, {"/1.png": PHOTO, "/2.png": OTHER})
    web.add(HOST, host.answer)
    return host


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    folder = tmp_path / "acquire"
    with closing(Ledger(folder)) as ledger:
        desk = Desk(folder, ledger)
        yield desk
        for client in desk.clients:
            client.close()


class TestKeeping:
    def test_a_photo_is_fetched_once_and_then_comes_from_the_ledger(self, host: PhotoHost, desk: Desk) -> None:
        for fetcher in (desk.fetcher(), desk.fetcher()):
            assert [fetcher.read(address("/1.png"), LIMIT) for _ in range(2)] == [PHOTO, PHOTO]
        assert host.asked == ["/1.png"]
        assert desk.kept_files() == [PHOTO]

    def test_many_threads_fetch_each_photo_once(self, host: PhotoHost, desk: Desk) -> None:
        host.files = {f"/{number}.png": encode(noise(6, 8, seed=number)) for number in range(40)}
        fetcher = desk.fetcher()
        with ThreadPoolExecutor(8) as pool:
            contents = list(pool.map(lambda path: fetcher.read(address(path), LIMIT), host.files))
        assert contents == list(host.files.values())
        assert sorted(host.asked) == sorted(host.files)

    def test_threads_that_want_one_photo_at_once_fetch_it_once(self, host: PhotoHost, desk: Desk) -> None:
        """Two labels may find the same photo."""
        host.web.delay_seconds = 0.1
        fetcher = desk.fetcher()
        with ThreadPoolExecutor(8) as pool:
            contents = list(pool.map(lambda _: fetcher.read(address("/1.png"), LIMIT), range(8)))
        assert contents == [PHOTO] * 8
        assert host.asked == ["/1.png"]

    def test_the_query_is_part_of_the_address(self, host: PhotoHost, desk: Desk) -> None:
        fetcher = desk.fetcher()
        for query in ("?h=350", "?h=130", "?h=350"):
            fetcher.read(address(f"/1.png{query}"), LIMIT)
        assert [request.query for request in host.web.requests] == [{"h": "350"}, {"h": "130"}]

    def test_a_kept_photo_without_a_row_is_used(self, host: PhotoHost, desk: Desk) -> None:
        """A kill may come after a photo got its name and before the ledger heard of it."""
        desk.put_file(PHOTO)
        assert [desk.fetcher().read(address("/1.png"), LIMIT) for _ in range(2)] == [PHOTO, PHOTO]
        assert host.asked == []
        assert desk.known() == Download(sha256(PHOTO))

    def test_a_kept_photo_of_too_many_pixels_without_a_row_is_used(self, host: PhotoHost, desk: Desk) -> None:
        desk.put_file(PHOTO)
        assert desk.fetcher(maximum_pixels=47).read(address("/1.png"), LIMIT) == PHOTO
        assert host.asked == []

    @pytest.mark.parametrize("content", [HALF, b"", HTML], ids=["cut", "empty", "html"])
    def test_a_kept_file_without_a_row_that_is_no_photo_is_fetched_anew(
        self, host: PhotoHost, desk: Desk, content: bytes
    ) -> None:
        desk.put_file(content)
        assert [desk.fetcher().read(address("/1.png"), LIMIT) for _ in range(2)] == [PHOTO, PHOTO]
        assert host.asked == ["/1.png"]
        assert desk.kept_files() == [PHOTO]
        assert desk.known() == Download(sha256(PHOTO), etag(PHOTO))

    @pytest.mark.parametrize("damaged", [PHOTO[:-10], b"", OTHER], ids=["short", "empty", "another"])
    def test_a_damaged_kept_file_is_fetched_anew(self, host: PhotoHost, desk: Desk, damaged: bytes) -> None:
        desk.fetcher().read(address("/1.png"), LIMIT)
        desk.put_file(damaged)
        assert [desk.fetcher().read(address("/1.png"), LIMIT) for _ in range(2)] == [PHOTO, PHOTO]
        assert host.asked == ["/1.png", "/1.png"]
        assert "If-None-Match" not in host.web.requests[1].headers
        assert desk.kept_files() == [PHOTO]

    def test_a_removed_kept_file_is_fetched_anew(self, host: PhotoHost, desk: Desk) -> None:
        desk.fetcher().read(address("/1.png"), LIMIT)
        desk.ledger.photo_file(address("/1.png")).unlink()
        assert desk.fetcher().read(address("/1.png"), LIMIT) == PHOTO
        assert host.asked == ["/1.png", "/1.png"]

    def test_a_photo_without_an_etag_is_kept_too(self, host: PhotoHost, desk: Desk) -> None:
        host.scripts["/1.png"] = [Answer(200, PHOTO)]
        assert [desk.fetcher().read(address("/1.png"), LIMIT) for _ in range(2)] == [PHOTO, PHOTO]
        assert host.asked == ["/1.png"]


class TestRefusals:
    @pytest.mark.parametrize("status", [404, 410, 451])
    def test_a_photo_that_is_gone_is_remembered_at_once(self, host: PhotoHost, desk: Desk, status: int) -> None:
        host.scripts["/1.png"] = [Answer(status)]
        assert [why_not(desk.fetcher(), "/1.png") for _ in range(2)] == [f"HTTP {status}"] * 2
        assert host.asked == ["/1.png"]
        assert desk.kept_files() == []

    def test_a_picture_of_too_many_pixels_is_kept_because_the_limit_may_change(
        self, host: PhotoHost, desk: Desk
    ) -> None:
        assert desk.fetcher(maximum_pixels=47).read(address("/1.png"), LIMIT) == PHOTO
        assert desk.fetcher(maximum_pixels=48).read(address("/1.png"), LIMIT) == PHOTO
        assert host.asked == ["/1.png"]

    @pytest.mark.parametrize(
        "elsewhere",
        [
            "http://photos.example.org/1.png",
            "https://elsewhere.org/1.png",
            "https://user@photos.example.org/1.png",
            "https://photos.example.org:8443/1.png",
            "https://photos.example.org:port/1.png",
            "file:///etc/passwd",
            "",
            "1.png",
            "https://[::1/1.png",
            "https://photos.example.org\uff0f@elsewhere.org/1.png",
        ],
        ids=ascii,
    )
    def test_an_address_that_is_not_on_the_hosts_is_refused_unasked_every_time(
        self, host: PhotoHost, desk: Desk, elsewhere: str
    ) -> None:
        reasons = []
        for _ in range(2):
            fetcher = desk.fetcher()
            with pytest.raises(PhotoUnavailable) as caught:
                fetcher.read(elsewhere, LIMIT)
            reasons.append(str(caught.value))
            fetcher.finish()
        assert reasons[0] == reasons[1]
        assert reasons[0]
        assert host.web.requests == []
        assert host.web.refused_hosts == []

    def test_addresses_that_are_never_asked_do_not_end_the_run(self, host: PhotoHost, desk: Desk) -> None:
        fetcher = desk.fetcher()
        for number in range(2 * GIVE_UP_AFTER):
            with pytest.raises(PhotoUnavailable, match=f"^not on an allowed host: {ELSEWHERE}$"):
                fetcher.read(f"https://{ELSEWHERE}/{number}.png", LIMIT)
        assert fetcher.read(address("/1.png"), LIMIT) == PHOTO
        assert host.asked == ["/1.png"]

    def test_a_host_that_is_allowed_later_is_asked_then(self, host: PhotoHost, desk: Desk) -> None:
        host.web.add(ELSEWHERE, host.answer)
        elsewhere = f"https://{ELSEWHERE}/1.png"
        fetcher = desk.fetcher()
        with pytest.raises(PhotoUnavailable):
            fetcher.read(elsewhere, LIMIT)
        fetcher.finish()
        assert desk.fetcher(hosts=(HOST, ELSEWHERE)).read(elsewhere, LIMIT) == PHOTO


class TestNoPictures:
    @pytest.mark.parametrize("chunked", [False, True])
    @pytest.mark.parametrize(
        ("body", "reason"),
        [
            (HTML, "not a readable JPEG, PNG, WEBP, GIF, BMP, TIFF file"),
            (b"", "the file is empty"),
            (HALF, "broken: "),
        ],
        ids=["html", "empty", "broken"],
    )
    def test_an_answer_that_is_no_picture_is_remembered_and_not_kept(
        self, host: PhotoHost, desk: Desk, body: bytes, reason: str, chunked: bool
    ) -> None:
        host.scripts["/1.png"] = [Answer(200, body, chunked=chunked)]
        first, again = (why_not(desk.fetcher(), "/1.png") for _ in range(2))
        assert first == again
        assert first.startswith(reason)
        assert host.asked == ["/1.png"]
        assert desk.kept_files() == []
        assert desk.known() == Download(sha256(body))

    def test_what_is_remembered_is_the_verdict_of_the_decoder(self, host: PhotoHost, desk: Desk) -> None:
        host.scripts["/1.png"] = [Answer(200, HTML)]
        fetcher = desk.fetcher()
        reason = why_not(fetcher, "/1.png")
        decoding = desk.ledger.find_decoding(sha256(HTML), fetcher.photo_check.decoder)
        assert decoding is not None
        assert decoding.reason == reason

    def test_another_decoder_asks_anew(self, host: PhotoHost, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
        host.scripts["/1.png"] = [Answer(200, HTML)]
        why_not(desk.fetcher(), "/1.png")
        monkeypatch.setattr("PIL.__version__", "999.0")
        assert desk.fetcher().read(address("/1.png"), LIMIT) == PHOTO
        assert host.asked == ["/1.png", "/1.png"]

    def test_one_that_says_nothing_of_its_end_may_have_been_cut_short(self, host: PhotoHost, desk: Desk) -> None:
        host.scripts["/1.png"] = [Answer(200, HALF, omit_length=True)]
        assert why_not(desk.fetcher(), "/1.png") == "no whole answer"
        assert desk.known() is None
        assert desk.kept_files() == []
        assert desk.fetcher().read(address("/1.png"), LIMIT) == PHOTO

    def test_a_photo_that_says_nothing_of_its_end_is_taken(self, host: PhotoHost, desk: Desk) -> None:
        host.scripts["/1.png"] = [Answer(200, PHOTO, omit_length=True)]
        assert [desk.fetcher().read(address("/1.png"), LIMIT) for _ in range(2)] == [PHOTO, PHOTO]
        assert host.asked == ["/1.png"]


class TestRedirects:
    def test_one_on_the_host_is_followed(self, host: PhotoHost, desk: Desk) -> None:
        host.scripts["/1.png"] = [redirect("/2.png")]
        assert [desk.fetcher().read(address("/1.png"), LIMIT) for _ in range(2)] == [OTHER, OTHER]
        assert host.asked == ["/1.png", "/2.png"]

    @pytest.mark.parametrize("by_way_of", [[], ["/2.png"]], ids=["at once", "by another"])
    def test_one_elsewhere_is_remembered_with_its_target_and_asked_anew_once_that_is_allowed(
        self, host: PhotoHost, desk: Desk, by_way_of: list[str]
    ) -> None:
        path = "/1.png"
        for target in [*by_way_of, f"https://{ELSEWHERE}/1.png"]:
            host.scripts[path] = [redirect(target)] * 2
            path = target
        host.web.add(ELSEWHERE, host.answer)
        reason = f"redirects to an address that is not on an allowed host: {ELSEWHERE}"
        assert [why_not(desk.fetcher(), "/1.png") for _ in range(2)] == [reason] * 2
        assert host.asked == ["/1.png", *by_way_of]
        assert host.web.requests_to(ELSEWHERE) == []
        assert desk.known() == Download(reason=reason, elsewhere=f"https://{ELSEWHERE}/1.png")

        both = (HOST, ELSEWHERE)
        assert [desk.fetcher(hosts=both).read(address("/1.png"), LIMIT) for _ in range(2)] == [PHOTO, PHOTO]
        assert host.asked == ["/1.png", *by_way_of] * 2
        assert len(host.web.requests_to(ELSEWHERE)) == 1
        # The photo is kept now, whatever is allowed later.
        assert desk.fetcher().read(address("/1.png"), LIMIT) == PHOTO

    def test_another_host_that_is_allowed_does_not_ask_anew(self, host: PhotoHost, desk: Desk) -> None:
        host.scripts["/1.png"] = [redirect(f"https://{ELSEWHERE}/1.png")]
        reason = why_not(desk.fetcher(), "/1.png")
        assert why_not(desk.fetcher(hosts=(HOST, "third.example.org")), "/1.png") == reason
        assert host.asked == ["/1.png"]

    @pytest.mark.parametrize(
        ("location", "reason"),
        [
            ("https://[::1/1.png", "redirects to what is no address"),
            ("http://photos.example.org/1.png", "redirects to an address that is not an https address: http"),
            ("/1.png", "redirects"),
        ],
        ids=["no address", "http", "in a circle"],
    )
    def test_one_that_leads_nowhere_is_not_followed_and_remembered_after_the_run(
        self, host: PhotoHost, desk: Desk, location: str, reason: str
    ) -> None:
        host.scripts["/1.png"] = [redirect(location)] * 4
        fetcher = desk.fetcher()
        assert why_not(fetcher, "/1.png") == reason
        fetcher.finish()
        count = len(host.web.requests)
        assert why_not(desk.fetcher(), "/1.png") == reason
        assert len(host.web.requests) == count
        assert host.web.refused_hosts == []


class TestSizes:
    @pytest.mark.parametrize("announced", [True, False])
    def test_a_photo_that_is_too_large_is_remembered_with_its_size(
        self, host: PhotoHost, desk: Desk, announced: bool
    ) -> None:
        size = len(PHOTO)
        host.scripts["/1.png"] = [Answer(200, PHOTO, omit_length=not announced)]
        assert [why_not(desk.fetcher(), "/1.png", size - 1) for _ in range(2)] == [too_large(size - 1)] * 2
        assert why_not(desk.fetcher(), "/1.png", size - 2) == too_large(size - 2)
        assert host.asked == ["/1.png"]
        assert desk.kept_files() == []
        assert desk.known() == Download(more_than_bytes=size - 1)

    def test_a_raised_limit_asks_again(self, host: PhotoHost, desk: Desk) -> None:
        why_not(desk.fetcher(), "/1.png", len(PHOTO) - 1)
        assert desk.fetcher().read(address("/1.png"), len(PHOTO)) == PHOTO
        assert host.asked == ["/1.png", "/1.png"]

    def test_a_limit_raised_below_the_announced_size_does_not_ask(self, host: PhotoHost, desk: Desk) -> None:
        why_not(desk.fetcher(), "/1.png", 10)
        assert why_not(desk.fetcher(), "/1.png", len(PHOTO) - 1) == too_large(len(PHOTO) - 1)
        assert host.asked == ["/1.png"]

    def test_an_endless_number_is_remembered_as_far_as_the_ledger_can_count(self, host: PhotoHost, desk: Desk) -> None:
        host.scripts["/1.png"] = [Answer(200, PHOTO, {"Content-Length": "9" * 40})]
        assert [why_not(desk.fetcher(), "/1.png") for _ in range(2)] == [too_large(LIMIT)] * 2
        assert host.asked == ["/1.png"]

    def test_a_lowered_limit_refuses_a_kept_photo_without_losing_it(self, host: PhotoHost, desk: Desk) -> None:
        desk.fetcher().read(address("/1.png"), LIMIT)
        assert why_not(desk.fetcher(), "/1.png", len(PHOTO) - 1) == too_large(len(PHOTO) - 1)
        assert desk.fetcher().read(address("/1.png"), LIMIT) == PHOTO
        assert host.asked == ["/1.png"]


TRANSIENT = {
    "500": (Answer(500), "no whole answer"),
    "503": (Answer(503), "no whole answer"),
    "429": (Answer(429), "no whole answer"),
    "408": (Answer(408), "no whole answer"),
    "dropped": (Answer(drop=True), "no whole answer"),
    "cut": (Answer(200, PHOTO, cut_after=20), "no whole answer"),
    "400": (Answer(400), "HTTP 400"),
    "401": (Answer(401), "HTTP 401"),
    "403": (Answer(403), "HTTP 403"),
}


class TestTransientFailures:
    @pytest.mark.parametrize(("answer", "reason"), TRANSIENT.values(), ids=TRANSIENT)
    def test_a_run_that_was_broken_off_remembers_none(
        self, host: PhotoHost, desk: Desk, answer: Answer, reason: str
    ) -> None:
        host.scripts["/1.png"] = [answer]
        assert why_not(desk.fetcher(), "/1.png") == reason
        assert desk.kept_files() == []
        assert desk.known() is None
        assert desk.fetcher().read(address("/1.png"), LIMIT) == PHOTO
        assert host.asked == ["/1.png"] * 2

    @pytest.mark.parametrize(("answer", "reason"), TRANSIENT.values(), ids=TRANSIENT)
    def test_after_a_run_that_ended_well_a_repetition_asks_nobody_and_says_the_same(
        self, host: PhotoHost, desk: Desk, answer: Answer, reason: str
    ) -> None:
        host.scripts["/1.png"] = [answer]
        fetcher = desk.fetcher()
        assert why_not(fetcher, "/1.png") == reason
        fetcher.finish()
        assert why_not(desk.fetcher(), "/1.png") == reason
        assert host.asked == ["/1.png"]
        assert desk.kept_files() == []

    @pytest.mark.parametrize("answer", [Answer(503), Answer(403)], ids=["503", "403"])
    def test_the_second_label_that_found_it_hears_the_same_unasked(
        self, host: PhotoHost, desk: Desk, answer: Answer
    ) -> None:
        host.scripts["/1.png"] = [answer]
        fetcher = desk.fetcher()
        first, again = (why_not(fetcher, "/1.png") for _ in range(2))
        assert first == again
        assert host.asked == ["/1.png"]

    def test_those_without_an_answer_are_tried_again_and_refusals_are_not(self, host: PhotoHost, desk: Desk) -> None:
        host.scripts = {"/1.png": [Answer(503), Answer(503)], "/2.png": [Answer(403)]}
        fetcher = desk.fetcher(attempts=3)
        assert fetcher.read(address("/1.png"), LIMIT) == PHOTO
        assert why_not(fetcher, "/2.png") == "HTTP 403"
        assert host.asked == ["/1.png"] * 3 + ["/2.png"]

    @pytest.mark.parametrize(
        ("answer", "reason", "cause"),
        [
            (Answer(503), "no whole answer", "HTTP 503"),
            (Answer(200, HTML, omit_length=True), "no whole answer", "the answer may have been cut short"),
            (Answer(403), "HTTP 403", "HTTP 403"),
        ],
        ids=["503", "cut short", "403"],
    )
    def test_ten_photos_in_a_row_end_the_run_and_none_is_remembered(
        self, host: PhotoHost, desk: Desk, answer: Answer, reason: str, cause: str
    ) -> None:
        fetcher = desk.fetcher()
        paths = [f"/{number}.png" for number in range(100, 100 + GIVE_UP_AFTER)]
        host.files = dict.fromkeys(paths, PHOTO)
        host.scripts = {path: [answer] for path in paths}
        for path in paths[:-1]:
            assert why_not(fetcher, path) == reason
        with pytest.raises(StageError) as caught:
            fetcher.read(address(paths[-1]), LIMIT)
        assert str(caught.value) == (
            f"10 photos in a row could not be fetched ({cause}): the network or the host seems to be away. What was "
            "fetched is kept; run again when it is back"
        )
        again = desk.fetcher()
        assert [again.read(address(path), LIMIT) for path in paths] == [PHOTO] * len(paths)

    @pytest.mark.parametrize(
        "answer",
        [
            Answer(200, PHOTO),
            Answer(404),
            Answer(200, HTML),
            redirect("https://elsewhere.org/"),
            Answer(200, bytes(LIMIT + 1)),
        ],
        ids=["photo", "404", "html", "redirect", "too large"],
    )
    def test_any_answer_begins_the_count_anew(self, host: PhotoHost, desk: Desk, answer: Answer) -> None:
        fetcher = desk.fetcher()
        host.scripts = {f"/{number}.png": [Answer(503)] for number in range(100, 130)}
        host.scripts |= {f"/{number}.png": [answer] for number in (105, 114, 123)}
        for number in range(100, 130):
            try:
                fetcher.read(address(f"/{number}.png"), LIMIT)
            except PhotoUnavailable:
                continue
        assert len(host.asked) == 30

    def test_a_kept_photo_is_used_although_its_host_refuses_by_now(self, host: PhotoHost, desk: Desk) -> None:
        desk.fetcher().read(address("/1.png"), LIMIT)
        host.scripts["/1.png"] = [Answer(403)]
        assert desk.fetcher().read(address("/1.png"), LIMIT) == PHOTO
        assert host.asked == ["/1.png"]

    def test_after_the_client_is_closed_nothing_is_remembered_and_no_part_stays(self, desk: Desk) -> None:
        fetcher = desk.fetcher(attempts=3)
        desk.clients[0].close()
        assert why_not(fetcher, "/1.png") == "no longer wanted"
        fetcher.finish()
        assert desk.kept_files() == []
        assert desk.known() is None


class TestRefresh:
    @pytest.fixture(autouse=True)
    def fetched_before(self, host: PhotoHost, desk: Desk) -> None:
        for path in ("/1.png", "/2.png"):
            desk.fetcher().read(address(path), LIMIT)
        host.web.requests.clear()

    def test_an_unchanged_photo_is_not_sent_again(self, host: PhotoHost, desk: Desk) -> None:
        assert desk.fetcher(refresh=True).read(address("/1.png"), LIMIT) == PHOTO
        (request,) = host.web.requests
        assert request.headers["If-None-Match"] == etag(PHOTO)
        assert desk.noted() == UNCHANGED
        assert desk.known() == Download(sha256(PHOTO), etag(PHOTO))

    def test_the_same_bytes_without_an_etag_are_no_change(self, host: PhotoHost, desk: Desk) -> None:
        host.scripts["/1.png"] = [Answer(200, PHOTO)]
        assert desk.fetcher(refresh=True).read(address("/1.png"), LIMIT) == PHOTO
        assert desk.noted() == UNCHANGED

    def test_a_changed_photo_takes_the_place_of_the_old_one_and_is_noted(self, host: PhotoHost, desk: Desk) -> None:
        host.files["/1.png"] = changed = encode(noise(6, 8, seed=7))
        assert desk.fetcher(refresh=True).read(address("/1.png"), LIMIT) == changed
        assert desk.noted() == CHANGED
        assert desk.fetcher().read(address("/1.png"), LIMIT) == changed
        assert sorted(desk.kept_files()) == sorted([changed, OTHER])
        assert host.asked == ["/1.png"]

    @pytest.mark.parametrize("status", [404, 410, 451])
    def test_a_deleted_photo_is_removed_and_noted(self, host: PhotoHost, desk: Desk, status: int) -> None:
        host.scripts["/1.png"] = [Answer(status)]
        fetcher = desk.fetcher(refresh=True)
        assert [why_not(fetcher, "/1.png") for _ in range(2)] == [f"HTTP {status}"] * 2
        assert desk.noted() == DELETED
        assert why_not(desk.fetcher(), "/1.png") == f"HTTP {status}"
        assert desk.kept_files() == [OTHER]
        assert host.asked == ["/1.png"]

    @pytest.mark.parametrize(
        "answer",
        [
            Answer(200, HTML),
            Answer(200, b""),
            Answer(200, HALF, chunked=True),
            Answer(200, bytes(LIMIT + 1)),
            Answer(200, bytes(LIMIT + 1), omit_length=True),
            redirect(f"https://{ELSEWHERE}/1.png"),
        ],
        ids=["html", "empty", "broken", "too large", "too large, unannounced", "elsewhere"],
    )
    def test_what_cannot_be_used_does_not_take_the_place_of_the_kept_one(
        self, host: PhotoHost, desk: Desk, answer: Answer
    ) -> None:
        host.scripts["/1.png"] = [answer]
        fetcher = desk.fetcher(refresh=True)
        assert [fetcher.read(address("/1.png"), LIMIT) for _ in range(2)] == [PHOTO, PHOTO]
        assert desk.noted() == UNUSABLE
        assert desk.known() == Download(sha256(PHOTO), etag(PHOTO))
        assert desk.fetcher().read(address("/1.png"), LIMIT) == PHOTO
        assert host.asked == ["/1.png"]
        assert sorted(desk.kept_files()) == sorted([PHOTO, OTHER])

    @pytest.mark.parametrize(
        "answer",
        [Answer(503), Answer(drop=True), Answer(200, HTML, omit_length=True), Answer(403)],
        ids=["503", "dropped", "cut short", "403"],
    )
    def test_without_an_answer_the_kept_photo_is_used_and_the_refresh_asks_again(
        self, host: PhotoHost, desk: Desk, answer: Answer
    ) -> None:
        host.scripts["/1.png"] = [answer]
        fetcher = desk.fetcher(refresh=True)
        assert fetcher.read(address("/1.png"), LIMIT) == PHOTO
        fetcher.finish()
        assert desk.noted() is None
        assert desk.known() == Download(sha256(PHOTO), etag(PHOTO))
        host.files["/1.png"] = changed = encode(noise(6, 8, seed=7))
        assert desk.fetcher(refresh=True).read(address("/1.png"), LIMIT) == changed
        assert desk.noted() == CHANGED
        assert host.asked == ["/1.png", "/1.png"]

    @pytest.mark.parametrize("answer", [Answer(404), Answer(200, HTML)], ids=["404", "html"])
    def test_what_could_not_be_used_before_is_asked_again_and_is_no_change(
        self, host: PhotoHost, desk: Desk, answer: Answer
    ) -> None:
        host.scripts["/3.png"] = [answer, answer]
        reason = why_not(desk.fetcher(), "/3.png")
        assert why_not(desk.fetcher(refresh=True), "/3.png") == reason
        assert desk.noted("/3.png") == UNCHANGED
        assert host.asked == ["/3.png", "/3.png"]

    def test_what_did_not_come_before_is_asked_again(self, host: PhotoHost, desk: Desk) -> None:
        host.files["/3.png"] = PHOTO
        host.scripts["/3.png"] = [Answer(503)]
        fetcher = desk.fetcher()
        why_not(fetcher, "/3.png")
        fetcher.finish()
        assert desk.fetcher(refresh=True).read(address("/3.png"), LIMIT) == PHOTO
        assert desk.fetcher().read(address("/3.png"), LIMIT) == PHOTO
        assert host.asked == ["/3.png", "/3.png"]

    def test_a_photo_that_did_not_come_is_asked_once_and_said_to_be_so(self, host: PhotoHost, desk: Desk) -> None:
        """What a repetition finds must be what this run found, also where two labels want the photo."""
        host.files["/3.png"] = PHOTO
        host.scripts["/3.png"] = [Answer(503)]
        fetcher = desk.fetcher(refresh=True)
        assert [why_not(fetcher, "/3.png") for _ in range(2)] == ["no whole answer"] * 2
        fetcher.finish()
        assert why_not(desk.fetcher(), "/3.png") == "no whole answer"
        assert host.asked == ["/3.png"]

    def test_photos_that_are_unchanged_begin_the_count_of_failures_anew(self, host: PhotoHost, desk: Desk) -> None:
        fetcher = desk.fetcher(refresh=True)
        host.scripts = {f"/{number}.png": [Answer(503)] for number in range(100, 100 + 2 * GIVE_UP_AFTER - 2)}
        paths = list(host.scripts)
        for path in paths[: GIVE_UP_AFTER - 1]:
            why_not(fetcher, path)
        assert fetcher.read(address("/1.png"), LIMIT) == PHOTO
        for path in paths[GIVE_UP_AFTER - 1 :]:
            assert why_not(fetcher, path) == "no whole answer"

    def test_a_deleted_photo_that_is_back_is_taken_again(self, host: PhotoHost, desk: Desk) -> None:
        host.scripts["/1.png"] = [Answer(404)]
        why_not(desk.fetcher(refresh=True), "/1.png")
        desk.refresh().finish({}, {})
        assert desk.fetcher(refresh=True).read(address("/1.png"), LIMIT) == PHOTO
        assert desk.noted() == UNCHANGED

    def test_each_address_is_asked_once(self, host: PhotoHost, desk: Desk) -> None:
        fetcher = desk.fetcher(refresh=True)
        for path in ("/1.png", "/2.png", "/1.png", "/2.png"):
            fetcher.read(address(path), LIMIT)
        assert host.asked == ["/1.png", "/2.png"]

    def test_one_that_was_broken_off_goes_on_within_a_day(self, host: PhotoHost, desk: Desk) -> None:
        host.scripts["/1.png"] = [Answer(404)]
        why_not(desk.fetcher(refresh=True), "/1.png")
        desk.clock.moment += CURRENT_SECONDS - 1
        fetcher = desk.fetcher(refresh=True)
        assert why_not(fetcher, "/1.png") == "HTTP 404"
        assert fetcher.read(address("/2.png"), LIMIT) == OTHER
        assert host.asked == ["/1.png", "/2.png"]
        assert (desk.noted("/1.png"), desk.noted("/2.png")) == (DELETED, UNCHANGED)

    def test_one_that_was_broken_off_longer_ago_is_begun_anew(self, host: PhotoHost, desk: Desk) -> None:
        desk.fetcher(refresh=True).read(address("/1.png"), LIMIT)
        desk.clock.moment += CURRENT_SECONDS + 1
        desk.fetcher(refresh=True).read(address("/1.png"), LIMIT)
        assert host.asked == ["/1.png", "/1.png"]

    def test_after_one_that_ended_all_is_asked_anew(self, host: PhotoHost, desk: Desk) -> None:
        desk.fetcher(refresh=True).read(address("/1.png"), LIMIT)
        desk.refresh().finish({}, {})
        desk.fetcher(refresh=True).read(address("/1.png"), LIMIT)
        assert host.asked == ["/1.png", "/1.png"]

    @pytest.mark.parametrize(
        ("words", "is_new"),
        [("DELETE FROM downloads", False), ("REPLACE INTO downloads", True)],
        ids=["before the row goes", "before the new row comes"],
    )
    def test_a_kill_leaves_the_old_photo_or_the_new_one(
        self, host: PhotoHost, desk: Desk, words: str, is_new: bool
    ) -> None:
        host.files["/1.png"] = changed = encode(noise(6, 8, seed=7))
        command = [sys.executable, "-c", REFRESH_UNTIL, str(desk.folder), HOST, address("/1.png"), words]
        done = subprocess.run(command, cwd=ROOT, timeout=60)
        assert done.returncode == -signal.SIGKILL
        assert desk.fetcher().read(address("/1.png"), LIMIT) == (changed if is_new else PHOTO)
        assert host.asked == ["/1.png"]
        # The refresh had not noted it yet.
        assert desk.fetcher(refresh=True).read(address("/1.png"), LIMIT) == changed
        assert host.asked == ["/1.png", "/1.png"]
