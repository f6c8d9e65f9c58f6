"""Who may ask the page's server, and whom it may call; what it serves is in tests/commands/test_app.py."""

import socket
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def page_access() -> ModuleType:
    # Gradio takes seconds to import, which the tests that are not run here need not wait for.
    from commands.page import access

    return access


@pytest.mark.parametrize("host", [None, "127.0.0.1", "127.8.9.1", "::1", "localhost", b"localhost"])
def test_this_machine_is_loopback(page_access: ModuleType, host: str | bytes | None) -> None:
    assert page_access.is_loopback(host)
    page_access.refuse_calls_out("socket.getaddrinfo", (host, 80, 0, 0, 0))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org", b"example.org", "127.0.0.1.nip.io", ""])
def test_everything_else_is_not(page_access: ModuleType, host: str | bytes) -> None:
    assert not page_access.is_loopback(host)
    with pytest.raises(PermissionError, match="^this page calls nobody, got "):
        page_access.refuse_calls_out("socket.getaddrinfo", (host, 80, 0, 0, 0))


def test_connections_out_are_refused_and_those_within_are_not(page_access: ModuleType) -> None:
    with socket.socket() as web, socket.socket(socket.AF_UNIX) as local:
        page_access.refuse_calls_out("socket.connect", (web, ("127.0.0.1", 80)))
        page_access.refuse_calls_out("socket.connect", (local, "/run/somewhere"))
        page_access.refuse_calls_out("open", ("file", "r", 0))
        with pytest.raises(PermissionError, match="192.0.2.1"):
            page_access.refuse_calls_out("socket.connect", (web, ("192.0.2.1", 80)))
