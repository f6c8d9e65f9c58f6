"""What a search service is to those who ask it: how a question looks, and what an answer says."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

from requests.auth import AuthBase

from darkroom.acquisition.ledger import Quota
from darkroom.acquisition.web.client import WebClient
from darkroom.acquisition.web.rate_limit import Window

MAXIMUM_ANSWER_BYTES = 10_000_000


class FoundPhoto(NamedTuple):
    """A photo as a service describes it; `id` is the service's own, and `fault` why it cannot be used, if so."""

    id: str
    address: str
    creator: str
    creator_url: str
    page_url: str
    licence: str
    fault: str = ""


class Page(NamedTuple):
    """A page of results."""

    photos: list[FoundPhoto]
    is_last: bool


class SearchService(Protocol):
    """How a service is asked, and how its answers are read."""

    name: str
    title: str
    address: str
    hosts: tuple[str, ...]
    windows: tuple[Window, ...]

    def params(self, words: str, page: int) -> dict[str, str]:
        """What is asked for; pages count from 1."""
        ...

    def login(self, client: WebClient, take_turn: Callable[[], None], /) -> AuthBase | None:
        """Who asks. Before it asks the service it must take its turn. Raises a StageError where credentials are needed
        and not there, or are refused."""
        ...

    def read_page(self, document: Any, page: int) -> Page:
        """Read an answer. Raises a LookupError, TypeError or ValueError if it has another form."""
        ...

    def read_quota(self, headers: Mapping[str, str], /) -> Quota | None:
        """What the headers of an answer say about the requests that are left."""
        ...

    def explain(self, status: int) -> str:
        """What a refusal with this HTTP status means, and what to do."""
        ...


def plain_text(value: object) -> str:
    """A service's text on one line; anything else counts as none."""
    if not isinstance(value, str):
        return ""
    # JSON may hold half a surrogate pair, which no file can.
    return " ".join(value.encode(errors="replace").decode().split())


def web_address(value: object) -> str:
    """A service's link, if it is one that a page may show."""
    text = plain_text(value)
    return text if text.startswith(("https://", "http://")) and " " not in text else ""
