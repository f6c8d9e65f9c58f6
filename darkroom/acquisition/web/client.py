"""Fetching over the web: https only, from named hosts only, within limits to the bytes and seconds of a body."""

import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from http.cookiejar import DefaultCookiePolicy
from pathlib import Path
from typing import NamedTuple, TypeVar
from urllib.parse import urljoin, urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt
from tqdm import tqdm

from darkroom.acquisition.clock import Clock
from darkroom.acquisition.web.auth import NoLogin
from darkroom.acquisition.web.errors import (
    NOT_MODIFIED,
    NoAnswer,
    Refused,
    TooLarge,
    TooManyRequests,
    check_status,
    translated_errors,
)
from darkroom.params.acquire import DownloadParams

USER_AGENT = f"Darkroom/0.1 python-requests/{requests.__version__}"
CHUNK_BYTES = 1 << 16
REDIRECTS = 3
LONGEST_PAUSE_SECONDS = 60.0
Result = TypeVar("Result")


class Headers(NamedTuple):
    """What came before an answer's body. `values` has names in any case."""

    status: int
    values: Mapping[str, str]


class WebClient:
    """Several threads may use one client. It keeps no cookies, and follows redirects to its own hosts only."""

    def __init__(
        self, hosts: Collection[str], timeout_seconds: float, attempts: int, parallel: int, clock: Clock
    ) -> None:
        self.hosts = frozenset(hosts)
        self.timeout_seconds = timeout_seconds
        self.attempts = attempts
        self.clock = clock
        self.closed = threading.Event()
        self.session = requests.Session()
        self.session.mount("https://", HTTPAdapter(pool_connections=len(self.hosts), pool_maxsize=parallel))
        self.session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        self.session.headers["User-Agent"] = USER_AGENT
        # Packed bytes may unpack to nothing for ever, or to more than there is room for.
        self.session.headers["Accept-Encoding"] = "identity"

    def ask(
        self,
        address: str,
        params: Mapping[str, str],
        auth: AuthBase | None,
        maximum_bytes: int,
        form: Mapping[str, str] | None = None,
    ) -> tuple[Headers, bytes]:
        """Ask once, by GET or, with a form, by POST; redirects are refused, for they might carry a secret away.

        Raises:
            WebError: see its subclasses.
        """
        with self.open(address, params, auth, form=form, redirects=0) as response:
            body = b"".join(self.read(response, maximum_bytes))
            return Headers(response.status_code, response.headers), body

    def download(
        self,
        address: str,
        path: Path,
        maximum_bytes: int,
        etag: str = "",
        progress: Callable[[int], object] = int,
        what: str = "",
    ) -> Headers:
        """Write what lies at `address` into `path`, in several attempts if need be.

        With the etag of what is here already the status may be 304, and nothing is written. `progress` is told of each
        number of bytes that has come. For `what`, see `try_often`.

        Raises:
            WebError: see its subclasses.
        """

        def attempt() -> Headers:
            with self.open(address, {}, None, etag=etag, redirects=REDIRECTS) as response:
                if response.status_code == NOT_MODIFIED and not etag:
                    raise Refused("HTTP 304", NOT_MODIFIED)
                if response.status_code != NOT_MODIFIED:
                    with path.open("wb") as file:
                        for chunk in self.read(response, maximum_bytes):
                            file.write(chunk)
                            progress(len(chunk))
                return Headers(response.status_code, response.headers)

        return self.try_often(attempt, what)

    def try_often(self, attempt: Callable[[], Result], what: str = "") -> Result:
        """Repeat `attempt` while it raises `NoAnswer`, with growing pauses; at last that error stands.

        Where `what` says what is tried, each pause is told.
        """

        def tell(state: RetryCallState) -> None:
            if what and state.outcome:
                tqdm.write(f"{what}: {state.outcome.exception()}; trying again in {state.upcoming_sleep:g} s")

        return Retrying(
            retry=retry_if_exception(is_worth_another_attempt),
            stop=stop_after_attempt(self.attempts),
            wait=pause_seconds,
            sleep=self.pause,
            before_sleep=tell,
            reraise=True,
        )(attempt)

    def pause(self, seconds: float) -> None:
        """Sleep before another attempt, which is not made once the client is closed."""
        if not self.closed.is_set():
            self.clock.sleep(seconds, self.closed)
        if self.closed.is_set():
            raise Refused("no longer wanted")

    @contextmanager
    def open(
        self,
        address: str,
        params: Mapping[str, str],
        auth: AuthBase | None,
        *,
        etag: str = "",
        form: Mapping[str, str] | None = None,
        redirects: int,
    ) -> Iterator[requests.Response]:
        """Ask, follow redirects, and yield an answer whose status is 200 or 304 and whose body is still to come."""
        self.check_address(address)
        request = requests.Request(
            "GET" if form is None else "POST",
            address,
            params=params,
            data=form,
            # A login from ~/.netrc would take the place of a header of our own, but not that of `auth`.
            auth=auth or NoLogin(),
            headers={"If-None-Match": etag} if etag else {},
        )
        with translated_errors(self.timeout_seconds):
            prepared = self.session.prepare_request(request)
            settings = self.session.merge_environment_settings(prepared.url or "", {}, True, None, None)
            # Not session.send: it reads the whole body of a redirect.
            adapter = self.session.get_adapter(prepared.url or "")
            response = adapter.send(prepared, timeout=self.timeout_seconds, **settings)  # type: ignore[arg-type]
        with response:
            if response.is_redirect:
                target = self.check_redirect(address, response.headers["Location"], redirects, response.status_code)
                with self.open(target, {}, None, etag=etag, redirects=redirects - 1) as followed:
                    yield followed
            else:
                check_status(response)
                yield response

    def check_address(self, address: str) -> None:
        """Refuse what is not https, or not on one of the client's hosts."""
        try:
            parts = urlsplit(address)
        except ValueError:
            raise Refused("not an address") from None
        if parts.scheme != "https":
            raise Refused(f"not an https address: {parts.scheme or 'none'}")
        try:
            port = parts.port
        except ValueError:
            raise Refused("an address with no valid port") from None
        if parts.hostname not in self.hosts or port not in (None, 443) or parts.username is not None:
            raise Refused(f"not on an allowed host: {parts.hostname}")

    def allows(self, address: str) -> bool:
        try:
            self.check_address(address)
        except Refused:
            return False
        return True

    def check_redirect(self, address: str, location: str, redirects: int, status: int) -> str:
        if not redirects:
            raise Refused("redirects", status)
        try:
            target = urljoin(address, location)
            self.check_address(target)
        except ValueError:
            raise Refused("redirects to what is no address", status) from None
        except Refused as error:
            raise Refused(f"redirects to an address that is {error}", status, target) from None
        return target

    def read(self, response: requests.Response, maximum_bytes: int) -> Iterator[bytes]:
        """Give the body as it comes in."""
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise Refused("the answer is packed, which was not asked for", response.status_code)
        length = response.headers.get("Content-Length", "")[:18]  # as many digits as the ledger can keep
        if length.isdecimal() and int(length) > maximum_bytes:
            raise TooLarge(int(length) - 1)
        deadline = time.monotonic() + self.timeout_seconds
        received = 0
        with translated_errors(self.timeout_seconds):
            # Not iter_content: it returns when a chunk is full, which a slow server can put off for ever.
            while chunk := response.raw.read1(CHUNK_BYTES, decode_content=False):
                received += len(chunk)
                if received > maximum_bytes:
                    raise TooLarge(maximum_bytes)
                if self.closed.is_set():
                    raise Refused("no longer wanted")
                if time.monotonic() > deadline:
                    raise NoAnswer(f"not whole after {self.timeout_seconds:g} s")
                yield chunk

    def close(self) -> None:
        """Let go of connections, and end what other threads still fetch."""
        self.closed.set()
        self.session.close()


def is_worth_another_attempt(error: BaseException) -> bool:
    """Whether to try again soon; who is told to come back much later had better do that."""
    if isinstance(error, TooManyRequests):
        return (error.retry_after or 0) <= LONGEST_PAUSE_SECONDS
    return isinstance(error, NoAnswer)


def pause_seconds(state: RetryCallState) -> float:
    """1, 2, 4, ... seconds before another attempt, or as many as the server asks for."""
    error = state.outcome.exception() if state.outcome else None
    asked = error.retry_after if isinstance(error, TooManyRequests) else None
    return min(float(2 ** (state.attempt_number - 1)), LONGEST_PAUSE_SECONDS) if asked is None else asked


def open_client(hosts: Collection[str], download: DownloadParams, clock: Clock) -> WebClient:
    return WebClient(hosts, download.timeout_seconds, download.attempts, download.parallel, clock)
