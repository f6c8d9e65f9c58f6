"""Access control of the page's server: which requests it accepts, and which connections it may open."""

import socket
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

# Gradio saves what is sent to this route in the system's folder for temporary files, and the page does not use it.
UNUSED_ROUTE = "/gradio_api/process_recording"


class OwnPageOnly:
    """Rejects requests from other pages in the same browser, and requests for a host name that is not this machine's.

    A page from another site can send forms to 127.0.0.1, and can make its own host name resolve to it (DNS rebinding).
    """

    def __init__(self, app: ASGIApp, bound: str) -> None:
        """Wrap `app`, which listens at the address `bound`."""
        self.app = app
        self.is_local = is_loopback(bound)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or self.is_allowed(scope):
            await self.app(scope, receive, send)
        else:
            await PlainTextResponse("this server only answers requests of its own page", 403)(scope, receive, send)

    def is_allowed(self, scope: Scope) -> bool:
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        try:
            is_own = origin is None or urlsplit(origin).netloc == host
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:  # an invalid host or origin, such as "["
            return False
        return is_own and not scope["path"].startswith(UNUSED_ROUTE) and (not self.is_local or is_loopback(name))


def block_outgoing_connections(event: str, arguments: tuple[Any, ...]) -> None:
    """Audit hook that lets this process connect to this machine only.

    Gradio downloads any URL that it is sent, also by a page from another site in the same browser.

    Raises:
        PermissionError: the event is a connection to, or a lookup of, another host.
    """
    if event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = arguments[0]
    elif event in ("socket.connect", "socket.sendto") and arguments[0].family != socket.AF_UNIX:
        host = arguments[1][0]
    else:
        return
    if not is_loopback(host):
        raise PermissionError(f"the page makes no outgoing connections, got {host}")


def is_loopback(host: str | bytes | None) -> bool:
    """Whether a host can only be this machine: an address such as 127.0.0.1 or ::1, or the name localhost."""
    name = host.decode() if isinstance(host, bytes) else host
    try:
        return name is None or name == "localhost" or ip_address(name).is_loopback
    except ValueError:
        return False
