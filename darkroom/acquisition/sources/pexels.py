"""The source pexels: photos found by Pexels (https://www.pexels.com/api/documentation/).

It needs a key in PEXELS_API_KEY.
"""

import os
import re
from collections.abc import Callable, Mapping
from typing import Any

from requests.auth import AuthBase

from darkroom.acquisition.ledger import Quota
from darkroom.acquisition.sources.search_service import FoundPhoto, Page, file_url, plain_text, web_url
from darkroom.acquisition.sources.source import SearchedSource
from darkroom.acquisition.web.auth import HeaderAuth
from darkroom.acquisition.web.client import WebClient
from darkroom.acquisition.web.rate_limit import Window
from darkroom.params.acquire import AcquireParams, AtLimit
from darkroom.pipeline.stage import StageError

KEY = "PEXELS_API_KEY"
PAGE_SIZE = 80
QUOTA_HEADERS = ("Limit", "Remaining", "Reset")
LICENSE = "Pexels License (https://www.pexels.com/license/)"
CREDIT_LINE = "**Photos provided by [Pexels](https://www.pexels.com)**"
NOTICE = (
    "Photos provided by Pexels (https://www.pexels.com). Its help pages ask for explicit permission before photos from "
    "its API are used to train models."
)


class Pexels:
    """Searches `GET /v1/search`."""

    name = "pexels"
    title = "Pexels"
    url = "https://api.pexels.com/v1/search"
    page_size = PAGE_SIZE

    hosts: tuple[str, ...] = ("api.pexels.com", "images.pexels.com")

    def __init__(self, filters: Mapping[str, str], photo_size: str, requests_per_hour: int, requests_per_month: int):
        """Search with the API's own filters; a filter with the value "any" is omitted."""
        self.filters = {name: value for name, value in filters.items() if value != "any"}
        self.photo_size = photo_size
        self.windows: tuple[Window, ...] = (
            Window(requests_per_hour, 3600, "hour"),
            Window(requests_per_month, 30 * 86_400, "month"),
        )

    def params(self, words: str, page: int) -> dict[str, str]:
        return {"query": words, "page": str(page), "per_page": str(PAGE_SIZE), **self.filters}

    def authenticate(self, _client: WebClient, _wait_for_slot: Callable[[], None]) -> AuthBase:
        key = os.environ.get(KEY, "").strip()
        if not key:
            raise StageError(f"{KEY} is not set: the source pexels needs a key; get one at https://www.pexels.com/api/")
        if not re.fullmatch(r"[\w-]+", key, re.ASCII):
            raise StageError(f"{KEY} contains characters that a key cannot have; set it to the key alone")
        return HeaderAuth(key)

    def read_page(self, document: Any, page: int) -> Page:
        entries = document["photos"]
        photos = [self.read_photo(e) for e in entries if isinstance(e, dict) and isinstance(e.get("id"), int)]
        total = document.get("total_results")
        if document.get("next_page"):
            is_last = not entries
        elif isinstance(total, int) and total >= (page - 1) * PAGE_SIZE + len(entries):
            is_last = not entries or page * PAGE_SIZE >= total
        else:  # there is no total, or one that is less than what was found so far
            is_last = len(entries) < PAGE_SIZE
        return Page(photos, is_last)

    def read_photo(self, entry: Mapping[str, Any]) -> FoundPhoto:
        sizes = entry.get("src")
        return FoundPhoto(
            id=str(entry["id"]),
            # The query of the URL determines the size.
            url=file_url(sizes.get(self.photo_size)) if isinstance(sizes, dict) else "",
            creator=plain_text(entry.get("photographer")),
            creator_url=web_url(entry.get("photographer_url")),
            page_url=web_url(entry.get("url")),
            license=LICENSE,
        )

    def read_quota(self, headers: Mapping[str, str]) -> Quota | None:
        """Read the monthly quota, the only one that Pexels reports."""
        texts = [headers.get(f"X-Ratelimit-{name}", "").strip() for name in QUOTA_HEADERS]
        if not all(re.fullmatch(r"\d{1,12}", text, re.ASCII) for text in texts):
            return None
        limit, remaining, reset = map(int, texts)
        return Quota(limit, remaining, reset)

    def refusal_hint(self, status: int) -> str:
        if status in (401, 403):
            return f"check the key in {KEY} at https://www.pexels.com/api/"
        return "check the search terms and the filters in acquire.pexels"

    def unusable_hint(self, _reason: str) -> str:
        return "try another acquire.pexels.photo_size; if that does not help, update Darkroom"


def make_service(params: AcquireParams) -> tuple[Pexels, AtLimit]:
    assert params.pexels
    block = params.pexels
    filters = {"orientation": block.orientation, "size": block.size, "color": block.color, "locale": block.locale}
    service = Pexels(filters, block.photo_size, block.requests_per_hour, block.requests_per_month)
    return service, block.at_limit


SOURCE = SearchedSource(make_service=make_service, notice=NOTICE, credit_line=CREDIT_LINE)
