"""Photos found by a search service: each page of results is requested once, within the service's rate limits."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import count
from urllib.parse import urlencode

from requests.auth import AuthBase
from tqdm import tqdm

from darkroom.acquisition.candidate import Candidate, Listing, raise_unavailable
from darkroom.acquisition.clock import Clock, format_timestamp
from darkroom.acquisition.ledger import Ledger
from darkroom.acquisition.photo_download import PhotoFetcher
from darkroom.acquisition.refresh import Refresh
from darkroom.acquisition.sources.search_service import MAXIMUM_RESPONSE_BYTES, FoundPhoto, Page, SearchService
from darkroom.acquisition.web.client import WebClient
from darkroom.acquisition.web.errors import NoResponse, Refused, TooLarge, TooManyRequests
from darkroom.acquisition.web.rate_limit import RateLimiter
from darkroom.pipeline.stage import StageError, name_some

# A 429 without Retry-After means that the key is used elsewhere too.
PAUSE_SECONDS = 600.0
PAUSES = 8
# A search ends after whole pages with this many results in a row, none of which is new and allowed. With fewer, useful
# searches would end early: services list photos of one server side by side, and results move to another page between
# two requests. If one result in twenty is usable, 100 in a row are unusable in 6 of 1,000 cases.
FRUITLESS_RESULTS = 100
LISTED_BEFORE = "listed on an earlier page"
SHOWN_REASONS = 3


class Search:
    """Requests pages of search results from a service, or takes them from the ledger.

    With a `refresh` each page is requested again. `found_before` and `found_now` map the URLs of the photos in the old
    and the new responses to their names; without a refresh they are equal.
    """

    def __init__(
        self,
        service: SearchService,
        client: WebClient,
        fetcher: PhotoFetcher,
        ledger: Ledger,
        rate_limiter: RateLimiter,
        clock: Clock,
        refresh: Refresh | None,
    ) -> None:
        self.service = service
        self.client = client
        self.fetcher = fetcher
        self.ledger = ledger
        self.rate_limiter = rate_limiter
        self.clock = clock
        self.refresh = refresh
        self.auth: AuthBase | None = None
        self.is_authenticated = False
        self.found_before: dict[str, str] = {}
        self.found_now: dict[str, str] = {}

    def list_photos(self, classes: Mapping[str, str]) -> Listing:
        """List the photos found for each label's search terms; pages are requested as the candidates are used up."""
        return Listing({label: self.find_photos(label, words) for label, words in classes.items()})

    def find_photos(self, label: str, words: str) -> Iterator[Candidate]:
        seen: set[str] = set()
        # The reasons of each page since the last one with a photo that is new and allowed.
        fruitless: list[Counter[str]] = []
        for number in count(1):
            page, before = self.get_page(words, number)
            self.found_before |= {photo.url: f"{label}-{photo.id}" for photo in before.photos}
            self.found_now |= {photo.url: f"{label}-{photo.id}" for photo in page.photos}
            reasons: Counter[str] = Counter()
            for photo in page.photos:
                if photo.id in seen:
                    reasons[LISTED_BEFORE] += 1  # results may move to another page between two requests
                    continue
                seen.add(photo.id)
                reason = photo.unusable_reason or self.client.refusal(photo.url)
                reasons[reason] += 1
                yield self.make_candidate(label, photo, reason)
            if page.is_last:
                return
            fruitless = [] if reasons[""] else [*fruitless, reasons]
            if len(fruitless) * self.service.page_size >= FRUITLESS_RESULTS:
                tqdm.write(f"acquire: {label}: {self.describe_end(words, number, fruitless)}")
                return

    def make_candidate(self, label: str, photo: FoundPhoto, unusable_reason: str) -> Candidate:
        read = partial(raise_unavailable, unusable_reason) if unusable_reason else partial(self.fetcher.read, photo.url)
        return Candidate(
            photo=f"{label}-{photo.id}",
            label=label,
            read=read,
            source=self.service.name,
            creator=photo.creator,
            creator_url=photo.creator_url,
            page_url=photo.page_url,
            license=photo.license,
            identity=photo.id,
        )

    def describe_end(self, words: str, number: int, fruitless: Sequence[Counter[str]]) -> str:
        """Say why a search ends before its last page, and what to change."""
        # The most frequent reasons first, and equally frequent ones by name.
        reasons = sorted(sum(fruitless, Counter()).items(), key=lambda item: (-item[1], item[0]))
        names = [f"{reason} ({count:,})" for reason, count in reasons] or ["no entry has an id"]
        most_frequent = reasons[0][0] if reasons else LISTED_BEFORE
        hint = "use other search terms" if most_frequent == LISTED_BEFORE else self.service.unusable_hint(most_frequent)
        return (
            f"the search for {words!r} ends after page {number}, because the last {len(fruitless)} pages have no new "
            f"usable photo: {name_some(names, SHOWN_REASONS)}; {hint}"
        )

    def get_page(self, words: str, number: int) -> tuple[Page, Page]:
        """Return a page of results, from the ledger if it was requested before, and the page before a refresh.

        Raises:
            StageError: the service rejects the request, does not respond, or allows no more requests now.
        """
        params = self.service.params(words, number)
        request = f"{self.service.url}?{urlencode(sorted(params.items()))}"
        saved = self.ledger.find_response(request)
        if saved and self.refresh is None:
            page = self.parse_page(saved, number)
            return page, page
        before = self.refresh.find(request) if self.refresh else None
        if saved and before is not None:
            return self.parse_page(saved, number), self.parse_page(before, number)
        page, body = self.request_page(params, number)
        if self.refresh:
            self.refresh.replace_response(request, body, saved or "")
        else:
            self.ledger.save_response(request, body)
        return page, self.parse_page(saved or "", number)

    def parse_page(self, body: str, number: int) -> Page:
        return self.service.read_page(json.loads(body), number) if body else Page([], is_last=True)

    def finish(self) -> list[str]:
        """Save failed downloads; after a refresh, return a line for each kind of change."""
        self.fetcher.finish()
        return self.refresh.finish(self.found_before, self.found_now) if self.refresh else []

    def request_page(self, params: Mapping[str, str], number: int) -> tuple[Page, str]:
        for _ in range(PAUSES):
            try:
                attempt = partial(self.request_page_once, params, number)
                return self.client.retry(attempt, f"acquire: {self.service.title}")
            except TooManyRequests as error:
                until = self.clock.now() + (PAUSE_SECONDS if error.retry_after is None else error.retry_after)
                self.rate_limiter.pause(until, f"{self.service.title} returned {error}")
            except (NoResponse, TooLarge) as error:
                raise StageError(
                    f"a request to {self.service.title} failed: {error}. Downloads so far are saved; run again later"
                ) from None
            except Refused as error:
                raise StageError(
                    f"{self.service.title} rejected the request: {error}; {self.service.refusal_hint(error.status)}"
                ) from None
        raise StageError(
            f"{self.service.title} still returns HTTP 429 (too many requests): its limit is used up elsewhere. "
            "Downloads so far are saved; run again later"
        )

    def request_page_once(self, params: Mapping[str, str], number: int) -> tuple[Page, str]:
        self.check_quota()
        if not self.is_authenticated:
            self.auth = self.service.authenticate(self.client, self.rate_limiter.wait_for_slot)
            self.is_authenticated = True
        self.rate_limiter.wait_for_slot()
        headers, body = self.client.fetch(self.service.url, params, self.auth, MAXIMUM_RESPONSE_BYTES)
        quota = self.service.read_quota(headers.values)
        if quota and quota.is_plausible(self.clock.now()):
            self.ledger.save_quota(self.service.name, quota)
        try:
            text = body.decode()
            return self.service.read_page(json.loads(text), number), text
        except (LookupError, RecursionError, TypeError, ValueError):
            raise NoResponse("the response is not a page of search results") from None

    def check_quota(self) -> None:
        """Stop if the service reported that no requests are left. Earlier versions also saved impossible reports."""
        quota = self.ledger.find_quota(self.service.name)
        allowed = max(self.service.windows, key=lambda window: window.seconds).requests
        if quota and quota.is_plausible(self.clock.now()) and quota.remaining_of(allowed) <= 0:
            raise StageError(
                f"{self.service.title} allows no more requests until {format_timestamp(quota.reset)} "
                f"({min(allowed, quota.request_limit)} are used up); run again then. Downloads so far are saved"
            )
