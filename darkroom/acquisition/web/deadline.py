"""A time limit for a whole request.

The limits of urllib3 and http.client are for one address of the host, for one TLS handshake and for one read. A server
that sends a byte of a header now and then, or `100 Continue` without end, would never exceed them. The only part that
is not limited here is the lookup of the host's name, for which the system has its own limit.
"""

import http.client
import io
import socket
import time
from typing import Any, ClassVar

from requests.adapters import HTTPAdapter
from urllib3 import HTTPSConnectionPool, ProxyManager
from urllib3.connection import HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError
from urllib3.util import Timeout
from urllib3.util.connection import allowed_gai_family

SHORTEST_SECONDS = 0.001  # a socket with the timeout 0 does not wait at all, and fails with another error


class Deadline(Timeout):
    """The end of a time limit. urllib3 reads the time that is left before it connects, sends and receives."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds
        self.moment = time.monotonic() + seconds

    @property
    def left(self) -> float:
        return max(self.moment - time.monotonic(), 0)

    @property
    def connect_timeout(self) -> float:
        return self.left

    @property
    def read_timeout(self) -> float:
        return self.left

    def start_connect(self) -> float:
        return self.moment - self.seconds

    def clone(self) -> "Deadline":
        """Return itself: a redirect continues with the time that is left."""
        return self


class TimedReader(io.RawIOBase):
    """What a socket receives; a read after the end of the socket's time limit raises `TimeoutError`."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.stream = sock.makefile("rb", buffering=0)
        self.moment = time.monotonic() + (sock.gettimeout() or 0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self.moment - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        self.sock.settimeout(left)
        count: int | None = self.stream.readinto(buffer)
        return count

    def close(self) -> None:
        self.stream.close()
        super().close()


class TimedResponse(http.client.HTTPResponse):
    """A response whose status line, headers and body together have the time limit of the socket."""

    def __init__(self, sock: socket.socket, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        self.fp.close()
        self.fp = io.BufferedReader(TimedReader(sock))


class TimedConnection(HTTPSConnection):
    """A connection whose `timeout` is the time left of the one that was set."""

    response_class = TimedResponse

    @property
    def timeout(self) -> float:
        return max(self.moment - time.monotonic(), SHORTEST_SECONDS)

    @timeout.setter
    def timeout(self, seconds: float | None) -> None:
        self.moment = time.monotonic() + (seconds or 0)

    def _new_conn(self) -> socket.socket:
        """Connect to one of the host's addresses. Each gets its share of the time left, not all of it."""
        host = self._dns_host.strip("[]")  # which a proxy's IPv6 address has
        try:
            found = socket.getaddrinfo(host, self.port, allowed_gai_family(), socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise NameResolutionError(self.host, self, socket.gaierror(str(error))) from error
        failure: OSError = OSError("the host has no address")
        for index, (family, kind, protocol, _, address) in enumerate(found):
            sock = socket.socket(family, kind, protocol)
            try:
                for option in self.socket_options or ():
                    sock.setsockopt(*option)
                sock.settimeout(self.timeout / (len(found) - index))
                sock.connect(address)
                sock.settimeout(self.timeout)
            except OSError as error:
                sock.close()
                failure = error
            else:
                return sock
        if isinstance(failure, TimeoutError):
            raise ConnectTimeoutError(self, "no address answered in time") from failure
        raise NewConnectionError(self, str(failure)) from failure


class TimedConnectionPool(HTTPSConnectionPool):
    ConnectionCls = TimedConnection


class TimedAdapter(HTTPAdapter):
    """An adapter for https URLs whose requests, direct or through an HTTP proxy, obey a `Deadline`."""

    POOLS: ClassVar[dict[str, type]] = {"https": TimedConnectionPool}

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, **options)
        self.poolmanager.pool_classes_by_scheme = self.POOLS

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **options)
        if isinstance(manager, ProxyManager):  # not a SOCKS proxy, which needs connections of its own
            manager.pool_classes_by_scheme = self.POOLS
        return manager
