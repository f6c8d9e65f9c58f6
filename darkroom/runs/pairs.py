"""The photos that two runs both tested, and which of them each has right. Dims: N photos."""

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
from darkroom.tracking.store import RECORD_ANEW

# What makes a photo the same as one of another table.
Identity = tuple[str, ...]


class RunPredictions(NamedTuple):
    """What a run has told of its test photos: the cells of each by column, and the labels that it chose among."""

    run: str
    rows: Sequence[Row]
    labels: Sequence[str]

    @property
    def knows_content(self) -> bool:
        return DIGEST in self.rows[0]


class PhotoPairs(NamedTuple):
    """The N photos that both runs tested, in the order of the first run."""

    labels: npt.NDArray[np.str_]  # (N,)
    first: Correct
    second: Correct
    groups: Sequence[str]  # N names, closed over the groups of both runs
    relabelled: int  # photos beside the N, with another label in each run


def read_run_predictions(path: Path, run: str) -> RunPredictions:
    """Read data/evaluate/predictions.csv of a run, as this version or an earlier one wrote it.

    Raises:
        StageError: it is something else.
    """
    try:
        table = read_predictions(path)
    except StageError as error:
        raise StageError(f"the predictions of {run} cannot be read: {error}; {RECORD_ANEW}") from None
    return RunPredictions(run, table.rows, table.labels)


def pair_photos(first: RunPredictions, second: RunPredictions) -> PhotoPairs:
    """Find the photos that both runs tested.

    A photo is the same where its file's content is, whatever its name, which begins with its label. The name decides
    where a content has several photos, or where one of the runs does not know the contents.

    Raises:
        StageError: there are none, or each has another label in the two runs.
    """
    theirs = dict(zip(identify(second, first), second.rows, strict=True))
    identities = zip(identify(first, second), first.rows, strict=True)
    common = [(row, theirs[identity]) for identity, row in identities if identity in theirs]
    pairs = [(row, other) for row, other in common if row["label"] == other["label"]]
    if not pairs:
        found = f"the {len(common)} that both tested have another label in each" if common else "none is in both"
        raise StageError(
            f"{first.run} tested {len(first.rows)} photos, {second.run} {len(second.rows)}, and {found}; give both "
            "runs the same photos and labels, and the same split.seed, split.validation_fraction and "
            "split.test_fraction"
        )
    ours, others = zip(*pairs, strict=True)
    groups = unite_groups(list_groups(ours), list_groups(others))
    labels = np.array([row["label"] for row in ours])
    return PhotoPairs(labels, find_right(ours), find_right(others), groups, len(common) - len(pairs))


def identify(run: RunPredictions, other: RunPredictions) -> list[Identity]:
    """The identity of each photo of `run` among those of both runs."""
    if not (run.knows_content and other.knows_content):
        return [(row["photo"],) for row in run.rows]
    counts = [Counter(row[DIGEST] for row in rows) for rows in (run.rows, other.rows)]
    repeated = {digest for count in counts for digest, times in count.items() if times > 1}
    return [(row[DIGEST], row["photo"] if row[DIGEST] in repeated else "") for row in run.rows]


def list_groups(rows: Iterable[Row]) -> list[str]:
    """The group of each photo; its own name in a result that knows no groups."""
    return [row.get(GROUP, row["photo"]) for row in rows]


def find_right(rows: Iterable[Row]) -> Correct:
    return np.array([row["predicted"] == row["label"] for row in rows])
