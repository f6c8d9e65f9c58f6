"""Select photos from a source's candidates: in parallel, and yet the same ones every time."""

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

# Labels and photo names become names of folders and files, on every system that shares the cached data.
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
ReportProgress = Callable[[int], object]


@dataclass
class LabelProgress:
    """The selected photos of one label; `identities` maps their names to their candidates' identities."""

    candidates: Iterator[Candidate]
    taken: dict[str, PhotoRow] = field(default_factory=dict)
    identities: dict[str, str] = field(default_factory=dict)
    pending: int = 0
    is_exhausted: bool = False

    def needs_more(self, photos_per_class: int | None) -> bool:
        """Whether another candidate is needed even if all pending ones are usable."""
        is_short = photos_per_class is None or len(self.taken) + self.pending < photos_per_class
        return is_short and not self.is_exhausted


class Workers(NamedTuple):
    """A pool of `parallel` workers that call `take` with up to `batch_size` candidates; it returns a row for each."""

    pool: Executor
    take: Take
    parallel: int
    batch_size: int


class Selection:
    """Selects the first `photos_per_class` usable candidates of each label, or all of them if it is None.

    A candidate is submitted only if it is needed even if all candidates before it are usable. So the submitted
    candidates depend on the source alone, not on the order in which they finish. A photo found for two labels would
    blur both classes: it is selected for neither, and other photos are selected instead.
    """

    def __init__(
        self, candidates: Mapping[str, Iterable[Candidate]], photos_per_class: int | None, discard: Discard
    ) -> None:
        """Prepare the selection; `discard` deletes a photo that was taken.

        Raises:
            StageError: a label cannot be a folder name.
        """
        folders: dict[str, str] = {}
        for label in candidates:
            if not is_safe_name(label):
                raise StageError(f"label {label!r} cannot be a folder name: {SAFE_NAME}; rename it")
            other = folders.setdefault(fold_name(label), label)
            if other != label:
                raise StageError(f"labels {other!r} and {label!r} are the same folder on some systems; rename one")
        self.progress = {label: LabelProgress(iter(offered)) for label, offered in candidates.items()}
        self.photos_per_class = photos_per_class
        self.discard = discard
        self.rejected: list[RejectedRow] = []
        self.names: set[str] = set()
        self.ambiguous: set[str] = set()
        self.futures: dict[Future[list[Outcome]], list[Candidate]] = {}

    def run(self, workers: Workers, report: ReportProgress) -> tuple[list[PhotoRow], list[RejectedRow]]:
        """Take photos, and return the selected and the rejected ones, both sorted by photo.

        `report` is called with the number of photos that were taken, or with -1 for a discarded one.

        Raises:
            StageError: two candidates have the same name, or taking one raised it.
        """
        while self.submit(workers, report) or self.futures or self.discard_ambiguous(report):
            self.collect_finished()
        photos = [row for progress in self.progress.values() for row in progress.taken.values()]
        return sorted(photos), sorted(self.rejected)

    def submit(self, workers: Workers, report: ReportProgress) -> bool:
        """Submit candidates, earlier labels first, until enough are pending; return whether any was submitted."""
        submitted = False
        for progress in self.progress.values():
            while len(self.futures) < 2 * workers.parallel and progress.needs_more(self.photos_per_class):
                batch = self.next_batch(progress, workers.batch_size)
                if batch:
                    future = workers.pool.submit(workers.take, batch)
                    future.add_done_callback(partial(report_taken, report))
                    self.futures[future] = batch
                    submitted = True
        return submitted

    def next_batch(self, progress: LabelProgress, batch_size: int) -> list[Candidate]:
        """Return the next acceptable candidates, no more than are needed."""
        batch: list[Candidate] = []
        while len(batch) < batch_size and progress.needs_more(self.photos_per_class):
            candidate = next(progress.candidates, None)
            if candidate is None:
                progress.is_exhausted = True
            elif self.accept(candidate):
                batch.append(candidate)
                progress.pending += 1
        return batch

    def accept(self, candidate: Candidate) -> bool:
        """Return whether a candidate may be taken; reject it if not."""
        if not is_safe_name(candidate.photo):
            photo = candidate.photo.encode(errors="backslashreplace").decode()
            self.reject(candidate.label, photo, f"the name cannot be a file name: {SAFE_NAME}")
            return False
        if fold_name(candidate.photo) in self.names:
            raise StageError(f"two files would become the photo {candidate.photo!r}; rename one of them or its class")
        self.names.add(fold_name(candidate.photo))
        if candidate.identity in self.ambiguous:
            self.reject(candidate.label, candidate.photo, AMBIGUOUS)
            return False
        return True

    def collect_finished(self) -> None:
        done, _ = wait(self.futures, return_when=FIRST_COMPLETED)
        for future in done:
            for candidate, outcome in zip(self.futures.pop(future), future.result(), strict=True):
                progress = self.progress[candidate.label]
                progress.pending -= 1
                if isinstance(outcome, RejectedRow):
                    self.rejected.append(outcome)
                    continue
                progress.taken[candidate.photo] = outcome
                if candidate.identity:
                    progress.identities[candidate.photo] = candidate.identity

    def discard_ambiguous(self, report: ReportProgress) -> bool:
        """Discard photos that were taken for two labels, when nothing is pending; return whether there were any."""
        labels = Counter(
            identity for progress in self.progress.values() for identity in set(progress.identities.values())
        )
        found = {identity for identity, count in labels.items() if count > 1}
        self.ambiguous |= found
        for label, progress in self.progress.items():
            for photo in [photo for photo, identity in progress.identities.items() if identity in found]:
                del progress.identities[photo]
                self.discard(progress.taken.pop(photo))
                self.reject(label, photo, AMBIGUOUS)
                report(-1)
        return bool(found)

    def reject(self, label: str, photo: str, reason: str) -> None:
        self.rejected.append(RejectedRow(photo, label, reason))


def take_each(candidates: Sequence[Candidate], take_one: Callable[[Candidate], PhotoRow]) -> list[Outcome]:
    """Take candidates one by one; an unusable one becomes a row with the reason."""
    outcomes: list[Outcome] = []
    for candidate in candidates:
        try:
            outcomes.append(take_one(candidate))
        except (ImageError, PhotoUnavailable) as error:
            outcomes.append(RejectedRow(candidate.photo, candidate.label, str(error)))
    return outcomes


def report_taken(report: ReportProgress, future: Future[list[Outcome]]) -> None:
    """Report photos as soon as they are taken, even while the next search request waits for the rate limit."""
    if not future.cancelled() and future.exception() is None:
        report(sum(isinstance(outcome, PhotoRow) for outcome in future.result()))


def is_safe_name(name: str) -> bool:
    size = len(name.encode(errors="replace"))
    return name.isprintable() and 1 <= size <= NAME_BYTES and not UNSAFE_NAME.search(name)
