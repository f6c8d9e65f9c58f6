"""The state of a refresh, which requests everything from a source again. An interrupted refresh resumes."""

from collections.abc import Collection, Mapping

from darkroom.acquisition.clock import Clock
from darkroom.acquisition.ledger import Download, Ledger
from darkroom.pipeline.stage import name_some

# A refresh that was interrupted longer ago restarts.
CURRENT_SECONDS = 86_400
UNCHANGED = ""
CHANGED = "changed at the source"
DELETED = "deleted at the source"
UNUSABLE = "no longer usable at the source, saved copies used"
CHANGES = (CHANGED, DELETED, UNUSABLE)


class Refresh:
    """Remembers in the ledger what was requested, and what was there before."""

    def __init__(self, ledger: Ledger, clock: Clock) -> None:
        self.ledger = ledger
        self.clock = clock
        self.since = clock.now() - CURRENT_SECONDS

    def find(self, key: str) -> str | None:
        """The note for a URL or request that this refresh has already sent: the kind of change, or the old response."""
        return self.ledger.find_refreshed(key, self.since)

    def replace_download(self, url: str, download: Download, change: str) -> None:
        self.ledger.replace_download(url, download, change, self.clock.now())

    def replace_response(self, request: str, body: str, before: str) -> None:
        self.ledger.replace_response(request, body, before, self.clock.now())

    def finish(self, found_before: Mapping[str, str], found_now: Mapping[str, str]) -> list[str]:
        """End the refresh, and return a line for each kind of change.

        Args:
            found_before: URL to name of the photos in the old search results.
            found_now: the same for the new search results.
        """
        names = {**found_before, **found_now}
        changes = {url: self.find(url) for url in names}
        kinds = {kind: [names[at] for at, change in changes.items() if change == kind] for kind in CHANGES}
        kinds["no longer on the requested pages of results"] = subtract(found_before, found_now)
        kinds["new on the requested pages of results"] = subtract(found_now, found_before)
        self.ledger.clear_refreshed()
        return [f"{len(photos)} {kind}: {name_some(sorted(photos))}" for kind, photos in kinds.items()]


def subtract(names: Mapping[str, str], others: Collection[str]) -> list[str]:
    return [name for url, name in names.items() if url not in others]
