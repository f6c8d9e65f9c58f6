"""Access control of the page's server. Tests of a running server are in tests/commands/test_app.py."""

import socket
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def page_access() -> ModuleType:
    # Imported here, because Gradio takes seconds to import, also when these tests are not selected.
    from commands.page import access

    return access


@pytest.mark.parametrize("host", [None, "127.0.0.1", "127.8.9.1", "::1", "localhost", b"localhost"])
def test_this_machine_is_loopback(page_access: ModuleType, host: str | bytes | None) -> None:
    assert page_access.is_loopback(host)
    page_access.block_outgoing_connections("socket.getaddrinfo", (host, 80, 0, 0, 0))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org", b"example.org", "127.0.0.1.nip.io", ""])
def test_other_hosts_are_not_loopback(page_access: ModuleType, host: str | bytes) -> None:
    assert not page_access.is_loopback(host)
    with pytest.raises(PermissionError, match="^the page makes no outgoing connections, got "):
        page_access.block_outgoing_connections("socket.getaddrinfo", (host, 80, 0, 0, 0))


def test_only_connections_to_other_hosts_are_blocked(page_access: ModuleType) -> None:
    with socket.socket() as web, socket.socket(socket.AF_UNIX) as local:
        page_access.block_outgoing_connections("socket.connect", (web, ("127.0.0.1", 80)))
        page_access.block_outgoing_connections("socket.connect", (local, "/run/somewhere"))
        page_access.block_outgoing_connections("open", ("file", "r", 0))
        with pytest.raises(PermissionError, match="192.0.2.1"):
            page_access.block_outgoing_connections("socket.connect", (web, ("192.0.2.1", 80)))
