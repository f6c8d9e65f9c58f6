"""What asking a source anew has come to; a refresh that was broken off goes on where it was."""

from collections.abc import Collection, Mapping

from darkroom.acquisition.clock import Clock
from darkroom.acquisition.ledger import Download, Ledger
from darkroom.pipeline.stage import name_some

# An older one that was broken off is begun anew.
CURRENT_SECONDS = 86_400
UNCHANGED = ""
CHANGED = "changed at the source"
DELETED = "deleted at the source"
UNUSABLE = "not usable at the source any more, kept as they were"
CHANGES = (CHANGED, DELETED, UNUSABLE)


class Refresh:
    """Remembers in the ledger what was asked, and what was there before."""

    def __init__(self, ledger: Ledger, clock: Clock) -> None:
        self.ledger = ledger
        self.clock = clock
        self.since = clock.now() - CURRENT_SECONDS

    def find(self, key: str) -> str | None:
        """What was noted of a key that was asked already: a photo's kind of change, or a request's old answer."""
        return self.ledger.find_refreshed(key, self.since)

    def replace_download(self, address: str, download: Download, change: str) -> None:
        self.ledger.replace_download(address, download, change, self.clock.now())

    def replace_answer(self, request: str, body: str, before: str) -> None:
        self.ledger.replace_answer(request, body, before, self.clock.now())

    def finish(self, found_before: Mapping[str, str], found_now: Mapping[str, str]) -> list[str]:
        """End the refresh, and say what has changed, a line for each kind of change.

        Args:
            found_before: the names of the photos on the old pages, by address.
            found_now: those on the new pages.
        """
        names = {**found_before, **found_now}
        changes = {address: self.find(address) for address in names}
        kinds = {kind: [names[at] for at, change in changes.items() if change == kind] for kind in CHANGES}
        kinds["no longer on the pages that were asked"] = subtract(found_before, found_now)
        kinds["new on these pages"] = subtract(found_now, found_before)
        self.ledger.forget_refreshed()
        return [f"{len(photos)} {kind}: {name_some(sorted(photos))}" for kind, photos in kinds.items()]


def subtract(names: Mapping[str, str], others: Collection[str]) -> list[str]:
    return [name for address, name in names.items() if address not in others]
