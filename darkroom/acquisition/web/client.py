"""An HTTPS client for given hosts only, with limits on the size and the duration of a response."""

import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from http.cookiejar import DefaultCookiePolicy
from pathlib import Path
from typing import NamedTuple, TypeVar
from urllib.parse import urljoin, urlsplit

import requests
from requests.auth import AuthBase
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt
from tqdm import tqdm

from darkroom.acquisition.clock import Clock
from darkroom.acquisition.web.auth import NoAuth
from darkroom.acquisition.web.deadline import Deadline, TimedAdapter
from darkroom.acquisition.web.errors import (
    NOT_MODIFIED,
    NoResponse,
    Refused,
    TooLarge,
    check_status,
    translated_errors,
)
from darkroom.acquisition.web.retries import is_worth_a_retry, pause_seconds
from darkroom.params.acquire import DownloadParams
from darkroom.pipeline.text import visible_line

USER_AGENT = f"Darkroom python-requests/{requests.__version__}"
CHUNK_BYTES = 1 << 16
REDIRECTS = 3
LONGEST_HOST_NAME = 253  # of a domain name; a URL may claim a longer one
Result = TypeVar("Result")


class Headers(NamedTuple):
    """The status and the headers of a response; the names in `values` ignore case."""

    status: int
    values: Mapping[str, str]


class WebClient:
    """A client that several threads may use. It stores no cookies, and follows redirects only to its own hosts."""

    def __init__(
        self, hosts: Collection[str], timeout_seconds: float, attempts: int, parallel: int, clock: Clock
    ) -> None:
        self.hosts = frozenset(hosts)
        self.timeout_seconds = timeout_seconds
        self.attempts = attempts
        self.clock = clock
        self.closed = threading.Event()
        self.session = requests.Session()
        self.session.mount("https://", TimedAdapter(pool_connections=len(self.hosts), pool_maxsize=parallel))
        self.session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        self.session.headers["User-Agent"] = USER_AGENT
        # A compressed body may decompress to nothing without end, or to more than memory holds.
        self.session.headers["Accept-Encoding"] = "identity"

    def fetch(
        self,
        url: str,
        params: Mapping[str, str],
        auth: AuthBase | None,
        maximum_bytes: int,
        form: Mapping[str, str] | None = None,
    ) -> tuple[Headers, bytes]:
        """Send one request, GET or, with a form, POST. Redirects are refused: they could leak a secret.

        Raises:
            WebError: see its subclasses.
        """
        deadline = Deadline(self.timeout_seconds)
        with self.open(url, params, auth, deadline, form=form, redirects=0) as response:
            body = b"".join(self.read_body(response, maximum_bytes, deadline))
            return Headers(response.status_code, response.headers), body

    def download(
        self,
        url: str,
        path: Path,
        maximum_bytes: int,
        etag: str = "",
        progress: Callable[[int], object] = int,
        what: str = "",
    ) -> Headers:
        """Download `url` to `path`, with retries.

        Args:
            url: an https URL on one of the client's hosts.
            path: the file to write.
            maximum_bytes: largest size that is allowed.
            etag: of a copy that exists already; if it is still current, the status is 304 and nothing is written.
            progress: called with each number of bytes received.
            what: see `retry`.

        Raises:
            WebError: see its subclasses.
        """

        def attempt() -> Headers:
            deadline = Deadline(self.timeout_seconds)
            with self.open(url, {}, None, deadline, etag=etag, redirects=REDIRECTS) as response:
                if response.status_code == NOT_MODIFIED and not etag:
                    raise Refused("HTTP 304", NOT_MODIFIED)
                if response.status_code != NOT_MODIFIED:
                    with path.open("wb") as file:
                        for chunk in self.read_body(response, maximum_bytes, deadline):
                            file.write(chunk)
                            progress(len(chunk))
                return Headers(response.status_code, response.headers)

        return self.retry(attempt, what)

    def retry(self, attempt: Callable[[], Result], what: str = "") -> Result:
        """Call `attempt` until it succeeds, at most `attempts` times and with growing pauses.

        Only a `NoResponse` is retried; the last one is raised. If `what` names the attempt, each retry is printed.
        """

        def report(state: RetryCallState) -> None:
            if what and state.outcome:
                tqdm.write(f"{what}: {state.outcome.exception()}; retrying in {state.upcoming_sleep:g} s")

        return Retrying(
            retry=retry_if_exception(is_worth_a_retry),
            stop=stop_after_attempt(self.attempts),
            wait=pause_seconds,
            sleep=self.pause,
            before_sleep=report,
            reraise=True,
        )(attempt)

    def pause(self, seconds: float) -> None:
        """Sleep before a retry; raise `Refused` once the client is closed."""
        if not self.closed.is_set():
            self.clock.sleep(seconds, self.closed)
        if self.closed.is_set():
            raise Refused("cancelled")

    @contextmanager
    def open(
        self,
        url: str,
        params: Mapping[str, str],
        auth: AuthBase | None,
        deadline: Deadline,
        *,
        etag: str = "",
        form: Mapping[str, str] | None = None,
        redirects: int,
    ) -> Iterator[requests.Response]:
        """Send a request, follow redirects, and yield a response with status 200 or 304 whose body is not read yet."""
        self.check_url(url)
        request = requests.Request(
            "GET" if form is None else "POST",
            url,
            params=params,
            data=form,
            # A login from ~/.netrc would replace our own Authorization header, but not `auth`.
            auth=auth or NoAuth(),
            headers={"If-None-Match": etag} if etag else {},
        )
        with translated_errors(self.timeout_seconds):
            prepared = self.session.prepare_request(request)
            settings = self.session.merge_environment_settings(prepared.url or "", {}, True, None, None)
            # Not session.send: it reads the whole body of a redirect.
            adapter = self.session.get_adapter(prepared.url or "")
            response = adapter.send(prepared, timeout=deadline, **settings)  # type: ignore[arg-type]
        with response:
            if response.is_redirect:
                target = self.check_redirect(url, response.headers["Location"], redirects, response.status_code)
                with self.open(target, {}, None, deadline, etag=etag, redirects=redirects - 1) as followed:
                    yield followed
            else:
                check_status(response)
                yield response

    def check_url(self, url: str) -> None:
        """Raise `Refused` unless the URL is https and on one of the client's hosts."""
        try:
            parts = urlsplit(url)
        except ValueError:
            raise Refused("invalid URL") from None
        if parts.scheme != "https":
            raise Refused(f"not an https URL: {visible_line(parts.scheme, LONGEST_HOST_NAME) or 'none'}")
        try:
            port = parts.port
        except ValueError:
            raise Refused("URL with an invalid port") from None
        if parts.hostname not in self.hosts or port not in (None, 443) or parts.username is not None:
            raise Refused(f"host not allowed: {visible_line(str(parts.hostname), LONGEST_HOST_NAME)}")

    def refusal(self, url: str) -> str:
        """Why a URL is never requested, or an empty string."""
        try:
            self.check_url(url)
        except Refused as error:
            return str(error)
        return ""

    def check_redirect(self, url: str, location: str, redirects: int, status: int) -> str:
        if not redirects:
            raise Refused("redirect refused", status)
        try:
            target = urljoin(url, location)
            self.check_url(target)
        except ValueError:
            raise Refused("redirect refused, invalid URL", status) from None
        except Refused as error:
            raise Refused(f"redirect refused, {error}", status, target) from None
        return target

    def read_body(self, response: requests.Response, maximum_bytes: int, deadline: Deadline) -> Iterator[bytes]:
        """Yield the body as it is received."""
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise Refused("the response is compressed, which was not requested", response.status_code)
        length = response.headers.get("Content-Length", "")[:18]  # as many digits as the ledger can store
        if length.isdecimal() and int(length) > maximum_bytes:
            raise TooLarge(int(length) - 1)
        received = 0
        with translated_errors(self.timeout_seconds):
            # Not iter_content: it returns when a chunk is full, which a slow server can delay without end.
            while chunk := response.raw.read1(CHUNK_BYTES, decode_content=False):
                received += len(chunk)
                if received > maximum_bytes:
                    raise TooLarge(maximum_bytes)
                if self.closed.is_set():
                    raise Refused("cancelled")
                if not deadline.left:  # a SOCKS proxy's connection has a limit for each read only
                    raise NoResponse(f"incomplete after {self.timeout_seconds:g} s")
                yield chunk

    def close(self) -> None:
        """Close the connections, and cancel the requests of other threads."""
        self.closed.set()
        self.session.close()


def open_client(hosts: Collection[str], download: DownloadParams, clock: Clock) -> WebClient:
    return WebClient(hosts, download.timeout_seconds, download.attempts, download.parallel, clock)
