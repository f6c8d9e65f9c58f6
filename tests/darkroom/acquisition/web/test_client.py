import gzip
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from darkroom.acquisition.clock import Clock
from darkroom.acquisition.ledger import Download, Ledger
from darkroom.acquisition.web.auth import HeaderAuth
from darkroom.acquisition.web.client import WebClient
from darkroom.acquisition.web.errors import NoAnswer, Refused, TooLarge, TooManyRequests, WebError
from tests.fake_web import Answer, FakeWeb, Handler, Request

API = "api.example.org"
PHOTOS = "photos.example.org"
ELSEWHERE = "elsewhere.example.org"
# Only here, since a traceback shows the lines of this file too.
SECRET = "k3y-of-mine"
PATH = "a-hidden-path"
TOKEN = "a-hidden-token"
ADDRESS = f"https://{PHOTOS}/{PATH}/1.jpg?token={TOKEN}"
QUESTION = f"https://{API}/{PATH}"
MAXIMUM_BYTES = 1000
BOMB = gzip.compress(b"\0" * 10_000_000)


class RecordingClock(Clock):
    """Writes down how long it should sleep, and goes on at once."""

    def __init__(self) -> None:
        self.pauses: list[float] = []

    def sleep(self, seconds: float, _wake: object = None) -> None:
        self.pauses.append(seconds)


@pytest.fixture
def clock() -> RecordingClock:
    return RecordingClock()


@pytest.fixture
def client(web: FakeWeb, clock: RecordingClock) -> Iterator[WebClient]:  # noqa: ARG001 - the web must be there
    with closing(WebClient([API, PHOTOS], timeout_seconds=20, attempts=4, parallel=4, clock=clock)) as client:
        yield client


@pytest.fixture
def hasty(web: FakeWeb, clock: RecordingClock) -> Iterator[WebClient]:  # noqa: ARG001 - the web must be there
    """A client whose patience ends soon."""
    with closing(WebClient([API, PHOTOS], timeout_seconds=0.3, attempts=2, parallel=4, clock=clock)) as client:
        yield client


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "photo"


def script(*answers: Answer) -> Handler:
    """Give the answers one after the other, the last one for ever."""
    left = list(answers)
    return lambda _: left.pop(0) if len(left) > 1 else left[0]


def redirect(target: str, status: int = 302, body: bytes = b"") -> Answer:
    return Answer(status, body, {"Location": target})


def shown(error: BaseException) -> str:
    """All that a person or a log would ever see of an exception, with what it came from."""
    texts = ["".join(traceback.format_exception(error))]
    link: BaseException | None = error
    while link := link.__cause__ or (None if link.__suppress_context__ else link.__context__):
        texts.append(repr(link))
    return "\n".join(texts)


def contexts(error: BaseException) -> Iterator[BaseException]:
    """An exception and all that were being handled when it was raised, hidden ones too."""
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__context__


class TestAddresses:
    @pytest.mark.parametrize(
        ("address", "reason"),
        [
            (f"http://{PHOTOS}/1.jpg", "not an https address: http"),
            ("file:///etc/passwd", "not an https address: file"),
            ("/etc/passwd", "not an https address: none"),
            ("", "not an https address: none"),
            (f"//{PHOTOS}/1.jpg", "not an https address: none"),
            (f"https://{ELSEWHERE}/1.jpg", f"not on an allowed host: {ELSEWHERE}"),
            (f"https://{PHOTOS}.evil.org/1.jpg", f"not on an allowed host: {PHOTOS}.evil.org"),
            (f"https://evil.org/{PHOTOS}", "not on an allowed host: evil.org"),
            (f"https://evil.org\\@{PHOTOS}/1.jpg", f"not on an allowed host: {PHOTOS}"),
            (f"https://{PHOTOS}\\.evil.org/1.jpg", rf"not on an allowed host: {PHOTOS}\.evil.org"),
            (f"https://{PHOTOS}@evil.org/1.jpg", "not on an allowed host: evil.org"),
            (f"https://user:password@{PHOTOS}/1.jpg", f"not on an allowed host: {PHOTOS}"),
            (f"https://@{PHOTOS}/1.jpg", f"not on an allowed host: {PHOTOS}"),
            (f"https://{PHOTOS}:8443/1.jpg", f"not on an allowed host: {PHOTOS}"),
            (f"https://{PHOTOS}:80/1.jpg", f"not on an allowed host: {PHOTOS}"),
            ("https:///1.jpg", "not on an allowed host: None"),
            ("https://127.0.0.1/1.jpg", "not on an allowed host: 127.0.0.1"),
        ],
    )
    def test_what_is_not_https_on_an_allowed_host_is_refused_and_nobody_is_asked(
        self, web: FakeWeb, client: WebClient, clock: RecordingClock, path: Path, address: str, reason: str
    ) -> None:
        with pytest.raises(Refused) as caught:
            client.download(address, path, MAXIMUM_BYTES)
        assert (str(caught.value), caught.value.status) == (reason, 0)
        with pytest.raises(Refused):
            client.ask(address, {}, HeaderAuth(SECRET), MAXIMUM_BYTES)
        assert (web.requests, web.refused_hosts, clock.pauses, path.exists()) == ([], [], [], False)

    @pytest.mark.parametrize(
        "address",
        [
            f"https://{PHOTOS}:port/1.jpg",
            f"https://{PHOTOS}:99999/1.jpg",
            "https://[bad/1.jpg",
            "https://[::1/1.jpg",
            "https://a℀b.org/1.jpg",
        ],
    )
    def test_an_address_that_cannot_be_taken_apart_is_refused(
        self, client: WebClient, path: Path, address: str
    ) -> None:
        with pytest.raises(Refused):
            client.download(address, path, MAXIMUM_BYTES)

    @pytest.mark.parametrize(
        "address",
        [
            f"https://{PHOTOS}/a%20b.jpg?w=3&h=4",
            f"https://{PHOTOS}:443/a b.jpg?w=3&h=4",
            f"HTTPS://{PHOTOS.upper()}/a b.jpg?w=3&h=4#x",
        ],
    )
    def test_the_same_host_in_another_spelling_is_asked(
        self, web: FakeWeb, client: WebClient, path: Path, address: str
    ) -> None:
        web.add(PHOTOS, lambda _: Answer(body=b"photo"))
        assert client.download(address, path, MAXIMUM_BYTES).status == 200
        assert path.read_bytes() == b"photo"
        (request,) = web.requests_to(PHOTOS)
        assert (request.path, request.query) == ("/a%20b.jpg", {"w": "3", "h": "4"})


class TestAsk:
    def test_params_a_login_and_who_asks_are_sent_and_the_answer_comes_back(
        self, web: FakeWeb, client: WebClient
    ) -> None:
        web.add(API, lambda _: Answer(body=b"found", headers={"X-Left": "7"}))
        headers, body = client.ask(QUESTION, {"query": "red panda"}, HeaderAuth(SECRET), MAXIMUM_BYTES)
        assert (headers.status, headers.values["x-left"], body) == (200, "7", b"found")
        (request,) = web.requests
        assert (request.method, request.query) == ("GET", {"query": "red panda"})
        assert request.headers["Authorization"] == SECRET
        assert request.headers["User-Agent"].startswith("Darkroom/")

    def test_a_form_is_posted(self, web: FakeWeb, client: WebClient) -> None:
        web.add(API, lambda request: Answer(body=request.body))
        _, body = client.ask(QUESTION, {}, None, MAXIMUM_BYTES, form={"client_id": "a b"})
        assert body == b"client_id=a+b"
        assert web.requests[0].method == "POST"

    def test_a_failure_is_not_repeated(self, web: FakeWeb, client: WebClient, clock: RecordingClock) -> None:
        web.add(API, lambda _: Answer(500))
        with pytest.raises(NoAnswer, match="^HTTP 500$"):
            client.ask(QUESTION, {}, None, MAXIMUM_BYTES)
        assert (len(web.requests), clock.pauses) == (1, [])

    @pytest.mark.parametrize("target", [f"https://{API}/there", f"https://{PHOTOS}/there", f"https://{ELSEWHERE}/"])
    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    def test_no_redirect_is_followed_with_a_key(
        self, web: FakeWeb, client: WebClient, target: str, status: int
    ) -> None:
        for host in (API, PHOTOS, ELSEWHERE):
            web.add(host, lambda _: redirect(target, status))
        with pytest.raises(Refused, match="^redirects$") as caught:
            client.ask(QUESTION, {}, HeaderAuth(SECRET), MAXIMUM_BYTES)
        assert caught.value.status == status
        assert [(request.host, request.path) for request in web.requests] == [(API, f"/{PATH}")]

    def test_a_larger_answer_than_allowed_is_refused(self, web: FakeWeb, client: WebClient) -> None:
        web.add(API, lambda request: Answer(body=b"x" * int(request.query["bytes"])))
        assert client.ask(QUESTION, {"bytes": "1000"}, None, MAXIMUM_BYTES)[1] == b"x" * 1000
        with pytest.raises(TooLarge):
            client.ask(QUESTION, {"bytes": "1001"}, None, MAXIMUM_BYTES)


class TestRedirects:
    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    def test_a_download_follows_them_to_its_own_hosts(
        self, web: FakeWeb, client: WebClient, path: Path, status: int
    ) -> None:
        web.add(API, lambda _: redirect(f"https://{PHOTOS}/2.jpg", status))
        web.add(PHOTOS, lambda request: redirect("/3.jpg?w=1") if request.path == "/2.jpg" else Answer(body=b"photo"))
        assert client.download(f"https://{API}/1.jpg", path, MAXIMUM_BYTES).status == 200
        assert path.read_bytes() == b"photo"
        assert [(request.path, request.query) for request in web.requests_to(PHOTOS)] == [
            ("/2.jpg", {}),
            ("/3.jpg", {"w": "1"}),
        ]

    def test_three_are_followed_and_a_fourth_is_not(
        self, web: FakeWeb, client: WebClient, clock: RecordingClock, path: Path
    ) -> None:
        def answer(request: Request) -> Answer:
            left = int(request.path.strip("/"))
            return redirect(f"/{left - 1}") if left else Answer(body=b"photo")

        web.add(PHOTOS, answer)
        assert client.download(f"https://{PHOTOS}/3", path, MAXIMUM_BYTES).status == 200
        assert len(web.requests) == 4
        with pytest.raises(Refused, match="^redirects$") as caught:
            client.download(f"https://{PHOTOS}/4", path, MAXIMUM_BYTES)
        assert (caught.value.status, len(web.requests), clock.pauses) == (302, 8, [])

    @pytest.mark.parametrize(
        ("target", "reason"),
        [
            (f"https://{ELSEWHERE}/1.jpg", f"redirects to an address that is not on an allowed host: {ELSEWHERE}"),
            (f"//{ELSEWHERE}/1.jpg", f"redirects to an address that is not on an allowed host: {ELSEWHERE}"),
            (f"http://{PHOTOS}/1.jpg", "redirects to an address that is not an https address: http"),
            ("file:///etc/passwd", "redirects to an address that is not an https address: file"),
            (f"https://{PHOTOS}:8443/", f"redirects to an address that is not on an allowed host: {PHOTOS}"),
            (f"https://a:b@{PHOTOS}/", f"redirects to an address that is not on an allowed host: {PHOTOS}"),
        ],
    )
    def test_one_to_anywhere_else_is_refused_with_its_status(
        self, web: FakeWeb, client: WebClient, path: Path, target: str, reason: str
    ) -> None:
        web.add(PHOTOS, lambda _: redirect(target, 307))
        web.add(ELSEWHERE, lambda _: Answer(body=b"photo"))
        with pytest.raises(Refused) as caught:
            client.download(ADDRESS, path, MAXIMUM_BYTES)
        assert (str(caught.value), caught.value.status) == (reason, 307)
        assert (len(web.requests), web.refused_hosts, path.exists()) == (1, [], False)

    @pytest.mark.parametrize("target", ["https://[bad", "https://[::1/1.jpg", f"https://{PHOTOS}:port/"])
    def test_one_to_an_address_that_cannot_be_taken_apart_is_refused_with_its_status(
        self, web: FakeWeb, client: WebClient, path: Path, target: str
    ) -> None:
        web.add(PHOTOS, lambda _: redirect(target, 307))
        with pytest.raises(Refused) as caught:
            client.download(ADDRESS, path, MAXIMUM_BYTES)
        assert caught.value.status == 307

    def test_what_one_carries_beside_its_target_is_not_read(
        self, clock: RecordingClock, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with FakeWeb() as web:
            for name, value in web.environment.items():
                monkeypatch.setenv(name, value)
            # More than the buffers of both ends hold: the server gets rid of it only if somebody reads it.
            web.add(API, lambda _: redirect(f"https://{PHOTOS}/1.jpg", body=b"x" * 50_000_000))
            web.add(PHOTOS, lambda _: Answer(body=b"photo"))
            with closing(WebClient([API, PHOTOS], 20, 1, 1, clock)) as client:
                client.download(f"https://{API}/1.jpg", path, MAXIMUM_BYTES)
        assert path.read_bytes() == b"photo"
        assert not web.requests_to(API)[0].answered

    def test_one_without_a_target_is_refused(self, web: FakeWeb, client: WebClient, path: Path) -> None:
        web.add(PHOTOS, lambda _: Answer(302))
        with pytest.raises(Refused, match="^HTTP 302$"):
            client.download(ADDRESS, path, MAXIMUM_BYTES)


class TestSecrets:
    def test_a_key_goes_nowhere_but_with_the_question(self, web: FakeWeb, client: WebClient, path: Path) -> None:
        for host in (API, PHOTOS):
            web.add(host, lambda _: Answer(body=b"photo"))
        client.ask(QUESTION, {}, HeaderAuth(SECRET), MAXIMUM_BYTES)
        client.ask(QUESTION, {}, None, MAXIMUM_BYTES)
        client.download(f"https://{API}/1.jpg", path, MAXIMUM_BYTES)
        client.download(ADDRESS, path, MAXIMUM_BYTES)
        assert [request.headers.get("Authorization") for request in web.requests] == [SECRET, None, None, None]

    def test_a_login_in_netrc_is_not_used(
        self, web: FakeWeb, client: WebClient, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        netrc = tmp_path / "netrc"
        netrc.write_text("".join(f"machine {host} login somebody password hidden\n" for host in (API, PHOTOS)))
        netrc.chmod(0o600)
        monkeypatch.setenv("NETRC", str(netrc))
        web.add(API, lambda request: redirect("/there") if request.path == "/1.jpg" else Answer(body=b"found"))
        client.ask(QUESTION, {}, HeaderAuth(SECRET), MAXIMUM_BYTES)
        client.ask(QUESTION, {}, None, MAXIMUM_BYTES)
        client.download(f"https://{API}/1.jpg", path, MAXIMUM_BYTES)
        assert [request.headers.get("Authorization") for request in web.requests] == [SECRET, None, None, None]

    def test_cookies_are_not_kept(self, web: FakeWeb, client: WebClient, path: Path) -> None:
        cookie = {"Set-Cookie": "visitor=17; Path=/; Max-Age=1000"}
        web.add(API, lambda _: Answer(302, headers=cookie | {"Location": f"https://{PHOTOS}/2.jpg"}))
        web.add(PHOTOS, lambda _: Answer(body=b"photo", headers=cookie))
        for _ in range(2):
            client.download(f"https://{API}/1.jpg", path, MAXIMUM_BYTES)
        assert [request.headers.get("Cookie") for request in web.requests] == [None] * 4
        assert not list(client.session.cookies)

    def test_a_login_does_not_show_its_value(self) -> None:
        login = HeaderAuth(SECRET)
        assert SECRET not in f"{login!r} {login}"

    @pytest.mark.parametrize(
        "answer",
        [
            pytest.param(Answer(401, f"{SECRET} is wrong".encode()), id="refused"),
            pytest.param(Answer(429), id="too many requests"),
            pytest.param(Answer(503), id="in trouble"),
            pytest.param(Answer(drop=True), id="dropped"),
            pytest.param(Answer(body=b"x" * 500, cut_after=100), id="cut"),
            pytest.param(Answer(body=b"x" * 500, cut_after=100, chunked=True), id="cut chunks"),
            pytest.param(Answer(body=b"x" * 500, seconds_per_kilobyte=1e9), id="stuck"),
            pytest.param(Answer(delay_seconds=1e9), id="silent"),
            pytest.param(Answer(body=b"no gzip", headers={"Content-Encoding": "gzip"}), id="garbled"),
            pytest.param(Answer(body=b"x" * 2000), id="too large"),
            pytest.param(redirect(f"https://{ELSEWHERE}/{SECRET}?token={TOKEN}"), id="sent elsewhere"),
            pytest.param(redirect(f"https://{API}:port/{SECRET}?token={TOKEN}"), id="sent to a broken address"),
        ],
    )
    def test_neither_a_key_nor_an_address_is_in_an_error(
        self, web: FakeWeb, hasty: WebClient, path: Path, answer: Answer
    ) -> None:
        web.add(API, lambda _: answer)
        web.add(PHOTOS, lambda _: answer)
        with pytest.raises(WebError) as asked:
            hasty.ask(QUESTION, {"token": TOKEN}, HeaderAuth(SECRET), MAXIMUM_BYTES)
        with pytest.raises(WebError) as downloaded:
            hasty.download(ADDRESS, path, MAXIMUM_BYTES)
        for error in (asked.value, downloaded.value):
            text = shown(error)
            assert [hidden for hidden in (SECRET, PATH, TOKEN) if hidden in text] == []
            # Not even where a traceback does not look.
            assert [link for link in contexts(error) if SECRET in repr(link)] == []

    def test_a_host_that_cannot_be_reached_leaves_no_address_in_the_error(self, client: WebClient, path: Path) -> None:
        with pytest.raises(NoAnswer, match="^no connection$") as caught:
            client.download(ADDRESS, path, MAXIMUM_BYTES)
        text = shown(caught.value)
        assert (PATH in text, TOKEN in text) == (False, False)


class TestAttempts:
    def test_pauses_double_between_attempts_and_the_last_error_stands(
        self, web: FakeWeb, client: WebClient, clock: RecordingClock, path: Path
    ) -> None:
        web.add(PHOTOS, script(Answer(500), Answer(502), Answer(503), Answer(504)))
        with pytest.raises(NoAnswer, match="^HTTP 504$"):
            client.download(ADDRESS, path, MAXIMUM_BYTES)
        assert (len(web.requests), clock.pauses, path.exists()) == (4, [1, 2, 4], False)

    @pytest.mark.parametrize(
        "failure",
        [
            pytest.param(Answer(500), id="500"),
            pytest.param(Answer(408), id="408"),
            pytest.param(Answer(429), id="429"),
            pytest.param(Answer(drop=True), id="dropped"),
            pytest.param(Answer(body=b"pho", headers={"Content-Length": "5"}, omit_length=True), id="short"),
            pytest.param(Answer(body=b"photo", cut_after=3), id="cut"),
            pytest.param(Answer(body=b"photo", cut_after=0), id="cut before the body"),
            pytest.param(Answer(body=b"photo" * 100, cut_after=300, chunked=True), id="cut between chunks"),
            pytest.param(Answer(body=b"photo", cut_after=0, chunked=True), id="cut before the first chunk"),
        ],
    )
    def test_what_does_not_come_whole_is_asked_again(
        self, web: FakeWeb, client: WebClient, clock: RecordingClock, path: Path, failure: Answer
    ) -> None:
        web.add(PHOTOS, script(failure, failure, Answer(body=b"the photo")))
        assert client.download(ADDRESS, path, MAXIMUM_BYTES).status == 200
        assert path.read_bytes() == b"the photo"
        assert (len(web.requests), clock.pauses) == (3, [1, 2])

    @pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 451])
    def test_a_no_is_not_asked_again(
        self, web: FakeWeb, client: WebClient, clock: RecordingClock, path: Path, status: int
    ) -> None:
        web.add(PHOTOS, lambda _: Answer(status, b"no"))
        with pytest.raises(Refused, match=f"^HTTP {status}$") as caught:
            client.download(ADDRESS, path, MAXIMUM_BYTES)
        assert (caught.value.status, len(web.requests), clock.pauses, path.exists()) == (status, 1, [], False)

    @pytest.mark.parametrize(
        ("retry_after", "pauses"),
        [
            ({"Retry-After": "7"}, [7, 7, 7]),
            ({"Retry-After": "0"}, [0, 0, 0]),
            ({"Retry-After": "60"}, [60, 60, 60]),
            ({"Retry-After": "61"}, []),
            ({"Retry-After": "9" * 30}, []),
            ({}, [1, 2, 4]),
            ({"Retry-After": "Fri, 31 Dec 2100 23:59:59 GMT"}, [1, 2, 4]),
            ({"Retry-After": "-5"}, [1, 2, 4]),
            ({"Retry-After": ""}, [1, 2, 4]),
        ],
    )
    def test_too_many_requests_waits_as_long_as_the_server_asks_but_gives_up_where_that_is_over_a_minute(
        self,
        web: FakeWeb,
        client: WebClient,
        clock: RecordingClock,
        path: Path,
        retry_after: dict[str, str],
        pauses: list[float],
    ) -> None:
        web.add(PHOTOS, lambda _: Answer(429, headers=retry_after))
        with pytest.raises(TooManyRequests, match=r"^HTTP 429 \(too many requests\)$"):
            client.download(ADDRESS, path, MAXIMUM_BYTES)
        assert (len(web.requests), clock.pauses) == (len(pauses) + 1, pauses)

    def test_the_seconds_that_a_server_asks_for_are_told(self, web: FakeWeb, client: WebClient) -> None:
        web.add(API, script(Answer(429, headers={"Retry-After": "3600"}), Answer(429)))
        for expected in (3600, None):
            with pytest.raises(TooManyRequests) as caught:
                client.ask(QUESTION, {}, None, MAXIMUM_BYTES)
            assert caught.value.retry_after == expected

    def test_a_shorter_answer_leaves_nothing_of_a_longer_one_that_was_cut(
        self, web: FakeWeb, client: WebClient, path: Path
    ) -> None:
        web.add(PHOTOS, script(Answer(body=b"y" * 900, cut_after=800), Answer(body=b"photo")))
        client.download(ADDRESS, path, MAXIMUM_BYTES)
        assert path.read_bytes() == b"photo"

    def test_one_attempt_is_one_request(self, web: FakeWeb, clock: RecordingClock, path: Path) -> None:
        web.add(PHOTOS, lambda _: Answer(500))
        with closing(WebClient([PHOTOS], 20, 1, 1, clock)) as client, pytest.raises(NoAnswer, match="^HTTP 500$"):
            client.download(ADDRESS, path, MAXIMUM_BYTES)
        assert (len(web.requests), clock.pauses) == (1, [])


class TestTime:
    @pytest.mark.parametrize(
        ("answer", "reason"),
        [
            pytest.param(Answer(delay_seconds=1e9), "no answer within 0.3 s", id="nothing comes"),
            # Each piece comes soon enough; all of them would take a minute.
            pytest.param(Answer(body=b"x" * 900, seconds_per_kilobyte=1), "not whole after 0.3 s", id="a dribble"),
            pytest.param(
                Answer(body=b"x" * 900, seconds_per_kilobyte=1, chunked=True), "not whole after 0.3 s", id="in chunks"
            ),
            pytest.param(
                Answer(body=b"x" * 900, seconds_per_kilobyte=1e9),
                r"the answer was cut short or garbled \(ReadTimeoutError\)",
                id="it stops in the middle",
            ),
        ],
    )
    def test_what_is_not_there_in_time_is_no_answer(
        self, web: FakeWeb, hasty: WebClient, clock: RecordingClock, path: Path, answer: Answer, reason: str
    ) -> None:
        web.add(PHOTOS, lambda _: answer)
        with pytest.raises(NoAnswer, match=f"^{reason}$"):
            hasty.download(ADDRESS, path, MAXIMUM_BYTES)
        assert (len(web.requests), clock.pauses) == (2, [1])


class TestSize:
    @pytest.mark.parametrize(
        ("answer", "more_than_bytes"),
        [
            pytest.param(Answer(body=b"x" * 1001), 1000, id="one byte too many"),
            pytest.param(Answer(body=b"x" * 5000), 4999, id="its size is told"),
            pytest.param(Answer(body=b"x" * 5000, chunked=True), 1000, id="its size is not told"),
            pytest.param(Answer(body=b"x" * 5000, omit_length=True), 1000, id="it ends with the connection"),
        ],
    )
    def test_a_larger_body_is_refused_once_and_it_is_told_how_large_it_is_at_least(
        self,
        web: FakeWeb,
        client: WebClient,
        clock: RecordingClock,
        path: Path,
        answer: Answer,
        more_than_bytes: int,
    ) -> None:
        web.add(PHOTOS, lambda _: answer)
        with pytest.raises(TooLarge, match=f"^more than {more_than_bytes} bytes$") as caught:
            client.download(ADDRESS, path, MAXIMUM_BYTES)
        assert (caught.value.more_than_bytes, len(web.requests), clock.pauses) == (more_than_bytes, 1, [])
        assert not path.exists() or path.stat().st_size <= MAXIMUM_BYTES

    @pytest.mark.parametrize(
        "answer",
        [
            Answer(body=b"x" * 1000),
            Answer(body=b"x" * 1000, chunked=True),
            Answer(body=b"x" * 1000, omit_length=True),
            Answer(body=b""),
        ],
        ids=["length", "chunks", "end of connection", "empty"],
    )
    def test_a_body_of_just_as_many_bytes_comes_whole(
        self, web: FakeWeb, client: WebClient, path: Path, answer: Answer
    ) -> None:
        web.add(PHOTOS, lambda _: answer)
        client.download(ADDRESS, path, MAXIMUM_BYTES)
        assert path.read_bytes() == answer.body

    def test_a_size_that_no_file_has_can_still_be_kept_in_the_ledger(
        self, web: FakeWeb, client: WebClient, path: Path, tmp_path: Path
    ) -> None:
        web.add(PHOTOS, lambda _: Answer(headers={"Content-Length": "9" * 25}, omit_length=True))
        with pytest.raises(TooLarge) as caught:
            client.download(ADDRESS, path, MAXIMUM_BYTES)
        with closing(Ledger(tmp_path / "ledger")) as ledger:
            ledger.keep_download(ADDRESS, Download(more_than_bytes=caught.value.more_than_bytes))
            known = ledger.find_download(ADDRESS)
        assert known
        assert known.more_than_bytes >= MAXIMUM_BYTES


class TestPacked:
    @pytest.mark.parametrize("chunked", [False, True])
    @pytest.mark.parametrize("maximum_bytes", [MAXIMUM_BYTES, len(BOMB)])
    def test_a_bomb_is_refused_once_and_does_not_go_off(
        self, web: FakeWeb, client: WebClient, clock: RecordingClock, path: Path, chunked: bool, maximum_bytes: int
    ) -> None:
        web.add(PHOTOS, lambda _: Answer(body=BOMB, headers={"Content-Encoding": "gzip"}, chunked=chunked))
        with pytest.raises((Refused, TooLarge)):
            client.download(ADDRESS, path, maximum_bytes)
        assert (len(web.requests), clock.pauses) == (1, [])
        assert not path.exists() or path.stat().st_size <= maximum_bytes

    @pytest.mark.parametrize(
        "body",
        [
            pytest.param(b"no gzip", id="it is not packed at all"),
            pytest.param(gzip.compress(b"photo")[:-9], id="a part of it"),
            # The header of a gzip file holds a name, and this one does not end: nothing ever comes out.
            pytest.param(b"\x1f\x8b\x08\x08" + bytes(6) + b"x" * 890, id="a name without an end"),
        ],
    )
    def test_what_cannot_be_unpacked_does_not_pass_for_a_photo(
        self, web: FakeWeb, client: WebClient, path: Path, body: bytes
    ) -> None:
        web.add(PHOTOS, lambda _: Answer(body=body, headers={"Content-Encoding": "gzip"}))
        with pytest.raises(WebError):
            client.download(ADDRESS, path, MAXIMUM_BYTES)

    def test_bytes_that_unpack_to_nothing_are_not_read_without_end(
        self, hasty: WebClient, path: Path, web: FakeWeb
    ) -> None:
        endless = b"\x1f\x8b\x08\x08" + bytes(6) + b"x" * 64 * 60
        answer = Answer(body=endless, headers={"Content-Encoding": "gzip"}, seconds_per_kilobyte=1, chunked=True)
        web.add(PHOTOS, lambda _: answer)
        with pytest.raises(WebError):
            hasty.download(ADDRESS, path, MAXIMUM_BYTES)
        assert not any(request.answered for request in web.requests)


class TestNotModified:
    def test_what_is_still_the_same_is_not_sent_again(self, web: FakeWeb, client: WebClient, path: Path) -> None:
        def answer(request: Request) -> Answer:
            same = request.headers.get("If-None-Match") == '"one"'
            return Answer(304 if same else 200, b"photo", {"ETag": '"one"'})

        web.add(API, lambda _: redirect(f"https://{PHOTOS}/1.jpg"))
        web.add(PHOTOS, answer)
        assert client.download(ADDRESS, path, MAXIMUM_BYTES, etag='"one"').status == 304
        assert client.download(f"https://{API}/1.jpg", path, MAXIMUM_BYTES, etag='"one"').status == 304
        assert not path.exists()
        headers = client.download(ADDRESS, path, MAXIMUM_BYTES, etag='"another"')
        assert (headers.status, headers.values["etag"], path.read_bytes()) == (200, '"one"', b"photo")

    def test_it_is_no_answer_to_a_question_for_the_whole(self, web: FakeWeb, client: WebClient, path: Path) -> None:
        web.add(PHOTOS, lambda _: Answer(304))
        with pytest.raises(WebError):
            client.download(ADDRESS, path, MAXIMUM_BYTES)


class TestClosing:
    def test_another_thread_that_waits_for_another_attempt_gives_up(self, web: FakeWeb, path: Path) -> None:
        waits, closed = threading.Event(), threading.Event()

        class WaitingClock(Clock):
            def sleep(self, seconds: float, _wake: object = None) -> None:  # noqa: ARG002 - it is over when the client is closed
                waits.set()
                closed.wait(20)

        web.add(PHOTOS, lambda _: Answer(500))
        client = WebClient([PHOTOS], 20, 4, 4, WaitingClock())
        error = in_thread(lambda: client.download(ADDRESS, path, MAXIMUM_BYTES))
        assert waits.wait(20)
        client.close()
        closed.set()
        assert str(error()) == "no longer wanted"
        assert len(web.requests) == 1

    def test_another_thread_that_reads_a_body_gives_up(self, web: FakeWeb, clock: RecordingClock, path: Path) -> None:
        # An hour, in pieces that come one after the other soon enough.
        web.add(PHOTOS, lambda _: Answer(body=b"x" * 64 * 36_000, seconds_per_kilobyte=1.6))
        client = WebClient([PHOTOS], 7200, 4, 4, clock)
        error = in_thread(lambda: client.download(ADDRESS, path, 10_000_000))
        while not path.exists():
            time.sleep(0.01)
        client.close()
        assert str(error()) == "no longer wanted"
        assert len(web.requests) == 1

    def test_a_closed_client_tries_once_at_most(
        self, web: FakeWeb, client: WebClient, clock: RecordingClock, path: Path
    ) -> None:
        web.add(PHOTOS, lambda _: Answer(500))
        client.close()
        with pytest.raises(Refused, match="^no longer wanted$"):
            client.download(ADDRESS, path, MAXIMUM_BYTES)
        assert (len(web.requests), clock.pauses) == (1, [])


def in_thread(action: Callable[[], object]) -> Callable[[], WebError | None]:
    """Begin `action` in a thread; the function that is given back waits for it and gives its error."""
    errors: list[WebError] = []

    def run() -> None:
        try:
            action()
        except WebError as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()

    def finish() -> WebError | None:
        thread.join(20)
        assert not thread.is_alive()
        return errors[0] if errors else None

    return finish


class TestCertificates:
    def test_a_certificate_that_nobody_vouches_for_is_no_answer(
        self, web: FakeWeb, client: WebClient, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
            monkeypatch.delenv(name, raising=False)
        web.add(PHOTOS, lambda _: Answer(body=b"photo"))
        with pytest.raises(NoAnswer, match=r"^no connection \(the certificate is not trusted\)$"):
            client.download(ADDRESS, path, MAXIMUM_BYTES)
        assert web.requests == []


def test_many_threads_share_a_client(web: FakeWeb, client: WebClient, tmp_path: Path) -> None:
    web.add(PHOTOS, lambda request: Answer(body=request.path.encode()))
    errors = [
        in_thread(lambda number=number: client.download(f"https://{PHOTOS}/{number}", tmp_path / number, MAXIMUM_BYTES))
        for number in map(str, range(32))
    ]
    assert [error() for error in errors] == [None] * 32
    assert {(tmp_path / str(number)).read_text() for number in range(32)} == {f"/{number}" for number in range(32)}
