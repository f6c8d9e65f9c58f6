import gzip
import socket
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
from darkroom.acquisition.web.errors import NoResponse, Refused, TooLarge, TooManyRequests, WebError
from tests.fake_web import FakeWeb, Handler, Request, Response

API = "api.example.org"
PHOTOS = "photos.example.org"
OTHER_HOST = "elsewhere.example.org"
# Only here, since a traceback shows the lines of this file too.
SECRET = "k3y-of-mine"
PATH = "a-hidden-path"
TOKEN = "a-hidden-token"
URL = f"https://{PHOTOS}/{PATH}/1.jpg?token={TOKEN}"
API_URL = f"https://{API}/{PATH}"
MAXIMUM_BYTES = 1000
BOMB = gzip.compress(b"\0" * 10_000_000)


class RecordingClock(Clock):
    """Records the pauses, and returns at once."""

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
    """A client with a short timeout."""
    with closing(WebClient([API, PHOTOS], timeout_seconds=0.3, attempts=2, parallel=4, clock=clock)) as client:
        yield client


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "photo"


def script(*responses: Response) -> Handler:
    """Return the responses one after the other, and then always the last one."""
    left = list(responses)
    return lambda _: left.pop(0) if len(left) > 1 else left[0]


def redirect(target: str, status: int = 302, body: bytes = b"") -> Response:
    return Response(status, body, {"Location": target})


def shown(error: BaseException) -> str:
    """Everything that a person or a log could see of an exception and its causes."""
    texts = ["".join(traceback.format_exception(error))]
    link: BaseException | None = error
    while link := link.__cause__ or (None if link.__suppress_context__ else link.__context__):
        texts.append(repr(link))
    return "\n".join(texts)


def contexts(error: BaseException) -> Iterator[BaseException]:
    """An exception and all its contexts, including suppressed ones."""
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__context__


class TestUrls:
    @pytest.mark.parametrize(
        ("url", "reason"),
        [
            (f"http://{PHOTOS}/1.jpg", "not an https URL: http"),
            ("file:///etc/passwd", "not an https URL: file"),
            ("/etc/passwd", "not an https URL: none"),
            ("", "not an https URL: none"),
            (f"//{PHOTOS}/1.jpg", "not an https URL: none"),
            (f"https://{OTHER_HOST}/1.jpg", f"host not allowed: {OTHER_HOST}"),
            (f"https://{PHOTOS}.evil.org/1.jpg", f"host not allowed: {PHOTOS}.evil.org"),
            (f"https://evil.org/{PHOTOS}", "host not allowed: evil.org"),
            (f"https://evil.org\\@{PHOTOS}/1.jpg", f"host not allowed: {PHOTOS}"),
            (f"https://{PHOTOS}\\.evil.org/1.jpg", rf"host not allowed: {PHOTOS}\.evil.org"),
            (f"https://{PHOTOS}@evil.org/1.jpg", "host not allowed: evil.org"),
            (f"https://user:password@{PHOTOS}/1.jpg", f"host not allowed: {PHOTOS}"),
            (f"https://@{PHOTOS}/1.jpg", f"host not allowed: {PHOTOS}"),
            (f"https://{PHOTOS}:8443/1.jpg", f"host not allowed: {PHOTOS}"),
            (f"https://{PHOTOS}:80/1.jpg", f"host not allowed: {PHOTOS}"),
            ("https:///1.jpg", "host not allowed: None"),
            ("https://\x1b\x07\u202eevil.org/1.jpg", "host not allowed: evil.org"),
            (f"https://{'x' * 1000}.org/1.jpg", f"host not allowed: {'x' * 252}…"),
            (f"{'x' * 1000}://{PHOTOS}/1.jpg", f"not an https URL: {'x' * 252}…"),
            ("https://127.0.0.1/1.jpg", "host not allowed: 127.0.0.1"),
        ],
    )
    def test_urls_that_are_not_https_on_an_allowed_host_are_never_requested(
        self, web: FakeWeb, client: WebClient, clock: RecordingClock, path: Path, url: str, reason: str
    ) -> None:
        with pytest.raises(Refused) as caught:
            client.download(url, path, MAXIMUM_BYTES)
        assert (str(caught.value), caught.value.status) == (reason, 0)
        with pytest.raises(Refused):
            client.fetch(url, {}, HeaderAuth(SECRET), MAXIMUM_BYTES)
        assert (web.requests, web.refused_hosts, clock.pauses, path.exists()) == ([], [], [], False)

    @pytest.mark.parametrize(
        "url",
        [
            f"https://{PHOTOS}:port/1.jpg",
            f"https://{PHOTOS}:99999/1.jpg",
            "https://[bad/1.jpg",
            "https://[::1/1.jpg",
            "https://a℀b.org/1.jpg",
        ],
    )
    def test_a_url_that_cannot_be_parsed_is_refused(self, client: WebClient, path: Path, url: str) -> None:
        with pytest.raises(Refused):
            client.download(url, path, MAXIMUM_BYTES)

    @pytest.mark.parametrize(
        "url",
        [
            f"https://{PHOTOS}/a%20b.jpg?w=3&h=4",
            f"https://{PHOTOS}:443/a b.jpg?w=3&h=4",
            f"HTTPS://{PHOTOS.upper()}/a b.jpg?w=3&h=4#x",
        ],
    )
    def test_the_same_host_in_another_spelling_is_requested(
        self, web: FakeWeb, client: WebClient, path: Path, url: str
    ) -> None:
        web.add(PHOTOS, lambda _: Response(body=b"photo"))
        assert client.download(url, path, MAXIMUM_BYTES).status == 200
        assert path.read_bytes() == b"photo"
        (request,) = web.requests_to(PHOTOS)
        assert (request.path, request.query) == ("/a%20b.jpg", {"w": "3", "h": "4"})


class TestFetch:
    def test_params_authorization_and_user_agent_are_sent_and_the_response_is_returned(
        self, web: FakeWeb, client: WebClient
    ) -> None:
        web.add(API, lambda _: Response(body=b"found", headers={"X-Left": "7"}))
        headers, body = client.fetch(API_URL, {"query": "red panda"}, HeaderAuth(SECRET), MAXIMUM_BYTES)
        assert (headers.status, headers.values["x-left"], body) == (200, "7", b"found")
        (request,) = web.requests
        assert (request.method, request.query) == ("GET", {"query": "red panda"})
        assert request.headers["Authorization"] == SECRET
        assert request.headers["User-Agent"].startswith("Darkroom python-requests/")

    def test_a_form_is_posted(self, web: FakeWeb, client: WebClient) -> None:
        web.add(API, lambda request: Response(body=request.body))
        _, body = client.fetch(API_URL, {}, None, MAXIMUM_BYTES, form={"client_id": "a b"})
        assert body == b"client_id=a+b"
        assert web.requests[0].method == "POST"

    def test_a_failure_is_not_repeated(self, web: FakeWeb, client: WebClient, clock: RecordingClock) -> None:
        web.add(API, lambda _: Response(500))
        with pytest.raises(NoResponse, match="^HTTP 500$"):
            client.fetch(API_URL, {}, None, MAXIMUM_BYTES)
        assert (len(web.requests), clock.pauses) == (1, [])

    @pytest.mark.parametrize("target", [f"https://{API}/there", f"https://{PHOTOS}/there", f"https://{OTHER_HOST}/"])
    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    def test_no_redirect_is_followed_with_a_key(
        self, web: FakeWeb, client: WebClient, target: str, status: int
    ) -> None:
        for host in (API, PHOTOS, OTHER_HOST):
            web.add(host, lambda _: redirect(target, status))
        with pytest.raises(Refused, match="^redirect refused$") as caught:
            client.fetch(API_URL, {}, HeaderAuth(SECRET), MAXIMUM_BYTES)
        assert caught.value.status == status
        assert [(request.host, request.path) for request in web.requests] == [(API, f"/{PATH}")]

    def test_a_larger_response_than_allowed_is_refused(self, web: FakeWeb, client: WebClient) -> None:
        web.add(API, lambda request: Response(body=b"x" * int(request.query["bytes"])))
        assert client.fetch(API_URL, {"bytes": "1000"}, None, MAXIMUM_BYTES)[1] == b"x" * 1000
        with pytest.raises(TooLarge):
            client.fetch(API_URL, {"bytes": "1001"}, None, MAXIMUM_BYTES)


class TestRedirects:
    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    def test_a_download_follows_them_to_its_own_hosts(
        self, web: FakeWeb, client: WebClient, path: Path, status: int
    ) -> None:
        web.add(API, lambda _: redirect(f"https://{PHOTOS}/2.jpg", status))
        web.add(PHOTOS, lambda request: redirect("/3.jpg?w=1") if request.path == "/2.jpg" else Response(body=b"photo"))
        assert client.download(f"https://{API}/1.jpg", path, MAXIMUM_BYTES).status == 200
        assert path.read_bytes() == b"photo"
        assert [(request.path, request.query) for request in web.requests_to(PHOTOS)] == [
            ("/2.jpg", {}),
            ("/3.jpg", {"w": "1"}),
        ]

    def test_three_are_followed_and_a_fourth_is_not(
        self, web: FakeWeb, client: WebClient, clock: RecordingClock, path: Path
    ) -> None:
        def respond(request: Request) -> Response:
            left = int(request.path.strip("/"))
            return redirect(f"/{left - 1}") if left else Response(body=b"photo")

        web.add(PHOTOS, respond)
        assert client.download(f"https://{PHOTOS}/3", path, MAXIMUM_BYTES).status == 200
        assert len(web.requests) == 4
        with pytest.raises(Refused, match="^redirect refused$") as caught:
            client.download(f"https://{PHOTOS}/4", path, MAXIMUM_BYTES)
        assert (caught.value.status, len(web.requests), clock.pauses) == (302, 8, [])

    @pytest.mark.parametrize(
        ("target", "reason"),
        [
            (f"https://{OTHER_HOST}/1.jpg", f"redirect refused, host not allowed: {OTHER_HOST}"),
            (f"//{OTHER_HOST}/1.jpg", f"redirect refused, host not allowed: {OTHER_HOST}"),
            (f"http://{PHOTOS}/1.jpg", "redirect refused, not an https URL: http"),
            ("file:///etc/passwd", "redirect refused, not an https URL: file"),
            (f"https://{PHOTOS}:8443/", f"redirect refused, host not allowed: {PHOTOS}"),
            (f"https://a:b@{PHOTOS}/", f"redirect refused, host not allowed: {PHOTOS}"),
        ],
    )
    def test_one_to_another_host_is_refused_with_its_status(
        self, web: FakeWeb, client: WebClient, path: Path, target: str, reason: str
    ) -> None:
        web.add(PHOTOS, lambda _: redirect(target, 307))
        web.add(OTHER_HOST, lambda _: Response(body=b"photo"))
        with pytest.raises(Refused) as caught:
            client.download(URL, path, MAXIMUM_BYTES)
        assert (str(caught.value), caught.value.status) == (reason, 307)
        assert (len(web.requests), web.refused_hosts, path.exists()) == (1, [], False)

    @pytest.mark.parametrize("target", ["https://[bad", "https://[::1/1.jpg", f"https://{PHOTOS}:port/"])
    def test_one_to_a_url_that_cannot_be_parsed_is_refused_with_its_status(
        self, web: FakeWeb, client: WebClient, path: Path, target: str
    ) -> None:
        web.add(PHOTOS, lambda _: redirect(target, 307))
        with pytest.raises(Refused) as caught:
            client.download(URL, path, MAXIMUM_BYTES)
        assert caught.value.status == 307

    def test_the_body_of_one_is_not_read(
        self, clock: RecordingClock, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with FakeWeb() as web:
            for name, value in web.environment.items():
                monkeypatch.setenv(name, value)
            # More than the buffers of both ends hold: it is fully sent only if the client reads it.
            web.add(API, lambda _: redirect(f"https://{PHOTOS}/1.jpg", body=b"x" * 50_000_000))
            web.add(PHOTOS, lambda _: Response(body=b"photo"))
            with closing(WebClient([API, PHOTOS], 20, 1, 1, clock)) as client:
                client.download(f"https://{API}/1.jpg", path, MAXIMUM_BYTES)
        assert path.read_bytes() == b"photo"
        assert not web.requests_to(API)[0].fully_sent

    def test_one_without_a_target_is_refused(self, web: FakeWeb, client: WebClient, path: Path) -> None:
        web.add(PHOTOS, lambda _: Response(302))
        with pytest.raises(Refused, match="^HTTP 302$"):
            client.download(URL, path, MAXIMUM_BYTES)


class TestSecrets:
    def test_a_key_is_sent_only_with_its_own_request(self, web: FakeWeb, client: WebClient, path: Path) -> None:
        for host in (API, PHOTOS):
            web.add(host, lambda _: Response(body=b"photo"))
        client.fetch(API_URL, {}, HeaderAuth(SECRET), MAXIMUM_BYTES)
        client.fetch(API_URL, {}, None, MAXIMUM_BYTES)
        client.download(f"https://{API}/1.jpg", path, MAXIMUM_BYTES)
        client.download(URL, path, MAXIMUM_BYTES)
        assert [request.headers.get("Authorization") for request in web.requests] == [SECRET, None, None, None]

    def test_a_login_in_netrc_is_not_used(
        self, web: FakeWeb, client: WebClient, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        netrc = tmp_path / "netrc"
        netrc.write_text("".join(f"machine {host} login somebody password hidden\n" for host in (API, PHOTOS)))
        netrc.chmod(0o600)
        monkeypatch.setenv("NETRC", str(netrc))
        web.add(API, lambda request: redirect("/there") if request.path == "/1.jpg" else Response(body=b"found"))
        client.fetch(API_URL, {}, HeaderAuth(SECRET), MAXIMUM_BYTES)
        client.fetch(API_URL, {}, None, MAXIMUM_BYTES)
        client.download(f"https://{API}/1.jpg", path, MAXIMUM_BYTES)
        assert [request.headers.get("Authorization") for request in web.requests] == [SECRET, None, None, None]

    def test_cookies_are_not_stored(self, web: FakeWeb, client: WebClient, path: Path) -> None:
        cookie = {"Set-Cookie": "visitor=17; Path=/; Max-Age=1000"}
        web.add(API, lambda _: Response(302, headers=cookie | {"Location": f"https://{PHOTOS}/2.jpg"}))
        web.add(PHOTOS, lambda _: Response(body=b"photo", headers=cookie))
        for _ in range(2):
            client.download(f"https://{API}/1.jpg", path, MAXIMUM_BYTES)
        assert [request.headers.get("Cookie") for request in web.requests] == [None] * 4
        assert not list(client.session.cookies)

    def test_a_header_auth_does_not_show_its_value(self) -> None:
        login = HeaderAuth(SECRET)
        assert SECRET not in f"{login!r} {login}"

    @pytest.mark.parametrize(
        "response",
        [
            pytest.param(Response(401, f"{SECRET} is wrong".encode()), id="refused"),
            pytest.param(Response(429), id="too many requests"),
            pytest.param(Response(503), id="server error"),
            pytest.param(Response(drop=True), id="dropped"),
            pytest.param(Response(body=b"x" * 500, cut_after=100), id="cut"),
            pytest.param(Response(body=b"x" * 500, cut_after=100, chunked=True), id="cut chunks"),
            pytest.param(Response(body=b"x" * 500, seconds_per_kilobyte=1e9), id="stuck"),
            pytest.param(Response(delay_seconds=1e9), id="silent"),
            pytest.param(Response(body=b"no gzip", headers={"Content-Encoding": "gzip"}), id="garbled"),
            pytest.param(Response(body=b"x" * 2000), id="too large"),
            pytest.param(redirect(f"https://{OTHER_HOST}/{SECRET}?token={TOKEN}"), id="redirected to another host"),
            pytest.param(redirect(f"https://{API}:port/{SECRET}?token={TOKEN}"), id="redirected to an invalid url"),
        ],
    )
    def test_neither_a_key_nor_a_url_is_in_an_error(
        self, web: FakeWeb, hasty: WebClient, path: Path, response: Response
    ) -> None:
        web.add(API, lambda _: response)
        web.add(PHOTOS, lambda _: response)
        with pytest.raises(WebError) as fetched:
            hasty.fetch(API_URL, {"token": TOKEN}, HeaderAuth(SECRET), MAXIMUM_BYTES)
        with pytest.raises(WebError) as downloaded:
            hasty.download(URL, path, MAXIMUM_BYTES)
        for error in (fetched.value, downloaded.value):
            text = shown(error)
            assert [hidden for hidden in (SECRET, PATH, TOKEN) if hidden in text] == []
            # Not even in suppressed contexts.
            assert [link for link in contexts(error) if SECRET in repr(link)] == []

    def test_an_unreachable_host_leaves_no_url_in_the_error(self, client: WebClient, path: Path) -> None:
        with pytest.raises(NoResponse, match="^no connection$") as caught:
            client.download(URL, path, MAXIMUM_BYTES)
        text = shown(caught.value)
        assert (PATH in text, TOKEN in text) == (False, False)


class TestAttempts:
    def test_pauses_double_between_attempts_and_the_last_error_is_raised(
        self, web: FakeWeb, client: WebClient, clock: RecordingClock, path: Path
    ) -> None:
        web.add(PHOTOS, script(Response(500), Response(502), Response(503), Response(504)))
        with pytest.raises(NoResponse, match="^HTTP 504$"):
            client.download(URL, path, MAXIMUM_BYTES)
        assert (len(web.requests), clock.pauses, path.exists()) == (4, [1, 2, 4], False)

    @pytest.mark.parametrize(
        "failure",
        [
            pytest.param(Response(500), id="500"),
            pytest.param(Response(408), id="408"),
            pytest.param(Response(429), id="429"),
            pytest.param(Response(drop=True), id="dropped"),
            pytest.param(Response(body=b"pho", headers={"Content-Length": "5"}, omit_length=True), id="short"),
            pytest.param(Response(body=b"photo", cut_after=3), id="cut"),
            pytest.param(Response(body=b"photo", cut_after=0), id="cut before the body"),
            pytest.param(Response(body=b"photo", headers={"Content-Length": "5, 7"}), id="two lengths"),
            pytest.param(Response(body=b"photo" * 100, cut_after=300, chunked=True), id="cut between chunks"),
            pytest.param(Response(body=b"photo", cut_after=0, chunked=True), id="cut before the first chunk"),
        ],
    )
    def test_an_incomplete_response_is_retried(
        self, web: FakeWeb, client: WebClient, clock: RecordingClock, path: Path, failure: Response
    ) -> None:
        web.add(PHOTOS, script(failure, failure, Response(body=b"the photo")))
        assert client.download(URL, path, MAXIMUM_BYTES).status == 200
        assert path.read_bytes() == b"the photo"
        assert (len(web.requests), clock.pauses) == (3, [1, 2])

    @pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 451])
    def test_a_refusal_is_not_retried(
        self, web: FakeWeb, client: WebClient, clock: RecordingClock, path: Path, status: int
    ) -> None:
        web.add(PHOTOS, lambda _: Response(status, b"no"))
        with pytest.raises(Refused, match=f"^HTTP {status}$") as caught:
            client.download(URL, path, MAXIMUM_BYTES)
        assert (caught.value.status, len(web.requests), clock.pauses, path.exists()) == (status, 1, [], False)

    @pytest.mark.parametrize(
        ("retry_after", "pauses"),
        [
            ({"Retry-After": "7"}, [7, 7, 7]),
            ({"Retry-After": "0"}, [0, 0, 0]),
            ({"Retry-After": "60"}, [60, 60, 60]),
            ({"Retry-After": "61"}, []),
            ({"Retry-After": str(32 * 86_400)}, []),
            # More than a month, which cannot be true.
            ({"Retry-After": str(32 * 86_400 + 1)}, [1, 2, 4]),
            ({"Retry-After": "9" * 400}, [1, 2, 4]),
            ({}, [1, 2, 4]),
            ({"Retry-After": "Fri, 31 Dec 2100 23:59:59 GMT"}, [1, 2, 4]),
            ({"Retry-After": "-5"}, [1, 2, 4]),
            ({"Retry-After": ""}, [1, 2, 4]),
        ],
    )
    def test_retry_after_is_respected_up_to_a_minute(
        self,
        web: FakeWeb,
        client: WebClient,
        clock: RecordingClock,
        path: Path,
        retry_after: dict[str, str],
        pauses: list[float],
    ) -> None:
        web.add(PHOTOS, lambda _: Response(429, headers=retry_after))
        with pytest.raises(TooManyRequests, match=r"^HTTP 429 \(too many requests\)$"):
            client.download(URL, path, MAXIMUM_BYTES)
        assert (len(web.requests), clock.pauses) == (len(pauses) + 1, pauses)

    def test_retry_after_is_in_the_error(self, web: FakeWeb, client: WebClient) -> None:
        web.add(API, script(Response(429, headers={"Retry-After": "3600"}), Response(429)))
        for expected in (3600, None):
            with pytest.raises(TooManyRequests) as caught:
                client.fetch(API_URL, {}, None, MAXIMUM_BYTES)
            assert caught.value.retry_after == expected

    def test_a_shorter_response_leaves_nothing_of_a_longer_one_that_was_cut(
        self, web: FakeWeb, client: WebClient, path: Path
    ) -> None:
        web.add(PHOTOS, script(Response(body=b"y" * 900, cut_after=800), Response(body=b"photo")))
        client.download(URL, path, MAXIMUM_BYTES)
        assert path.read_bytes() == b"photo"

    def test_one_attempt_is_one_request(self, web: FakeWeb, clock: RecordingClock, path: Path) -> None:
        web.add(PHOTOS, lambda _: Response(500))
        with closing(WebClient([PHOTOS], 20, 1, 1, clock)) as client, pytest.raises(NoResponse, match="^HTTP 500$"):
            client.download(URL, path, MAXIMUM_BYTES)
        assert (len(web.requests), clock.pauses) == (1, [])


class TestTime:
    @pytest.mark.parametrize(
        ("response", "reason"),
        [
            pytest.param(Response(delay_seconds=1e9), "no response within 0.3 s", id="no bytes"),
            # Each piece arrives in time; all of them would take a minute.
            pytest.param(Response(body=b"x" * 900, seconds_per_kilobyte=1), "incomplete after 0.3 s", id="slow pieces"),
            pytest.param(
                Response(body=b"x" * 900, seconds_per_kilobyte=1, chunked=True),
                "incomplete after 0.3 s",
                id="slow chunks",
            ),
            pytest.param(
                Response(body=b"x" * 900, seconds_per_kilobyte=1e9), "incomplete after 0.3 s", id="stops in the middle"
            ),
            pytest.param(Response(trickle=(b"HTTP/1.1 ", b"2")), "no response within 0.3 s", id="slow status line"),
            pytest.param(
                Response(trickle=(b"HTTP/1.1 200 OK\r\nX-Name: ", b"x")), "no response within 0.3 s", id="slow header"
            ),
            pytest.param(
                Response(trickle=(b"", b"HTTP/1.1 100 Continue\r\n\r\n")), "no response within 0.3 s", id="100s"
            ),
            pytest.param(
                Response(trickle=(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"X: 1\r\n")),
                "incomplete after 0.3 s",
                id="endless trailers",
            ),
        ],
    )
    def test_a_late_response_is_no_response(
        self, web: FakeWeb, hasty: WebClient, clock: RecordingClock, path: Path, response: Response, reason: str
    ) -> None:
        web.add(PHOTOS, lambda _: response)
        start = time.monotonic()
        with pytest.raises(NoResponse, match=f"^{reason}$"):
            hasty.download(URL, path, MAXIMUM_BYTES)
        assert time.monotonic() - start < 2
        assert (len(web.requests), clock.pauses) == (2, [1])

    @pytest.mark.parametrize(
        "trickle",
        [
            pytest.param((b"HTTP/1.1 ", b"2"), id="slow status line"),
            pytest.param((b"HTTP/1.1 200 OK\r\n", b"X: 1\r\n"), id="endless headers"),
            pytest.param((b"HTTP/1.1 200 OK\r\n\r\n", b""), id="no TLS handshake"),
            # The header of a TLS record with 16,383 bytes, which then arrive one by one.
            pytest.param((b"HTTP/1.1 200 OK\r\n\r\n", b"\x16\x03\x03\x3f\xff", b"x"), id="slow TLS handshake"),
        ],
    )
    def test_a_slow_proxy_is_within_the_limit(
        self, web: FakeWeb, hasty: WebClient, path: Path, trickle: tuple[bytes, ...]
    ) -> None:
        web.add(PHOTOS, lambda _: Response(body=b"photo"))
        web.proxy_trickle = trickle
        start = time.monotonic()
        with pytest.raises(NoResponse):
            hasty.download(URL, path, MAXIMUM_BYTES)
        assert time.monotonic() - start < 2

    def test_all_addresses_of_a_host_share_the_limit_and_the_last_is_still_tried(
        self, web: FakeWeb, clock: RecordingClock, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        web.add(PHOTOS, lambda _: Response(body=b"photo"))
        with socket.create_server(("127.0.0.1", 0), backlog=0) as full, socket.socket() as first:
            first.connect(full.getsockname())  # from now on the system ignores attempts to connect
            silent = (socket.AF_INET, socket.SOCK_STREAM, 0, "", full.getsockname())
            proxy = ("127.0.0.1", int(web.environment["https_proxy"].rpartition(":")[2]))
            addresses = [silent] * 3
            monkeypatch.setattr(socket, "getaddrinfo", lambda *_: addresses)
            start = time.monotonic()
            with closing(WebClient([PHOTOS], 0.8, 1, 1, clock)) as client:
                with pytest.raises(NoResponse):
                    client.download(URL, path, MAXIMUM_BYTES)
                assert 0.7 < time.monotonic() - start < 1.6
                addresses.append((*silent[:4], proxy))
                client.download(URL, path, MAXIMUM_BYTES)
        assert path.read_bytes() == b"photo"

    def test_a_proxy_may_have_an_ipv6_address(
        self, web: FakeWeb, clock: RecordingClock, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        web.add(PHOTOS, lambda _: Response(body=b"photo"))
        port = int(web.environment["https_proxy"].rpartition(":")[2])
        found = {"::1": [(socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", port))]}
        for name in ("https_proxy", "HTTPS_PROXY"):
            monkeypatch.setenv(name, f"http://[::1]:{port}")
        with closing(WebClient([PHOTOS], 5, 1, 1, clock)) as client, monkeypatch.context() as patch:
            patch.setattr(socket, "getaddrinfo", lambda host, *_: found[host])
            assert client.download(URL, path, MAXIMUM_BYTES).status == 200

    def test_redirects_are_within_the_limit_of_the_download(
        self, web: FakeWeb, clock: RecordingClock, path: Path
    ) -> None:
        web.add(PHOTOS, lambda _: Response(302, headers={"Location": "/there"}, delay_seconds=0.25))
        start = time.monotonic()
        with closing(WebClient([PHOTOS], 0.4, 1, 1, clock)) as client, pytest.raises(NoResponse):
            client.download(URL, path, MAXIMUM_BYTES)
        assert time.monotonic() - start < 0.6
        assert len(web.requests) == 2

    def test_a_connection_that_is_used_again_has_the_whole_limit_again(
        self, web: FakeWeb, clock: RecordingClock, path: Path
    ) -> None:
        web.add(PHOTOS, lambda _: Response(body=b"photo", delay_seconds=0.25))
        with closing(WebClient([PHOTOS], 0.5, 1, 1, clock)) as client:
            for _ in range(4):
                client.download(URL, path, MAXIMUM_BYTES)
        assert len({request.connection for request in web.requests}) == 1


class TestSize:
    @pytest.mark.parametrize(
        ("response", "more_than_bytes"),
        [
            pytest.param(Response(body=b"x" * 1001), 1000, id="one byte too many"),
            pytest.param(Response(body=b"x" * 5000), 4999, id="declared length"),
            pytest.param(Response(body=b"x" * 5000, chunked=True), 1000, id="chunked"),
            pytest.param(Response(body=b"x" * 5000, omit_length=True), 1000, id="until the connection ends"),
        ],
    )
    def test_a_larger_body_is_refused_once_with_a_lower_limit_of_its_size(
        self,
        web: FakeWeb,
        client: WebClient,
        clock: RecordingClock,
        path: Path,
        response: Response,
        more_than_bytes: int,
    ) -> None:
        web.add(PHOTOS, lambda _: response)
        with pytest.raises(TooLarge, match=f"^more than {more_than_bytes} bytes$") as caught:
            client.download(URL, path, MAXIMUM_BYTES)
        assert (caught.value.more_than_bytes, len(web.requests), clock.pauses) == (more_than_bytes, 1, [])
        assert not path.exists() or path.stat().st_size <= MAXIMUM_BYTES

    @pytest.mark.parametrize(
        "response",
        [
            Response(body=b"x" * 1000),
            Response(body=b"x" * 1000, chunked=True),
            Response(body=b"x" * 1000, omit_length=True),
            Response(body=b""),
        ],
        ids=["length", "chunks", "end of connection", "empty"],
    )
    def test_a_body_of_the_maximum_size_is_complete(
        self, web: FakeWeb, client: WebClient, path: Path, response: Response
    ) -> None:
        web.add(PHOTOS, lambda _: response)
        client.download(URL, path, MAXIMUM_BYTES)
        assert path.read_bytes() == response.body

    def test_an_impossible_size_can_still_be_saved_in_the_ledger(
        self, web: FakeWeb, client: WebClient, path: Path, tmp_path: Path
    ) -> None:
        web.add(PHOTOS, lambda _: Response(headers={"Content-Length": "9" * 25}, omit_length=True))
        with pytest.raises(TooLarge) as caught:
            client.download(URL, path, MAXIMUM_BYTES)
        with closing(Ledger(tmp_path / "ledger")) as ledger:
            ledger.save_download(URL, Download(more_than_bytes=caught.value.more_than_bytes))
            known = ledger.find_download(URL)
        assert known
        assert known.more_than_bytes >= MAXIMUM_BYTES


class TestCompressed:
    @pytest.mark.parametrize("chunked", [False, True])
    @pytest.mark.parametrize("maximum_bytes", [MAXIMUM_BYTES, len(BOMB)])
    def test_a_decompression_bomb_is_refused_once_and_not_decompressed(
        self, web: FakeWeb, client: WebClient, clock: RecordingClock, path: Path, chunked: bool, maximum_bytes: int
    ) -> None:
        web.add(PHOTOS, lambda _: Response(body=BOMB, headers={"Content-Encoding": "gzip"}, chunked=chunked))
        with pytest.raises((Refused, TooLarge)):
            client.download(URL, path, maximum_bytes)
        assert (len(web.requests), clock.pauses) == (1, [])
        assert not path.exists() or path.stat().st_size <= maximum_bytes

    @pytest.mark.parametrize(
        "body",
        [
            pytest.param(b"no gzip", id="not compressed"),
            pytest.param(gzip.compress(b"photo")[:-9], id="truncated"),
            # The header of a gzip file contains a name. This one does not end, so there is no output.
            pytest.param(b"\x1f\x8b\x08\x08" + bytes(6) + b"x" * 890, id="an endless name"),
        ],
    )
    def test_a_body_that_cannot_be_decompressed_is_an_error(
        self, web: FakeWeb, client: WebClient, path: Path, body: bytes
    ) -> None:
        web.add(PHOTOS, lambda _: Response(body=body, headers={"Content-Encoding": "gzip"}))
        with pytest.raises(WebError):
            client.download(URL, path, MAXIMUM_BYTES)

    def test_bytes_that_decompress_to_nothing_are_not_read_without_end(
        self, hasty: WebClient, path: Path, web: FakeWeb
    ) -> None:
        endless = b"\x1f\x8b\x08\x08" + bytes(6) + b"x" * 64 * 60
        response = Response(body=endless, headers={"Content-Encoding": "gzip"}, seconds_per_kilobyte=1, chunked=True)
        web.add(PHOTOS, lambda _: response)
        with pytest.raises(WebError):
            hasty.download(URL, path, MAXIMUM_BYTES)
        assert not any(request.fully_sent for request in web.requests)


class TestNotModified:
    def test_an_unchanged_file_is_not_sent_again(self, web: FakeWeb, client: WebClient, path: Path) -> None:
        def respond(request: Request) -> Response:
            same = request.headers.get("If-None-Match") == '"one"'
            return Response(304 if same else 200, b"photo", {"ETag": '"one"'})

        web.add(API, lambda _: redirect(f"https://{PHOTOS}/1.jpg"))
        web.add(PHOTOS, respond)
        assert client.download(URL, path, MAXIMUM_BYTES, etag='"one"').status == 304
        assert client.download(f"https://{API}/1.jpg", path, MAXIMUM_BYTES, etag='"one"').status == 304
        assert not path.exists()
        headers = client.download(URL, path, MAXIMUM_BYTES, etag='"another"')
        assert (headers.status, headers.values["etag"], path.read_bytes()) == (200, '"one"', b"photo")

    def test_it_is_an_error_without_an_etag(self, web: FakeWeb, client: WebClient, path: Path) -> None:
        web.add(PHOTOS, lambda _: Response(304))
        with pytest.raises(WebError):
            client.download(URL, path, MAXIMUM_BYTES)


class TestClosing:
    def test_another_thread_that_waits_for_a_retry_gives_up(self, web: FakeWeb, path: Path) -> None:
        waits, closed = threading.Event(), threading.Event()

        class WaitingClock(Clock):
            def sleep(self, seconds: float, _wake: object = None) -> None:  # noqa: ARG002 - it is over when the client is closed
                waits.set()
                closed.wait(20)

        web.add(PHOTOS, lambda _: Response(500))
        client = WebClient([PHOTOS], 20, 4, 4, WaitingClock())
        error = in_thread(lambda: client.download(URL, path, MAXIMUM_BYTES))
        assert waits.wait(20)
        client.close()
        closed.set()
        assert str(error()) == "cancelled"
        assert len(web.requests) == 1

    def test_another_thread_that_reads_a_body_gives_up(self, web: FakeWeb, clock: RecordingClock, path: Path) -> None:
        # The body takes an hour, in pieces that each arrive in time.
        web.add(PHOTOS, lambda _: Response(body=b"x" * 64 * 36_000, seconds_per_kilobyte=1.6))
        client = WebClient([PHOTOS], 7200, 4, 4, clock)
        error = in_thread(lambda: client.download(URL, path, 10_000_000))
        while not path.exists():
            time.sleep(0.01)
        client.close()
        assert str(error()) == "cancelled"
        assert len(web.requests) == 1

    def test_a_closed_client_tries_once_at_most(
        self, web: FakeWeb, client: WebClient, clock: RecordingClock, path: Path
    ) -> None:
        web.add(PHOTOS, lambda _: Response(500))
        client.close()
        with pytest.raises(Refused, match="^cancelled$"):
            client.download(URL, path, MAXIMUM_BYTES)
        assert (len(web.requests), clock.pauses) == (1, [])


def in_thread(action: Callable[[], object]) -> Callable[[], WebError | None]:
    """Start `action` in a thread; the returned function waits for it and returns its error."""
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
    def test_an_untrusted_certificate_is_no_response(
        self, web: FakeWeb, client: WebClient, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
            monkeypatch.delenv(name, raising=False)
        web.add(PHOTOS, lambda _: Response(body=b"photo"))
        with pytest.raises(NoResponse, match=r"^no connection \(the certificate is not trusted\)$"):
            client.download(URL, path, MAXIMUM_BYTES)
        assert web.requests == []


def test_many_threads_share_a_client(web: FakeWeb, client: WebClient, tmp_path: Path) -> None:
    web.add(PHOTOS, lambda request: Response(body=request.path.encode()))
    errors = [
        in_thread(lambda number=number: client.download(f"https://{PHOTOS}/{number}", tmp_path / number, MAXIMUM_BYTES))
        for number in map(str, range(32))
    ]
    assert [error() for error in errors] == [None] * 32
    assert {(tmp_path / str(number)).read_text() for number in range(32)} == {f"/{number}" for number in range(32)}
