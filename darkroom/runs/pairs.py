"""Match the photos that two runs both tested, and find those that each run classified correctly. Dims: N photos."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from darkroom.pipeline.arrays import Correct
from darkroom.pipeline.stage import StageError
from darkroom.runs.paired_tests import unite_groups
from darkroom.scores.predictions import DIGEST, GROUP, Row, read_predictions
from darkroom.tracking.store import RECORD_AGAIN

# Photos of two runs are the same photo if their identities are equal.
Identity = tuple[str, ...]


class RunPredictions(NamedTuple):
    """The predictions of a run for its test photos: a row per photo, and the labels of the classifier."""

    run: str
    rows: Sequence[Row]
    labels: Sequence[str]

    @property
    def has_digests(self) -> bool:
        return DIGEST in self.rows[0]


class PhotoPairs(NamedTuple):
    """The N photos that both runs tested, in the order of the first run."""

    labels: npt.NDArray[np.str_]  # (N,)
    first: Correct
    second: Correct
    groups: Sequence[str]  # N names, merged from the groups of both runs
    label_conflicts: int  # how many photos are left out, because their labels differ


def read_run_predictions(path: Path, run: str) -> RunPredictions:
    """Read data/evaluate/predictions.csv of a run, as written by this or an earlier version.

    Raises:
        StageError: the file has another format.
    """
    try:
        table = read_predictions(path)
    except StageError as error:
        raise StageError(f"the predictions of {run} cannot be read: {error}; {RECORD_AGAIN}") from None
    return RunPredictions(run, table.rows, table.labels)


def pair_photos(first: RunPredictions, second: RunPredictions) -> PhotoPairs:
    """Match the photos that both runs tested.

    Photos are matched by the digests of their files, not by their names, which begin with the label. The name decides
    if several photos have the same digest, or if one of the runs has no digests.

    Raises:
        StageError: there are no such photos, or their labels all differ between the runs.
    """
    other_rows = dict(zip(identify(second, first), second.rows, strict=True))
    identities = zip(identify(first, second), first.rows, strict=True)
    common = [(row, other_rows[identity]) for identity, row in identities if identity in other_rows]
    pairs = [(row, other) for row, other in common if row["label"] == other["label"]]
    if not pairs:
        found = f"the {len(common)} that both tested have different labels" if common else "none is in both"
        raise StageError(
            f"{first.run} tested {len(first.rows)} photos, {second.run} {len(second.rows)}, and {found}; use the same "
            "photos and labels, and the same split.seed, split.validation_fraction and split.test_fraction, for both "
            "runs"
        )
    first_rows, second_rows = zip(*pairs, strict=True)
    groups = unite_groups(list_groups(first_rows), list_groups(second_rows))
    labels = np.array([row["label"] for row in first_rows])
    return PhotoPairs(labels, mark_correct(first_rows), mark_correct(second_rows), groups, len(common) - len(pairs))


def identify(run: RunPredictions, other: RunPredictions) -> list[Identity]:
    """Return what identifies each photo of `run` among the photos of both runs."""
    if not (run.has_digests and other.has_digests):
        return [(row["photo"],) for row in run.rows]
    counts = [Counter(row[DIGEST] for row in rows) for rows in (run.rows, other.rows)]
    repeated = {digest for count in counts for digest, times in count.items() if times > 1}
    return [(row[DIGEST], row["photo"] if row[DIGEST] in repeated else "") for row in run.rows]


def list_groups(rows: Iterable[Row]) -> list[str]:
    """List the group of each photo; in a result without groups, that is the photo's name."""
    return [row.get(GROUP, row["photo"]) for row in rows]


def mark_correct(rows: Iterable[Row]) -> Correct:
    return np.array([row["predicted"] == row["label"] for row in rows])
