"""Who may ask the page's server, and whom it may ask."""

import socket
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

# Gradio keeps what is sent there in the system's folder for temporary files, and nothing here needs it.
UNUSED = "/gradio_api/process_recording"


class OwnPageOnly:
    """Refuses what another page in the same browser sends, or asks under a name that is not this machine's.

    A page from elsewhere can send forms to 127.0.0.1, and can let its own name lead there.
    """

    def __init__(self, app: ASGIApp, bound: str) -> None:
        """Stand before `app`, which listens at the address `bound`."""
        self.app = app
        self.is_local = is_loopback(bound)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or self.is_allowed(scope):
            await self.app(scope, receive, send)
        else:
            await PlainTextResponse("this server answers its own page alone", 403)(scope, receive, send)

    def is_allowed(self, scope: Scope) -> bool:
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        try:
            is_own = origin is None or urlsplit(origin).netloc == host
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:  # they are none, such as "["
            return False
        return is_own and not scope["path"].startswith(UNUSED) and (not self.is_local or is_loopback(name))


def refuse_calls_out(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook, under which this process connects to nobody but itself.

    Gradio fetches what it is given the web address of, by a page of this browser from elsewhere too.
    """
    if event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = arguments[0]
    elif event in ("socket.connect", "socket.sendto") and arguments[0].family != socket.AF_UNIX:
        host = arguments[1][0]
    else:
        return
    if not is_loopback(host):
        raise PermissionError(f"this page calls nobody, got {host}")


def is_loopback(host: str | bytes | None) -> bool:
    """Whether a host is this machine alone: an address such as 127.0.0.1 or ::1, or the name localhost."""
    name = host.decode() if isinstance(host, bytes) else host
    try:
        return name is None or name == "localhost" or ip_address(name).is_loopback
    except ValueError:
        return False
