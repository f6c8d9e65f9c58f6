"""Taking photos from what a source offers: side by side, and still the same ones every time."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from darkroom.acquisition.candidate import Candidate, PhotoUnavailable, fold_name
from darkroom.photos.images import ImageError
from darkroom.pipeline.dataset import PhotoRow, RejectedRow
from darkroom.pipeline.stage import StageError

# A label and a photo's name become names of a folder and a file, on every system that shares the cached data.
UNSAFE_NAME = re.compile(r'[<>:"/\\|?*]|^[. ]|[. ]$|^(con|prn|aux|nul|(com|lpt)\d)(\.|$)', re.IGNORECASE)
NAME_BYTES = 200
SAFE_NAME = (
    f'expected 1 to {NAME_BYTES} bytes without any of < > : " / \\ | ? * or unprintable characters, not beginning or '
    "ending with a dot or a space, and not con, prn, aux, nul, com0 to com9 or lpt0 to lpt9"
)
AMBIGUOUS = "found for two labels"
Outcome = PhotoRow | RejectedRow
Take = Callable[[Sequence[Candidate]], list[Outcome]]
Discard = Callable[[PhotoRow], None]
Progress = Callable[[int], object]


@dataclass
class LabelProgress:
    """What is taken of one label; `identities` tells taken photos by their candidates' identity."""

    candidates: Iterator[Candidate]
    taken: dict[str, PhotoRow] = field(default_factory=dict)
    identities: dict[str, str] = field(default_factory=dict)
    under_way: int = 0
    is_empty: bool = False

    def wanted(self, photos_per_class: int | None) -> bool:
        """Whether another candidate is needed even if all that are under way turn out well."""
        wanted = photos_per_class is None or len(self.taken) + self.under_way < photos_per_class
        return wanted and not self.is_empty


class Workers(NamedTuple):
    """`parallel` workers of a pool that call `take` with up to `batch_size` candidates at a time; it gives a row for
    each of them."""

    pool: Executor
    take: Take
    parallel: int
    batch_size: int


class Acquisition:
    """Takes the first `photos_per_class` usable candidates of each label, all of them if None.

    A candidate is begun only when it is needed even if all before it turn out well, so those that are begun depend on
    the source alone and not on which of them comes first. A photo that is found for two labels would teach neither:
    it is taken for none, and others take its place.
    """

    def __init__(
        self, candidates: Mapping[str, Iterable[Candidate]], photos_per_class: int | None, discard: Discard
    ) -> None:
        """Prepare to take photos; `discard` undoes taking one.

        Raises:
            StageError: a label cannot be a folder's name.
        """
        folders: dict[str, str] = {}
        for label in candidates:
            if not is_safe_name(label):
                raise StageError(f"label {label!r} cannot be a folder's name: {SAFE_NAME}; rename it")
            other = folders.setdefault(fold_name(label), label)
            if other != label:
                raise StageError(f"labels {other!r} and {label!r} are one folder on some systems; rename one of them")
        self.shelves = {label: LabelProgress(iter(offered)) for label, offered in candidates.items()}
        self.photos_per_class = photos_per_class
        self.discard = discard
        self.rejected: list[RejectedRow] = []
        self.names: set[str] = set()
        self.ambiguous: set[str] = set()
        self.futures: dict[Future[list[Outcome]], list[Candidate]] = {}

    def run(self, workers: Workers, progress: Progress) -> tuple[list[PhotoRow], list[RejectedRow]]:
        """Take the photos, and give them and the rejected ones, both sorted by photo.

        `progress` is told the number of photos that were taken, a negative one where some are given back.

        Raises:
            StageError: two candidates bear one name, or taking one raised it.
        """
        while self.begin(workers, progress) or self.futures or self.drop_ambiguous(progress):
            self.finish_some()
        photos = [row for shelf in self.shelves.values() for row in shelf.taken.values()]
        return sorted(photos), sorted(self.rejected)

    def begin(self, workers: Workers, progress: Progress) -> bool:
        """Begin candidates, earlier labels first, until enough are under way; tell whether any was begun."""
        begun = False
        for shelf in self.shelves.values():
            while len(self.futures) < 2 * workers.parallel and shelf.wanted(self.photos_per_class):
                batch = self.gather(shelf, workers.batch_size)
                if batch:
                    future = workers.pool.submit(workers.take, batch)
                    future.add_done_callback(partial(tell, progress))
                    self.futures[future] = batch
                    begun = True
        return begun

    def gather(self, shelf: LabelProgress, batch_size: int) -> list[Candidate]:
        """Get the next candidates that may be taken, no more than are wanted."""
        batch: list[Candidate] = []
        while len(batch) < batch_size and shelf.wanted(self.photos_per_class):
            candidate = next(shelf.candidates, None)
            if candidate is None:
                shelf.is_empty = True
            elif self.admit(candidate):
                batch.append(candidate)
                shelf.under_way += 1
        return batch

    def admit(self, candidate: Candidate) -> bool:
        """Whether a candidate may be taken; if not, it is rejected."""
        if not is_safe_name(candidate.photo):
            photo = candidate.photo.encode(errors="backslashreplace").decode()
            self.reject(candidate.label, photo, f"the name cannot be a file's: {SAFE_NAME}")
            return False
        if fold_name(candidate.photo) in self.names:
            raise StageError(f"two files would be the photo {candidate.photo!r}; rename one of them or its class")
        self.names.add(fold_name(candidate.photo))
        if candidate.identity in self.ambiguous:
            self.reject(candidate.label, candidate.photo, AMBIGUOUS)
            return False
        return True

    def finish_some(self) -> None:
        done, _ = wait(self.futures, return_when=FIRST_COMPLETED)
        for future in done:
            for candidate, outcome in zip(self.futures.pop(future), future.result(), strict=True):
                shelf = self.shelves[candidate.label]
                shelf.under_way -= 1
                if isinstance(outcome, RejectedRow):
                    self.rejected.append(outcome)
                    continue
                shelf.taken[candidate.photo] = outcome
                if candidate.identity:
                    shelf.identities[candidate.photo] = candidate.identity

    def drop_ambiguous(self, progress: Progress) -> bool:
        """Give back photos that stand under two labels, when nothing is under way; tell whether there were any."""
        labels = Counter(identity for shelf in self.shelves.values() for identity in set(shelf.identities.values()))
        found = {identity for identity, count in labels.items() if count > 1}
        self.ambiguous |= found
        for label, shelf in self.shelves.items():
            for photo in [photo for photo, identity in shelf.identities.items() if identity in found]:
                del shelf.identities[photo]
                self.discard(shelf.taken.pop(photo))
                self.reject(label, photo, AMBIGUOUS)
                progress(-1)
        return bool(found)

    def reject(self, label: str, photo: str, reason: str) -> None:
        self.rejected.append(RejectedRow(photo, label, reason))


def take_each(candidates: Sequence[Candidate], take_one: Callable[[Candidate], PhotoRow]) -> list[Outcome]:
    """Take candidates one by one; one that cannot be used becomes a row with the reason."""
    outcomes: list[Outcome] = []
    for candidate in candidates:
        try:
            outcomes.append(take_one(candidate))
        except (ImageError, PhotoUnavailable) as error:
            outcomes.append(RejectedRow(candidate.photo, candidate.label, str(error)))
    return outcomes


def tell(progress: Progress, future: Future[list[Outcome]]) -> None:
    """Tell of photos when they are there, even while the next page of a search waits for its turn."""
    if not future.cancelled() and future.exception() is None:
        progress(sum(isinstance(outcome, PhotoRow) for outcome in future.result()))


def is_safe_name(name: str) -> bool:
    size = len(name.encode(errors="replace"))
    return name.isprintable() and 1 <= size <= NAME_BYTES and not UNSAFE_NAME.search(name)
