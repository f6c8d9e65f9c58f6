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
from darkroom.acquisition.photo_download import MAXIMUM_CONSECUTIVE_FAILURES, PhotoFetcher
from darkroom.acquisition.refresh import CHANGED, CURRENT_SECONDS, DELETED, UNCHANGED, UNUSABLE, Refresh
from darkroom.acquisition.web.client import WebClient
from darkroom.pipeline.stage import StageError
from tests.examples import encode, noise
from tests.fake_web import FakeWeb, Request, Response

ROOT = Path(__file__).parents[3]
HOST = "photos.example.org"
OTHER_HOST = "elsewhere.example.org"
LIMIT = 100_000
PHOTO, OTHER = encode(noise(6, 8)), encode(noise(6, 8, seed=1))
HALF = PHOTO[: len(PHOTO) // 2]
HTML = b"<!doctype html><title>Sign in</title>" * 20
# Refreshes a photo, and is killed just before the first SQL statement that begins with the given words.
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

folder, host, url, words = sys.argv[1:]
ledger = Ledger(Path(folder))

def kill(statement):
    if statement.startswith(words):
        os.kill(os.getpid(), signal.SIGKILL)

check = PhotoCheck(ledger, PhotoLimits(1, 10_000, 100_000))
fetcher = PhotoFetcher(WebClient([host], 5, 1, 8, Clock()), ledger, check, Refresh(ledger, Clock()))
ledger.connection.set_trace_callback(kill)
fetcher.read(url, 100_000)
"""
pytestmark = pytest.mark.usefixtures("host")


@dataclass
class SimulatedClock(Clock):
    """Time passes only by setting `timestamp`; sleeping takes no time."""

    timestamp: float = 1_900_000_000.0

    def now(self) -> float:
        return self.timestamp

    def sleep(self, seconds: float, wake: object = None) -> None:
        pass


@dataclass
class PhotoHost:
    """Serves files by path, with ETags; `scripts` has the responses to the next requests for a path instead."""

    web: FakeWeb
    files: dict[str, bytes] = field(default_factory=dict)
    scripts: dict[str, list[Response]] = field(default_factory=dict)

    def respond(self, request: Request) -> Response:
        if self.scripts.get(request.path):
            return self.scripts[request.path].pop(0)
        content = self.files.get(request.path)
        if content is None:
            return Response(404)
        headers = {"ETag": etag(content)}
        if request.headers.get("If-None-Match") == etag(content):
            return Response(304, headers=headers)
        return Response(200, content, headers)

    @property
    def requested(self) -> list[str]:
        return [request.path for request in self.web.requests_to(HOST)]


@dataclass
class Runs:
    """A ledger in a folder, with fetchers that share it like successive runs of the stage."""

    folder: Path
    ledger: Ledger
    clients: list[WebClient] = field(default_factory=list)

    clock: SimulatedClock = field(default_factory=SimulatedClock)

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
        return self.refresh().find(url(path))

    def known(self, path: str = "/1.png") -> Download | None:
        return self.ledger.find_download(url(path))

    def put_file(self, content: bytes) -> None:
        """Write a file to the path of the photo /1.png, without a row in the tables."""
        file = self.ledger.photo_file(url("/1.png"))
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)

    def saved_files(self) -> list[bytes]:
        """All photos and partial photos."""
        folders = (self.folder / "photos", self.folder / "partial")
        return [path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file()]


def url(path: str) -> str:
    return f"https://{HOST}{path}"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def etag(content: bytes) -> str:
    return f'"{sha256(content)[:8]}"'


def too_large(maximum_bytes: int) -> str:
    return f"larger than allowed: more than {maximum_bytes} bytes"


def redirect(location: str) -> Response:
    return Response(302, headers={"Location": location})


def unavailable_reason(fetcher: PhotoFetcher, path: str, maximum_bytes: int = LIMIT) -> str:
    with pytest.raises(PhotoUnavailable) as caught:
        fetcher.read(url(path), maximum_bytes)
    return str(caught.value)


@pytest.fixture
def host(web: FakeWeb) -> PhotoHost:
    host = PhotoHost(web, {"/1.png": PHOTO, "/2.png": OTHER})
    web.add(HOST, host.respond)
    return host


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[Runs]:
    folder = tmp_path / "acquire"
    with closing(Ledger(folder)) as ledger:
        runs = Runs(folder, ledger)
        yield runs
        for client in runs.clients:
            client.close()


class TestSaving:
    def test_a_photo_is_downloaded_once_and_then_read_from_the_ledger(self, host: PhotoHost, runs: Runs) -> None:
        for fetcher in (runs.fetcher(), runs.fetcher()):
            assert [fetcher.read(url("/1.png"), LIMIT) for _ in range(2)] == [PHOTO, PHOTO]
        assert host.requested == ["/1.png"]
        assert runs.saved_files() == [PHOTO]

    def test_many_threads_fetch_each_photo_once(self, host: PhotoHost, runs: Runs) -> None:
        host.files = {f"/{number}.png": encode(noise(6, 8, seed=number)) for number in range(40)}
        fetcher = runs.fetcher()
        with ThreadPoolExecutor(8) as pool:
            contents = list(pool.map(lambda path: fetcher.read(url(path), LIMIT), host.files))
        assert contents == list(host.files.values())
        assert sorted(host.requested) == sorted(host.files)

    def test_threads_that_need_the_same_photo_download_it_once(self, host: PhotoHost, runs: Runs) -> None:
        """Two labels may find the same photo."""
        host.web.delay_seconds = 0.1
        fetcher = runs.fetcher()
        with ThreadPoolExecutor(8) as pool:
            contents = list(pool.map(lambda _: fetcher.read(url("/1.png"), LIMIT), range(8)))
        assert contents == [PHOTO] * 8
        assert host.requested == ["/1.png"]

    def test_the_query_is_part_of_the_url(self, host: PhotoHost, runs: Runs) -> None:
        fetcher = runs.fetcher()
        for query in ("?h=350", "?h=130", "?h=350"):
            fetcher.read(url(f"/1.png{query}"), LIMIT)
        assert [request.query for request in host.web.requests] == [{"h": "350"}, {"h": "130"}]

    def test_a_saved_photo_without_a_row_is_used(self, host: PhotoHost, runs: Runs) -> None:
        """A run may be killed after a photo got its name and before it got its row."""
        runs.put_file(PHOTO)
        assert [runs.fetcher().read(url("/1.png"), LIMIT) for _ in range(2)] == [PHOTO, PHOTO]
        assert host.requested == []
        assert runs.known() == Download(sha256(PHOTO))

    def test_a_saved_photo_of_too_many_pixels_without_a_row_is_used(self, host: PhotoHost, runs: Runs) -> None:
        runs.put_file(PHOTO)
        assert runs.fetcher(maximum_pixels=47).read(url("/1.png"), LIMIT) == PHOTO
        assert host.requested == []

    @pytest.mark.parametrize("content", [HALF, b"", HTML], ids=["cut", "empty", "html"])
    def test_a_saved_file_without_a_row_that_is_not_a_photo_is_downloaded_again(
        self, host: PhotoHost, runs: Runs, content: bytes
    ) -> None:
        runs.put_file(content)
        assert [runs.fetcher().read(url("/1.png"), LIMIT) for _ in range(2)] == [PHOTO, PHOTO]
        assert host.requested == ["/1.png"]
        assert runs.saved_files() == [PHOTO]
        assert runs.known() == Download(sha256(PHOTO), etag(PHOTO))

    @pytest.mark.parametrize("damaged", [PHOTO[:-10], b"", OTHER], ids=["short", "empty", "another"])
    def test_a_damaged_saved_file_is_downloaded_again(self, host: PhotoHost, runs: Runs, damaged: bytes) -> None:
        runs.fetcher().read(url("/1.png"), LIMIT)
        runs.put_file(damaged)
        assert [runs.fetcher().read(url("/1.png"), LIMIT) for _ in range(2)] == [PHOTO, PHOTO]
        assert host.requested == ["/1.png", "/1.png"]
        assert "If-None-Match" not in host.web.requests[1].headers
        assert runs.saved_files() == [PHOTO]

    def test_a_removed_saved_file_is_downloaded_again(self, host: PhotoHost, runs: Runs) -> None:
        runs.fetcher().read(url("/1.png"), LIMIT)
        runs.ledger.photo_file(url("/1.png")).unlink()
        assert runs.fetcher().read(url("/1.png"), LIMIT) == PHOTO
        assert host.requested == ["/1.png", "/1.png"]

    def test_a_photo_without_an_etag_is_saved_too(self, host: PhotoHost, runs: Runs) -> None:
        host.scripts["/1.png"] = [Response(200, PHOTO)]
        assert [runs.fetcher().read(url("/1.png"), LIMIT) for _ in range(2)] == [PHOTO, PHOTO]
        assert host.requested == ["/1.png"]


class TestRefusals:
    @pytest.mark.parametrize("status", [404, 410, 451])
    def test_a_photo_that_is_gone_is_remembered_at_once(self, host: PhotoHost, runs: Runs, status: int) -> None:
        host.scripts["/1.png"] = [Response(status)]
        assert [unavailable_reason(runs.fetcher(), "/1.png") for _ in range(2)] == [f"HTTP {status}"] * 2
        assert host.requested == ["/1.png"]
        assert runs.saved_files() == []

    def test_a_photo_of_too_many_pixels_is_saved_because_the_limit_may_change(
        self, host: PhotoHost, runs: Runs
    ) -> None:
        assert runs.fetcher(maximum_pixels=47).read(url("/1.png"), LIMIT) == PHOTO
        assert runs.fetcher(maximum_pixels=48).read(url("/1.png"), LIMIT) == PHOTO
        assert host.requested == ["/1.png"]

    @pytest.mark.parametrize(
        "other_url",
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
    def test_a_url_that_is_not_allowed_is_never_requested(self, host: PhotoHost, runs: Runs, other_url: str) -> None:
        reasons = []
        for _ in range(2):
            fetcher = runs.fetcher()
            with pytest.raises(PhotoUnavailable) as caught:
                fetcher.read(other_url, LIMIT)
            reasons.append(str(caught.value))
            fetcher.finish()
        assert reasons[0] == reasons[1]
        assert reasons[0]
        assert host.web.requests == []
        assert host.web.refused_hosts == []

    def test_urls_that_are_never_requested_do_not_end_the_run(self, host: PhotoHost, runs: Runs) -> None:
        fetcher = runs.fetcher()
        for number in range(2 * MAXIMUM_CONSECUTIVE_FAILURES):
            with pytest.raises(PhotoUnavailable, match=f"^host not allowed: {OTHER_HOST}$"):
                fetcher.read(f"https://{OTHER_HOST}/{number}.png", LIMIT)
        assert fetcher.read(url("/1.png"), LIMIT) == PHOTO
        assert host.requested == ["/1.png"]

    def test_a_host_that_is_allowed_later_is_requested_then(self, host: PhotoHost, runs: Runs) -> None:
        host.web.add(OTHER_HOST, host.respond)
        other_url = f"https://{OTHER_HOST}/1.png"
        fetcher = runs.fetcher()
        with pytest.raises(PhotoUnavailable):
            fetcher.read(other_url, LIMIT)
        fetcher.finish()
        assert runs.fetcher(hosts=(HOST, OTHER_HOST)).read(other_url, LIMIT) == PHOTO


class TestNoImages:
    @pytest.mark.parametrize("chunked", [False, True])
    @pytest.mark.parametrize(
        ("body", "reason"),
        [
            (HTML, "a web page, expected a photo"),
            (b"", "the file is empty"),
            (HALF, "broken: "),
        ],
        ids=["html", "empty", "broken"],
    )
    def test_a_response_that_is_not_an_image_is_remembered_but_not_saved(
        self, host: PhotoHost, runs: Runs, body: bytes, reason: str, chunked: bool
    ) -> None:
        host.scripts["/1.png"] = [Response(200, body, chunked=chunked)]
        first, again = (unavailable_reason(runs.fetcher(), "/1.png") for _ in range(2))
        assert first == again
        assert first.startswith(reason)
        assert host.requested == ["/1.png"]
        assert runs.saved_files() == []
        assert runs.known() == Download(sha256(body))

    def test_the_result_of_the_decoder_is_remembered(self, host: PhotoHost, runs: Runs) -> None:
        host.scripts["/1.png"] = [Response(200, HTML)]
        fetcher = runs.fetcher()
        reason = unavailable_reason(fetcher, "/1.png")
        decoding = runs.ledger.find_decoding(sha256(HTML), fetcher.photo_check.decoder)
        assert decoding is not None
        assert decoding.reason == reason

    def test_another_decoder_downloads_again(
        self, host: PhotoHost, runs: Runs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        host.scripts["/1.png"] = [Response(200, HTML)]
        unavailable_reason(runs.fetcher(), "/1.png")
        monkeypatch.setattr("PIL.__version__", "999.0")
        assert runs.fetcher().read(url("/1.png"), LIMIT) == PHOTO
        assert host.requested == ["/1.png", "/1.png"]

    def test_a_broken_image_without_declared_length_may_be_incomplete(self, host: PhotoHost, runs: Runs) -> None:
        host.scripts["/1.png"] = [Response(200, HALF, omit_length=True)]
        assert unavailable_reason(runs.fetcher(), "/1.png") == "no complete response"
        assert runs.known() is None
        assert runs.saved_files() == []
        assert runs.fetcher().read(url("/1.png"), LIMIT) == PHOTO

    def test_a_photo_without_declared_length_is_accepted(self, host: PhotoHost, runs: Runs) -> None:
        host.scripts["/1.png"] = [Response(200, PHOTO, omit_length=True)]
        assert [runs.fetcher().read(url("/1.png"), LIMIT) for _ in range(2)] == [PHOTO, PHOTO]
        assert host.requested == ["/1.png"]


class TestRedirects:
    def test_one_on_the_host_is_followed(self, host: PhotoHost, runs: Runs) -> None:
        host.scripts["/1.png"] = [redirect("/2.png")]
        assert [runs.fetcher().read(url("/1.png"), LIMIT) for _ in range(2)] == [OTHER, OTHER]
        assert host.requested == ["/1.png", "/2.png"]

    @pytest.mark.parametrize("by_way_of", [[], ["/2.png"]], ids=["at once", "by another"])
    def test_one_to_another_host_is_remembered_with_its_target_and_requested_again_once_allowed(
        self, host: PhotoHost, runs: Runs, by_way_of: list[str]
    ) -> None:
        path = "/1.png"
        for target in [*by_way_of, f"https://{OTHER_HOST}/1.png"]:
            host.scripts[path] = [redirect(target)] * 2
            path = target
        host.web.add(OTHER_HOST, host.respond)
        reason = f"redirect refused, host not allowed: {OTHER_HOST}"
        assert [unavailable_reason(runs.fetcher(), "/1.png") for _ in range(2)] == [reason] * 2
        assert host.requested == ["/1.png", *by_way_of]
        assert host.web.requests_to(OTHER_HOST) == []
        assert runs.known() == Download(reason=reason, redirect_target=f"https://{OTHER_HOST}/1.png")

        both = (HOST, OTHER_HOST)
        assert [runs.fetcher(hosts=both).read(url("/1.png"), LIMIT) for _ in range(2)] == [PHOTO, PHOTO]
        assert host.requested == ["/1.png", *by_way_of] * 2
        assert len(host.web.requests_to(OTHER_HOST)) == 1
        # The photo is saved now, whatever is allowed later.
        assert runs.fetcher().read(url("/1.png"), LIMIT) == PHOTO

    def test_allowing_a_third_host_sends_no_new_request(self, host: PhotoHost, runs: Runs) -> None:
        host.scripts["/1.png"] = [redirect(f"https://{OTHER_HOST}/1.png")]
        reason = unavailable_reason(runs.fetcher(), "/1.png")
        assert unavailable_reason(runs.fetcher(hosts=(HOST, "third.example.org")), "/1.png") == reason
        assert host.requested == ["/1.png"]

    @pytest.mark.parametrize(
        ("location", "reason"),
        [
            ("https://[::1/1.png", "redirect refused, invalid URL"),
            ("http://photos.example.org/1.png", "redirect refused, not an https URL: http"),
            ("/1.png", "redirect refused"),
        ],
        ids=["invalid url", "http", "in a circle"],
    )
    def test_a_broken_one_is_not_followed_and_is_remembered_after_the_run(
        self, host: PhotoHost, runs: Runs, location: str, reason: str
    ) -> None:
        host.scripts["/1.png"] = [redirect(location)] * 4
        fetcher = runs.fetcher()
        assert unavailable_reason(fetcher, "/1.png") == reason
        fetcher.finish()
        count = len(host.web.requests)
        assert unavailable_reason(runs.fetcher(), "/1.png") == reason
        assert len(host.web.requests) == count
        assert host.web.refused_hosts == []


class TestSizes:
    @pytest.mark.parametrize("announced", [True, False])
    def test_a_photo_that_is_too_large_is_remembered_with_its_size(
        self, host: PhotoHost, runs: Runs, announced: bool
    ) -> None:
        size = len(PHOTO)
        host.scripts["/1.png"] = [Response(200, PHOTO, omit_length=not announced)]
        assert [unavailable_reason(runs.fetcher(), "/1.png", size - 1) for _ in range(2)] == [too_large(size - 1)] * 2
        assert unavailable_reason(runs.fetcher(), "/1.png", size - 2) == too_large(size - 2)
        assert host.requested == ["/1.png"]
        assert runs.saved_files() == []
        assert runs.known() == Download(more_than_bytes=size - 1)

    def test_a_raised_limit_requests_again(self, host: PhotoHost, runs: Runs) -> None:
        unavailable_reason(runs.fetcher(), "/1.png", len(PHOTO) - 1)
        assert runs.fetcher().read(url("/1.png"), len(PHOTO)) == PHOTO
        assert host.requested == ["/1.png", "/1.png"]

    def test_a_limit_raised_below_the_announced_size_does_not_request_again(self, host: PhotoHost, runs: Runs) -> None:
        unavailable_reason(runs.fetcher(), "/1.png", 10)
        assert unavailable_reason(runs.fetcher(), "/1.png", len(PHOTO) - 1) == too_large(len(PHOTO) - 1)
        assert host.requested == ["/1.png"]

    def test_a_huge_length_is_remembered_as_far_as_the_ledger_can_store_it(self, host: PhotoHost, runs: Runs) -> None:
        host.scripts["/1.png"] = [Response(200, PHOTO, {"Content-Length": "9" * 40})]
        assert [unavailable_reason(runs.fetcher(), "/1.png") for _ in range(2)] == [too_large(LIMIT)] * 2
        assert host.requested == ["/1.png"]

    def test_a_lowered_limit_refuses_a_saved_photo_without_losing_it(self, host: PhotoHost, runs: Runs) -> None:
        runs.fetcher().read(url("/1.png"), LIMIT)
        assert unavailable_reason(runs.fetcher(), "/1.png", len(PHOTO) - 1) == too_large(len(PHOTO) - 1)
        assert runs.fetcher().read(url("/1.png"), LIMIT) == PHOTO
        assert host.requested == ["/1.png"]


TRANSIENT = {
    "500": (Response(500), "no complete response"),
    "503": (Response(503), "no complete response"),
    "429": (Response(429), "no complete response"),
    "408": (Response(408), "no complete response"),
    "dropped": (Response(drop=True), "no complete response"),
    "cut": (Response(200, PHOTO, cut_after=20), "no complete response"),
    "400": (Response(400), "HTTP 400"),
    "401": (Response(401), "HTTP 401"),
    "403": (Response(403), "HTTP 403"),
}


class TestTransientFailures:
    @pytest.mark.parametrize(("response", "reason"), TRANSIENT.values(), ids=TRANSIENT)
    def test_an_interrupted_run_remembers_none(
        self, host: PhotoHost, runs: Runs, response: Response, reason: str
    ) -> None:
        host.scripts["/1.png"] = [response]
        assert unavailable_reason(runs.fetcher(), "/1.png") == reason
        assert runs.saved_files() == []
        assert runs.known() is None
        assert runs.fetcher().read(url("/1.png"), LIMIT) == PHOTO
        assert host.requested == ["/1.png"] * 2

    @pytest.mark.parametrize(("response", "reason"), TRANSIENT.values(), ids=TRANSIENT)
    def test_after_a_successful_run_a_repetition_sends_no_request_and_gives_the_same_reason(
        self, host: PhotoHost, runs: Runs, response: Response, reason: str
    ) -> None:
        host.scripts["/1.png"] = [response]
        fetcher = runs.fetcher()
        assert unavailable_reason(fetcher, "/1.png") == reason
        fetcher.finish()
        assert unavailable_reason(runs.fetcher(), "/1.png") == reason
        assert host.requested == ["/1.png"]
        assert runs.saved_files() == []

    @pytest.mark.parametrize("response", [Response(503), Response(403)], ids=["503", "403"])
    def test_a_second_label_gets_the_same_reason_without_a_request(
        self, host: PhotoHost, runs: Runs, response: Response
    ) -> None:
        host.scripts["/1.png"] = [response]
        fetcher = runs.fetcher()
        first, again = (unavailable_reason(fetcher, "/1.png") for _ in range(2))
        assert first == again
        assert host.requested == ["/1.png"]

    def test_missing_responses_are_retried_and_refusals_are_not(self, host: PhotoHost, runs: Runs) -> None:
        host.scripts = {"/1.png": [Response(503), Response(503)], "/2.png": [Response(403)]}
        fetcher = runs.fetcher(attempts=3)
        assert fetcher.read(url("/1.png"), LIMIT) == PHOTO
        assert unavailable_reason(fetcher, "/2.png") == "HTTP 403"
        assert host.requested == ["/1.png"] * 3 + ["/2.png"]

    @pytest.mark.parametrize(
        ("response", "reason", "cause"),
        [
            (Response(503), "no complete response", "HTTP 503"),
            (Response(200, HTML, omit_length=True), "no complete response", "the response may be incomplete"),
            (Response(403), "HTTP 403", "HTTP 403"),
        ],
        ids=["503", "cut short", "403"],
    )
    def test_ten_photos_in_a_row_end_the_run_and_none_is_remembered(
        self, host: PhotoHost, runs: Runs, response: Response, reason: str, cause: str
    ) -> None:
        fetcher = runs.fetcher()
        paths = [f"/{number}.png" for number in range(100, 100 + MAXIMUM_CONSECUTIVE_FAILURES)]
        host.files = dict.fromkeys(paths, PHOTO)
        host.scripts = {path: [response] for path in paths}
        for path in paths[:-1]:
            assert unavailable_reason(fetcher, path) == reason
        with pytest.raises(StageError) as caught:
            fetcher.read(url(paths[-1]), LIMIT)
        assert str(caught.value) == (
            f"10 photos in a row could not be downloaded ({cause}): the network or the host seems to be down. "
            "Downloads so far are saved; run again when it is up"
        )
        again = runs.fetcher()
        assert [again.read(url(path), LIMIT) for path in paths] == [PHOTO] * len(paths)

    @pytest.mark.parametrize(
        "response",
        [
            Response(200, PHOTO),
            Response(404),
            Response(200, HTML),
            redirect("https://elsewhere.org/"),
            Response(200, bytes(LIMIT + 1)),
        ],
        ids=["photo", "404", "html", "redirect", "too large"],
    )
    def test_any_response_resets_the_count(self, host: PhotoHost, runs: Runs, response: Response) -> None:
        fetcher = runs.fetcher()
        host.scripts = {f"/{number}.png": [Response(503)] for number in range(100, 130)}
        host.scripts |= {f"/{number}.png": [response] for number in (105, 114, 123)}
        for number in range(100, 130):
            try:
                fetcher.read(url(f"/{number}.png"), LIMIT)
            except PhotoUnavailable:
                continue
        assert len(host.requested) == 30

    def test_a_saved_photo_is_used_although_its_host_refuses_now(self, host: PhotoHost, runs: Runs) -> None:
        runs.fetcher().read(url("/1.png"), LIMIT)
        host.scripts["/1.png"] = [Response(403)]
        assert runs.fetcher().read(url("/1.png"), LIMIT) == PHOTO
        assert host.requested == ["/1.png"]

    def test_after_the_client_is_closed_nothing_is_remembered_and_no_partial_file_stays(self, runs: Runs) -> None:
        fetcher = runs.fetcher(attempts=3)
        runs.clients[0].close()
        assert unavailable_reason(fetcher, "/1.png") == "cancelled"
        fetcher.finish()
        assert runs.saved_files() == []
        assert runs.known() is None


class TestRefresh:
    @pytest.fixture(autouse=True)
    def fetched_before(self, host: PhotoHost, runs: Runs) -> None:
        for path in ("/1.png", "/2.png"):
            runs.fetcher().read(url(path), LIMIT)
        host.web.requests.clear()

    def test_an_unchanged_photo_is_not_sent_again(self, host: PhotoHost, runs: Runs) -> None:
        assert runs.fetcher(refresh=True).read(url("/1.png"), LIMIT) == PHOTO
        (request,) = host.web.requests
        assert request.headers["If-None-Match"] == etag(PHOTO)
        assert runs.noted() == UNCHANGED
        assert runs.known() == Download(sha256(PHOTO), etag(PHOTO))

    def test_the_same_bytes_without_an_etag_are_no_change(self, host: PhotoHost, runs: Runs) -> None:
        host.scripts["/1.png"] = [Response(200, PHOTO)]
        assert runs.fetcher(refresh=True).read(url("/1.png"), LIMIT) == PHOTO
        assert runs.noted() == UNCHANGED

    def test_a_changed_photo_replaces_the_old_one_and_is_noted(self, host: PhotoHost, runs: Runs) -> None:
        host.files["/1.png"] = changed = encode(noise(6, 8, seed=7))
        assert runs.fetcher(refresh=True).read(url("/1.png"), LIMIT) == changed
        assert runs.noted() == CHANGED
        assert runs.fetcher().read(url("/1.png"), LIMIT) == changed
        assert sorted(runs.saved_files()) == sorted([changed, OTHER])
        assert host.requested == ["/1.png"]

    @pytest.mark.parametrize("status", [404, 410, 451])
    def test_a_deleted_photo_is_removed_and_noted(self, host: PhotoHost, runs: Runs, status: int) -> None:
        host.scripts["/1.png"] = [Response(status)]
        fetcher = runs.fetcher(refresh=True)
        assert [unavailable_reason(fetcher, "/1.png") for _ in range(2)] == [f"HTTP {status}"] * 2
        assert runs.noted() == DELETED
        assert unavailable_reason(runs.fetcher(), "/1.png") == f"HTTP {status}"
        assert runs.saved_files() == [OTHER]
        assert host.requested == ["/1.png"]

    @pytest.mark.parametrize(
        "response",
        [
            Response(200, HTML),
            Response(200, b""),
            Response(200, HALF, chunked=True),
            Response(200, bytes(LIMIT + 1)),
            Response(200, bytes(LIMIT + 1), omit_length=True),
            redirect(f"https://{OTHER_HOST}/1.png"),
        ],
        ids=["html", "empty", "broken", "too large", "too large, undeclared", "other host"],
    )
    def test_an_unusable_response_does_not_replace_the_saved_photo(
        self, host: PhotoHost, runs: Runs, response: Response
    ) -> None:
        host.scripts["/1.png"] = [response]
        fetcher = runs.fetcher(refresh=True)
        assert [fetcher.read(url("/1.png"), LIMIT) for _ in range(2)] == [PHOTO, PHOTO]
        assert runs.noted() == UNUSABLE
        assert runs.known() == Download(sha256(PHOTO), etag(PHOTO))
        assert runs.fetcher().read(url("/1.png"), LIMIT) == PHOTO
        assert host.requested == ["/1.png"]
        assert sorted(runs.saved_files()) == sorted([PHOTO, OTHER])

    @pytest.mark.parametrize(
        "response",
        [Response(503), Response(drop=True), Response(200, HTML, omit_length=True), Response(403)],
        ids=["503", "dropped", "cut short", "403"],
    )
    def test_without_a_response_the_saved_photo_is_used_and_the_next_refresh_requests_again(
        self, host: PhotoHost, runs: Runs, response: Response
    ) -> None:
        host.scripts["/1.png"] = [response]
        fetcher = runs.fetcher(refresh=True)
        assert fetcher.read(url("/1.png"), LIMIT) == PHOTO
        fetcher.finish()
        assert runs.noted() is None
        assert runs.known() == Download(sha256(PHOTO), etag(PHOTO))
        host.files["/1.png"] = changed = encode(noise(6, 8, seed=7))
        assert runs.fetcher(refresh=True).read(url("/1.png"), LIMIT) == changed
        assert runs.noted() == CHANGED
        assert host.requested == ["/1.png", "/1.png"]

    @pytest.mark.parametrize("response", [Response(404), Response(200, HTML)], ids=["404", "html"])
    def test_an_unusable_photo_is_requested_again_and_is_no_change(
        self, host: PhotoHost, runs: Runs, response: Response
    ) -> None:
        host.scripts["/3.png"] = [response, response]
        reason = unavailable_reason(runs.fetcher(), "/3.png")
        assert unavailable_reason(runs.fetcher(refresh=True), "/3.png") == reason
        assert runs.noted("/3.png") == UNCHANGED
        assert host.requested == ["/3.png", "/3.png"]

    def test_a_failed_photo_is_requested_again(self, host: PhotoHost, runs: Runs) -> None:
        host.files["/3.png"] = PHOTO
        host.scripts["/3.png"] = [Response(503)]
        fetcher = runs.fetcher()
        unavailable_reason(fetcher, "/3.png")
        fetcher.finish()
        assert runs.fetcher(refresh=True).read(url("/3.png"), LIMIT) == PHOTO
        assert runs.fetcher().read(url("/3.png"), LIMIT) == PHOTO
        assert host.requested == ["/3.png", "/3.png"]

    def test_a_failed_photo_is_requested_once_and_reported(self, host: PhotoHost, runs: Runs) -> None:
        """A repetition must give the same result as this run, also if two labels need the photo."""
        host.files["/3.png"] = PHOTO
        host.scripts["/3.png"] = [Response(503)]
        fetcher = runs.fetcher(refresh=True)
        assert [unavailable_reason(fetcher, "/3.png") for _ in range(2)] == ["no complete response"] * 2
        fetcher.finish()
        assert unavailable_reason(runs.fetcher(), "/3.png") == "no complete response"
        assert host.requested == ["/3.png"]

    def test_unchanged_photos_reset_the_count_of_failures(self, host: PhotoHost, runs: Runs) -> None:
        fetcher = runs.fetcher(refresh=True)
        host.scripts = {
            f"/{number}.png": [Response(503)] for number in range(100, 100 + 2 * MAXIMUM_CONSECUTIVE_FAILURES - 2)
        }
        paths = list(host.scripts)
        for path in paths[: MAXIMUM_CONSECUTIVE_FAILURES - 1]:
            unavailable_reason(fetcher, path)
        assert fetcher.read(url("/1.png"), LIMIT) == PHOTO
        for path in paths[MAXIMUM_CONSECUTIVE_FAILURES - 1 :]:
            assert unavailable_reason(fetcher, path) == "no complete response"

    def test_a_deleted_photo_that_is_back_is_downloaded_again(self, host: PhotoHost, runs: Runs) -> None:
        host.scripts["/1.png"] = [Response(404)]
        unavailable_reason(runs.fetcher(refresh=True), "/1.png")
        runs.refresh().finish({}, {})
        assert runs.fetcher(refresh=True).read(url("/1.png"), LIMIT) == PHOTO
        assert runs.noted() == UNCHANGED

    def test_each_url_is_requested_once(self, host: PhotoHost, runs: Runs) -> None:
        fetcher = runs.fetcher(refresh=True)
        for path in ("/1.png", "/2.png", "/1.png", "/2.png"):
            fetcher.read(url(path), LIMIT)
        assert host.requested == ["/1.png", "/2.png"]

    def test_an_interrupted_one_resumes_within_a_day(self, host: PhotoHost, runs: Runs) -> None:
        host.scripts["/1.png"] = [Response(404)]
        unavailable_reason(runs.fetcher(refresh=True), "/1.png")
        runs.clock.timestamp += CURRENT_SECONDS - 1
        fetcher = runs.fetcher(refresh=True)
        assert unavailable_reason(fetcher, "/1.png") == "HTTP 404"
        assert fetcher.read(url("/2.png"), LIMIT) == OTHER
        assert host.requested == ["/1.png", "/2.png"]
        assert (runs.noted("/1.png"), runs.noted("/2.png")) == (DELETED, UNCHANGED)

    def test_one_interrupted_longer_ago_restarts(self, host: PhotoHost, runs: Runs) -> None:
        runs.fetcher(refresh=True).read(url("/1.png"), LIMIT)
        runs.clock.timestamp += CURRENT_SECONDS + 1
        runs.fetcher(refresh=True).read(url("/1.png"), LIMIT)
        assert host.requested == ["/1.png", "/1.png"]

    def test_after_a_finished_one_everything_is_requested_again(self, host: PhotoHost, runs: Runs) -> None:
        runs.fetcher(refresh=True).read(url("/1.png"), LIMIT)
        runs.refresh().finish({}, {})
        runs.fetcher(refresh=True).read(url("/1.png"), LIMIT)
        assert host.requested == ["/1.png", "/1.png"]

    @pytest.mark.parametrize(
        ("words", "is_new"),
        [("DELETE FROM downloads", False), ("REPLACE INTO downloads", True)],
        ids=["before the old row is deleted", "before the new row is written"],
    )
    def test_a_kill_leaves_the_old_photo_or_the_new_one(
        self, host: PhotoHost, runs: Runs, words: str, is_new: bool
    ) -> None:
        host.files["/1.png"] = changed = encode(noise(6, 8, seed=7))
        command = [sys.executable, "-c", REFRESH_UNTIL, str(runs.folder), HOST, url("/1.png"), words]
        done = subprocess.run(command, cwd=ROOT, timeout=60)
        assert done.returncode == -signal.SIGKILL
        assert runs.fetcher().read(url("/1.png"), LIMIT) == (changed if is_new else PHOTO)
        assert host.requested == ["/1.png"]
        # The refresh had not noted it yet.
        assert runs.fetcher(refresh=True).read(url("/1.png"), LIMIT) == changed
        assert host.requested == ["/1.png", "/1.png"]
