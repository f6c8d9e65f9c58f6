"""The interface of a search service: the requests to send, and how to read the responses."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

from requests.auth import AuthBase

from darkroom.acquisition.ledger import Quota
from darkroom.acquisition.web.client import WebClient
from darkroom.acquisition.web.rate_limit import Window
from darkroom.pipeline.text import quote_url, visible_line

MAXIMUM_RESPONSE_BYTES = 10_000_000
MAXIMUM_CHARACTERS = 1000  # names may be long, but a table with cells of 131,072 characters cannot be read
UNUSUAL_IN_URLS = '"<>\\^`{|}'


class FoundPhoto(NamedTuple):
    """A photo as a service describes it, with the service's own `id`. `unusable_reason` is empty for a usable photo."""

    id: str
    url: str
    creator: str
    creator_url: str
    page_url: str
    license: str
    unusable_reason: str = ""


class Page(NamedTuple):
    """A page of search results."""

    photos: list[FoundPhoto]
    is_last: bool


class SearchService(Protocol):
    """Builds the requests to a service, and reads its responses."""

    name: str
    title: str
    url: str
    hosts: tuple[str, ...]
    page_size: int
    windows: tuple[Window, ...]

    def params(self, words: str, page: int) -> dict[str, str]:
        """Return the query parameters of a request; pages count from 1."""
        ...

    def authenticate(self, client: WebClient, wait_for_slot: Callable[[], None], /) -> AuthBase | None:
        """Return the authentication of requests, or None.

        If it sends a request itself, it calls `wait_for_slot` first.

        Raises:
            StageError: credentials are missing, or were rejected.
        """
        ...

    def read_page(self, document: Any, page: int) -> Page:
        """Read a response. Raises LookupError, TypeError or ValueError if it does not have the expected form."""
        ...

    def read_quota(self, headers: Mapping[str, str], /) -> Quota | None:
        """Return the remaining requests according to the headers of a response."""
        ...

    def refusal_hint(self, status: int) -> str:
        """Say what a rejection with this HTTP status means, and what to do."""
        ...

    def unusable_hint(self, reason: str, /) -> str:
        """Say what to do if a search finds only photos that are refused for this reason."""
        ...


def plain_text(value: object) -> str:
    """Return a service's text on one line and without invisible characters, and an empty string for other values."""
    return visible_line(value, MAXIMUM_CHARACTERS) if isinstance(value, str) else ""


def file_url(value: object) -> str:
    """Return the URL of a photo's file, or an empty string. It is requested and never shown, so it is not cleaned."""
    return " ".join(value.encode(errors="replace").decode().split()) if isinstance(value, str) else ""


def web_url(value: object) -> str:
    """Return a service's link with unusual characters quoted, or an empty string if it is not a web URL."""
    url = file_url(value)
    if not url.startswith(("https://", "http://")) or " " in url or len(url) > MAXIMUM_CHARACTERS:
        return ""
    return quote_url(url, UNUSUAL_IN_URLS)
