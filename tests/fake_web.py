"""A fake web on loopback that responds to the https requests of production code.

A proxy accepts `CONNECT host:443`, terminates TLS with a certificate that it creates for the host, and calls the host's
handler. `FakeWeb.environment` directs the library requests to the proxy, in this process and in others:

    with FakeWeb() as web:
        web.add("api.example.org", lambda request: json_response({"page": request.query["page"]}))
        subprocess.run(command, env=os.environ | web.environment, check=True)
        requested = [request.path for request in web.requests_to("api.example.org")]
"""

import http.client
import json
import socket
import ssl
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from itertools import chain, repeat
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NoReturn, Self
from urllib.parse import parse_qsl, urlsplit

import trustme
from requests.structures import CaseInsensitiveDict

# Size in bytes of the pieces of a slow body, and of the chunks of a chunked one.
SLOW_PIECE = 64
CHUNK = 1024
WAITING_CONNECTIONS = 256
# The pause between the pieces of an endless response.
TRICKLE_SECONDS = 0.01


@dataclass
class Request:
    """A request of a client to a host.

    `at` is in seconds of `time.monotonic`. `fully_sent` says whether the complete response was passed to the socket: a
    client that has read all of it sees True. Requests with the same `connection` came over one connection.
    """

    host: str
    path: str
    query: dict[str, str]
    headers: Mapping[str, str]
    method: str
    body: bytes
    at: float
    connection: int
    fully_sent: bool = False


@dataclass
class Response:
    """The response of a host, and the errors to simulate.

    `delay_seconds` pass before the status line, `seconds_per_kilobyte` between the pieces of the body. `cut_after`
    closes the connection after this number of bytes of the body, although the header declares more; `drop` closes it
    without a response; with `omit_length` the body ends with the connection. The pieces of `trickle` are sent instead
    of a response, and the last of them again and again, until the client disconnects.
    """

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    delay_seconds: float = 0
    cut_after: int | None = None
    seconds_per_kilobyte: float = 0
    chunked: bool = False
    omit_length: bool = False
    drop: bool = False
    trickle: tuple[bytes, ...] | None = None


Handler = Callable[[Request], Response]


def json_response(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(status, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})


class FakeWeb:
    """The server, which runs from `start` to `stop`. A host without a handler is refused, and added to `refused_hosts`.

    `delay_seconds` pass before every response; it may be changed at any time. A handler runs in the thread of its
    connection, so several run at once. With `proxy_trickle` the proxy answers every CONNECT like a `Response.trickle`.
    """

    def __init__(self) -> None:
        self.environment: dict[str, str] = {}
        self.requests: list[Request] = []
        self.refused_hosts: list[str] = []
        self.delay_seconds: float = 0
        self.proxy_trickle: tuple[bytes, ...] | None = None
        self._handlers: dict[str, Handler] = {}
        self._authority = trustme.CA()
        self._contexts: dict[str, ssl.SSLContext] = {}
        self._connections: dict[threading.Thread, socket.socket] = {}
        self._connection_count = 0
        self._lock = threading.Lock()
        self._stopping = threading.Event()

    def add(self, host: str, handler: Handler) -> None:
        """Let `handler` respond for a host, instead of an earlier handler."""
        self._handlers[host] = handler

    def requests_to(self, host: str) -> list[Request]:
        with self._lock:
            return [request for request in self.requests if request.host == host]

    def start(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="fake-web-")
        bundle = Path(self._folder.name) / "authority.pem"
        self._authority.cert_pem.write_to_path(bundle)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=WAITING_CONNECTIONS)
        proxy = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        # Both spellings, since the lower-case one wins if both are set. Plain http comes here too, to be refused.
        self.environment = {
            **{name: proxy for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy")},
            **{name: "" for name in ("NO_PROXY", "no_proxy", "ALL_PROXY", "all_proxy")},
            "REQUESTS_CA_BUNDLE": str(bundle),
            "SSL_CERT_FILE": str(bundle),
        }
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()

    def stop(self) -> None:
        """Close every connection, also in the middle of a response."""
        self._stopping.set()
        # A connection ends the wait in accept(); closing its socket does not, on Linux.
        with socket.create_connection(self._listener.getsockname()):
            self._acceptor.join()
        self._listener.close()
        with self._lock:
            threads = list(self._connections)
            for connection in self._connections.values():
                # SSLSocket.shutdown would remove the TLS state while another thread reads.
                with suppress(OSError):
                    socket.socket.shutdown(connection, socket.SHUT_RDWR)
        for thread in threads:
            thread.join(timeout=5)
        self._folder.cleanup()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _accept(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            if self._stopping.is_set():
                connection.close()
                return
            self._connection_count += 1
            threading.Thread(target=self._serve, args=(connection, self._connection_count), daemon=True).start()

    def _serve(self, connection: socket.socket, number: int) -> None:
        """Serve a connection until one side ends it; a client that disconnects is not an error."""
        try:
            self._hold(connection)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            host = self._read_connect(connection)
            if host is None:
                return
            context = self._context(host)
            # The handshake comes after `_hold`, so that it cannot keep `stop` waiting.
            with context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False) as secure:
                self._hold(secure)
                secure.do_handshake()
                with secure.makefile("rb") as stream:
                    while (request := read_request(stream, host, number)) and self._respond(secure, request):
                        pass
        except OSError:
            pass
        finally:
            connection.close()
            with self._lock:
                self._connections.pop(threading.current_thread(), None)

    def _hold(self, connection: socket.socket) -> None:
        """Register the connection of this thread, so that `stop` can close it."""
        with self._lock:
            self._connections[threading.current_thread()] = connection
        if self._stopping.is_set():
            raise ConnectionAbortedError

    def _read_connect(self, connection: socket.socket) -> str | None:
        """Read and accept the client's CONNECT; return its host, or None if it is refused."""
        with connection.makefile("rb") as stream:
            head = read_head(stream)
        if head is None:
            return None
        method, target, _ = head
        if self.proxy_trickle is not None:
            self._trickle(connection, self.proxy_trickle)
        if method == "CONNECT":
            host, _, port = target.lower().rpartition(":")
            if port == "443" and host in self._handlers:
                connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                return host
        else:
            host = urlsplit(target).hostname or target
        with self._lock:
            self.refused_hosts.append(host)
        connection.sendall(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        return None

    def _context(self, host: str) -> ssl.SSLContext:
        with self._lock:
            if host not in self._contexts:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                self._authority.issue_cert(host).configure_cert(context)
                self._contexts[host] = context
            return self._contexts[host]

    def _respond(self, connection: ssl.SSLSocket, request: Request) -> bool:
        """Respond to a request; return whether the connection stays open for another."""
        with self._lock:
            self.requests.append(request)
        try:
            response = self._handlers[request.host](request)
        except OSError as error:
            # It must not be mistaken for a client that has disconnected.
            raise RuntimeError(f"the handler of {request.host} failed") from error
        self._pause(self.delay_seconds + response.delay_seconds)
        if response.drop:
            return False
        if response.trickle is not None:
            self._trickle(connection, response.trickle)
        *first, last = blocks(request, response)
        for block in first:
            connection.sendall(block)
            self._pause(response.seconds_per_kilobyte * SLOW_PIECE / 1024)
        # Before the last byte is sent, so that a client that has received it sees `fully_sent`.
        request.fully_sent = response.cut_after is None
        try:
            connection.sendall(last)
        except OSError:
            request.fully_sent = False
            raise
        if response.omit_length and request.fully_sent:
            # Send the TLS end of data at once, without waiting for the client's.
            connection.setblocking(False)
            with suppress(OSError):
                connection.unwrap()
        closes = response.omit_length or response.cut_after is not None
        return not closes and request.headers.get("Connection", "").lower() != "close"

    def _trickle(self, connection: socket.socket, pieces: Sequence[bytes]) -> NoReturn:
        """Send without end; a client that has disconnected makes this an `OSError`."""
        for piece in chain(pieces, repeat(pieces[-1])):
            connection.sendall(piece)
            self._pause(TRICKLE_SECONDS)
        raise AssertionError

    def _pause(self, seconds: float) -> None:
        if seconds > 0 and self._stopping.wait(seconds):
            raise ConnectionAbortedError


def read_head(stream: BinaryIO) -> tuple[str, str, CaseInsensitiveDict[str]] | None:
    """Read a request's method, target and headers; None at the end of the connection."""
    line = stream.readline()
    if not line.endswith(b"\r\n"):
        return None
    method, target, _ = line.decode("latin-1").split()
    return method, target, CaseInsensitiveDict(http.client.parse_headers(stream).items())


def read_request(stream: BinaryIO, host: str, connection: int) -> Request | None:
    """Read a complete request; None at the end of the connection."""
    head = read_head(stream)
    if head is None:
        return None
    method, target, headers = head
    body = stream.read(int(headers.get("Content-Length", 0)))
    url = urlsplit(target)
    query = dict(parse_qsl(url.query, keep_blank_values=True))
    return Request(host, url.path, query, headers, method, body, time.monotonic(), connection)


def blocks(request: Request, response: Response) -> list[bytes]:
    """The blocks in which a response is sent: one, or the pieces of a slow body, the first of them with the head."""
    has_length = response.status not in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED)
    headers: dict[str, str] = {}
    if response.omit_length:
        headers["Connection"] = "close"
    elif response.chunked:
        headers["Transfer-Encoding"] = "chunked"
    elif has_length:
        headers["Content-Length"] = str(len(response.body))
    head = [f"HTTP/1.1 {response.status} {http.client.responses.get(response.status, 'Unknown')}"]
    head += [f"{name}: {value}" for name, value in (headers | response.headers).items()]
    start = ("\r\n".join(head) + "\r\n\r\n").encode("latin-1")
    if request.method == "HEAD" or not has_length:
        return [start]

    body = response.body[: response.cut_after]
    if response.chunked:
        chunks = [body[at : at + CHUNK] for at in range(0, len(body), CHUNK)]
        body = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
        body += b"0\r\n\r\n" if response.cut_after is None else b""
    if not response.seconds_per_kilobyte:
        return [start + body]
    pieces = [body[at : at + SLOW_PIECE] for at in range(0, len(body), SLOW_PIECE)] or [b""]
    return [start + pieces[0], *pieces[1:]]
