"""Photos that a search service finds: pages of results, each asked once, within what the service allows."""

import json
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import count
from urllib.parse import urlencode

from requests.auth import AuthBase

from darkroom.acquisition.candidate import Candidate, Listing, be_unavailable
from darkroom.acquisition.clock import Clock, time_of_day
from darkroom.acquisition.ledger import Ledger
from darkroom.acquisition.photo_download import PhotoFetcher
from darkroom.acquisition.refresh import Refresh
from darkroom.acquisition.sources.search_service import MAXIMUM_ANSWER_BYTES, Page, SearchService
from darkroom.acquisition.web.client import WebClient
from darkroom.acquisition.web.errors import NoAnswer, Refused, TooLarge, TooManyRequests
from darkroom.acquisition.web.rate_limit import RequestBudget
from darkroom.pipeline.stage import StageError

# A 429 without a word on when to come back means that the key is used elsewhere too.
PAUSE_SECONDS = 600.0
PAUSES = 8


class Search:
    """Asks a service for pages, or takes them from the ledger.

    With a `refresh` each page is asked anew. `found_before` and `found_now` name the photos of the old answers and of
    the new ones, by address; without one they are the same.
    """

    def __init__(
        self,
        service: SearchService,
        client: WebClient,
        fetcher: PhotoFetcher,
        ledger: Ledger,
        budget: RequestBudget,
        clock: Clock,
        refresh: Refresh | None,
    ) -> None:
        self.service = service
        self.client = client
        self.fetcher = fetcher
        self.ledger = ledger
        self.budget = budget
        self.clock = clock
        self.refresh = refresh
        self.auth: AuthBase | None = None
        self.logged_in = False
        self.found_before: dict[str, str] = {}
        self.found_now: dict[str, str] = {}

    def list_photos(self, classes: Mapping[str, str]) -> Listing:
        """List what is found for each label's search words; pages are asked for as the candidates are used up."""
        return Listing({label: self.find_photos(label, words) for label, words in classes.items()})

    def find_photos(self, label: str, words: str) -> Iterator[Candidate]:
        seen: set[str] = set()
        for number in count(1):
            page, before = self.ask(words, number)
            self.found_before |= {photo.address: f"{label}-{photo.id}" for photo in before.photos}
            self.found_now |= {photo.address: f"{label}-{photo.id}" for photo in page.photos}
            for photo in page.photos:
                if photo.id in seen:
                    continue  # results move while they are paged through
                seen.add(photo.id)
                yield Candidate(
                    photo=f"{label}-{photo.id}",
                    label=label,
                    read=partial(be_unavailable, photo.fault)
                    if photo.fault
                    else partial(self.fetcher.read, photo.address),
                    source=self.service.name,
                    creator=photo.creator,
                    creator_url=photo.creator_url,
                    page_url=photo.page_url,
                    licence=photo.licence,
                    identity=photo.id,
                )
            if page.is_last:
                return

    def ask(self, words: str, number: int) -> tuple[Page, Page]:
        """Give a page of results, from the ledger if it was asked before, and what the ledger had before a refresh.

        Raises:
            StageError: the service refuses, does not answer, or allows no more requests now.
        """
        params = self.service.params(words, number)
        request = f"{self.service.address}?{urlencode(sorted(params.items()))}"
        kept = self.ledger.find_answer(request)
        if kept and self.refresh is None:
            page = self.read(kept, number)
            return page, page
        before = self.refresh.find(request) if self.refresh else None
        if kept and before is not None:
            return self.read(kept, number), self.read(before, number)
        page, body = self.ask_until_answered(params, number)
        if self.refresh:
            self.refresh.replace_answer(request, body, kept or "")
        else:
            self.ledger.keep_answer(request, body)
        return page, self.read(kept or "", number)

    def read(self, body: str, number: int) -> Page:
        return self.service.read_page(json.loads(body), number) if body else Page([], is_last=True)

    def finish(self) -> list[str]:
        """Remember what did not come, and say, after a refresh, what has changed, a line for each kind of change."""
        self.fetcher.finish()
        return self.refresh.finish(self.found_before, self.found_now) if self.refresh else []

    def ask_until_answered(self, params: Mapping[str, str], number: int) -> tuple[Page, str]:
        for _ in range(PAUSES):
            try:
                return self.client.try_often(partial(self.ask_once, params, number), f"acquire: {self.service.title}")
            except TooManyRequests as error:
                moment = self.clock.now() + (PAUSE_SECONDS if error.retry_after is None else error.retry_after)
                self.budget.pause(moment, f"{self.service.title} answers {error}")
            except (NoAnswer, TooLarge) as error:
                raise StageError(
                    f"{self.service.title} cannot be asked: {error}. What was fetched is kept; run again later"
                ) from None
            except Refused as error:
                raise StageError(
                    f"{self.service.title} refuses: {error}; {self.service.explain(error.status)}"
                ) from None
        raise StageError(
            f"{self.service.title} still answers HTTP 429 (too many requests): its limit is used up elsewhere. What "
            "was fetched is kept; run again later"
        )

    def ask_once(self, params: Mapping[str, str], number: int) -> tuple[Page, str]:
        self.check_quota()
        if not self.logged_in:
            self.auth, self.logged_in = self.service.login(self.client, self.budget.take), True
        self.budget.take()
        headers, body = self.client.ask(self.service.address, params, self.auth, MAXIMUM_ANSWER_BYTES)
        quota = self.service.read_quota(headers.values)
        if quota:
            self.ledger.keep_quota(self.service.name, quota)
        try:
            text = body.decode()
            return self.service.read_page(json.loads(text), number), text
        except (LookupError, RecursionError, TypeError, ValueError):
            raise NoAnswer("the answer is no page of search results") from None

    def check_quota(self) -> None:
        """Stop where the service said that no requests are left."""
        quota = self.ledger.find_quota(self.service.name)
        allowed = max(self.service.windows, key=lambda window: window.seconds).requests
        if quota and quota.left(allowed) <= 0 and quota.reset > self.clock.now():
            raise StageError(
                f"{self.service.title} allows no more requests until {time_of_day(quota.reset)} "
                f"({min(allowed, quota.request_limit)} are used up); run again then. What was fetched is kept"
            )
