"""The source openverse: openly licensed photos found by Openverse (https://api.openverse.org/v1/).

It works without a key; client credentials in OPENVERSE_CLIENT_ID and OPENVERSE_CLIENT_SECRET raise the limits.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from requests.auth import AuthBase

from darkroom.acquisition.ledger import Quota
from darkroom.acquisition.sources.search_service import (
    MAXIMUM_RESPONSE_BYTES,
    FoundPhoto,
    Page,
    file_url,
    plain_text,
    web_url,
)
from darkroom.acquisition.sources.source import SearchedSource
from darkroom.acquisition.web.auth import HeaderAuth
from darkroom.acquisition.web.client import WebClient
from darkroom.acquisition.web.errors import Refused
from darkroom.acquisition.web.rate_limit import Window
from darkroom.params.acquire import AcquireParams, AtLimit
from darkroom.pipeline.stage import StageError

ID = "OPENVERSE_CLIENT_ID"
SECRET = "OPENVERSE_CLIENT_SECRET"
API_HOST = "api.openverse.org"
TOKEN_URL = f"https://{API_HOST}/v1/auth_tokens/token/"
CREDIT_LINE = "Photos found through [Openverse](https://openverse.org)"
# Display names of the API's short names for licenses; others are `CC` and the short name.
LICENSE_NAMES = {"cc0": "CC0", "pdm": "Public Domain Mark"}
NOT_REQUESTED = "license not requested"


class Openverse:
    """Searches `GET /v1/images/` for photographs that are not marked as sensitive."""

    name = "openverse"
    title = "Openverse"
    url = f"https://{API_HOST}/v1/images/"

    def __init__(
        self,
        licenses: Sequence[str],
        hosts: Sequence[str],
        page_size: int,
        requests_per_minute: int,
        requests_per_day: int,
    ) -> None:
        """Search for photos under `licenses` whose files are on `hosts`."""
        self.licenses = licenses
        self.hosts: tuple[str, ...] = (API_HOST, *hosts)
        self.page_size = page_size
        self.windows: tuple[Window, ...] = (
            Window(requests_per_minute, 60, "minute"),
            Window(requests_per_day, 86_400, "day"),
        )

    def params(self, words: str, page: int) -> dict[str, str]:
        return {
            "q": words,
            "page": str(page),
            "page_size": str(self.page_size),
            "license": ",".join(sorted(self.licenses)),
            "category": "photograph",
            "mature": "false",
        }

    def authenticate(self, client: WebClient, wait_for_slot: Callable[[], None]) -> AuthBase | None:
        client_id, secret = os.environ.get(ID, ""), os.environ.get(SECRET, "")
        if not client_id and not secret:
            return None
        if not client_id or not secret:
            raise StageError(f"only one of {ID} and {SECRET} is set: set both, or unset both")
        form = {"grant_type": "client_credentials", "client_id": client_id, "client_secret": secret}
        wait_for_slot()
        try:
            _, body = client.fetch(TOKEN_URL, {}, None, MAXIMUM_RESPONSE_BYTES, form)
            token = read_token(json.loads(body))
        except Refused as error:
            raise StageError(
                f"Openverse rejected the credentials in {ID} and {SECRET} ({error}): correct them, or unset both"
            ) from None
        except (LookupError, RecursionError, TypeError, ValueError):
            raise StageError("Openverse returned no token: run again later, or unset both credentials") from None
        return HeaderAuth(f"Bearer {token}")

    def read_page(self, document: Any, page: int) -> Page:
        results = document["results"]
        photos = [self.read_photo(e) for e in results if isinstance(e, dict) and plain_text(e.get("id"))]
        page_count = document["page_count"]
        if not isinstance(page_count, int):
            raise TypeError("page_count")
        return Page(photos, is_last=not results or page >= page_count)

    def read_quota(self, _headers: Mapping[str, str]) -> Quota | None:
        return None

    def refusal_hint(self, status: int) -> str:
        if status in (401, 403):
            return f"a page_size above 20 needs credentials in {ID} and {SECRET}"
        return "check the search terms and the values in acquire.openverse"

    def unusable_hint(self, reason: str) -> str:
        if reason.startswith(NOT_REQUESTED):
            return "add licenses to acquire.openverse.licenses, or use other search terms"
        return "add hosts to acquire.openverse.hosts, or use other search terms"

    def read_photo(self, entry: Mapping[str, Any]) -> FoundPhoto:
        license = plain_text(entry.get("license"))
        return FoundPhoto(
            id=plain_text(entry["id"]),
            url=file_url(entry.get("url")),
            creator=plain_text(entry.get("creator")),
            creator_url=web_url(entry.get("creator_url")),
            page_url=web_url(entry.get("foreign_landing_url")),
            license=read_license(entry),
            unusable_reason="" if license in self.licenses else f"{NOT_REQUESTED}: {license or 'none'}",
        )


def read_token(document: Any) -> str:
    """Return the token of a response. Raises LookupError, TypeError or ValueError if none fits into a header."""
    token = document["access_token"]
    if not isinstance(token, str) or not token or not token.isascii() or not token.isprintable():
        raise ValueError("access_token")
    return token


def read_license(entry: Mapping[str, Any]) -> str:
    """Return a license for a citation, such as "CC BY-SA 2.0 (https://...)"."""
    short = plain_text(entry.get("license"))
    name = LICENSE_NAMES.get(short, f"CC {short.upper()}" if short else "")
    version = plain_text(entry.get("license_version"))
    url = web_url(entry.get("license_url"))
    return " ".join(part for part in (name, version, f"({url})" if url else "") if part)


def make_service(params: AcquireParams) -> tuple[Openverse, AtLimit]:
    assert params.openverse
    block = params.openverse
    service = Openverse(block.licenses, block.hosts, block.page_size, block.requests_per_minute, block.requests_per_day)
    return service, block.at_limit


SOURCE = SearchedSource(make_service=make_service, credit_line=CREDIT_LINE)
