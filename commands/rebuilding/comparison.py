"""Whether a result that was made again is the recorded one: to the byte, within a tolerance, or not."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from darkroom.pipeline.stage import name_some
from darkroom.scores.predictions import NAMES, Row
from darkroom.tracking.lockfile import flatten_params

# Of each stage, in the order of the pipeline, the digest of every output by path.
Digests = Mapping[str, Mapping[str, str]]


class PredictionDifference(NamedTuple):
    """How far two tables of predictions for the same photos are apart."""

    photos: int
    relabelled: int
    largest: float


@dataclass(frozen=True)
class RebuildVerdict:
    """`differing` has the outputs that differ of every stage, in the order of the pipeline; `predictions` is None where
    the tables cannot be compared."""

    differing: Mapping[str, Sequence[str]]
    predictions: PredictionDifference | None
    tolerance: float

    @property
    def first(self) -> str | None:
        """The first stage of which an output differs."""
        return next((stage for stage, outputs in self.differing.items() if outputs), None)

    @property
    def is_same(self) -> bool:
        """Whether the outputs are identical, or the predictions equal within the tolerance."""
        if self.first is None:
            return True
        found = self.predictions
        return found is not None and not found.relabelled and found.largest <= self.tolerance

    def __str__(self) -> str:
        if self.first is None:
            return "identical to the byte"
        where = f"the first stage that differs is {self.first}"
        found = self.predictions
        if found is not None and self.is_same:
            return (
                f"equal within {found.largest:.3g}: {where}, but each of the {found.photos} test photos has the same "
                "predicted label"
            )
        where += f" ({name_some(self.differing[self.first])})"
        if found is None:
            return f"different: {where}; the predictions are of other photos or labels, and cannot be compared"
        return (
            f"different: {where}; of {found.photos} test photos {found.relabelled} have another predicted label, "
            f"probabilities differ by up to {found.largest:.3g} (--tolerance {self.tolerance:g})"
        )


def compare_results(
    recorded: Digests, rebuilt: Digests, recorded_rows: Sequence[Row], rebuilt_rows: Sequence[Row], tolerance: float
) -> RebuildVerdict:
    """Compare two results.

    Args:
        recorded: the digests of the recorded result; its stages are the ones that count.
        rebuilt: those of the result that was made again.
        recorded_rows: the recorded predictions; none where there is no table.
        rebuilt_rows: those that were made again.
        tolerance: the largest difference of a probability that still counts as equal.
    """
    differing = {stage: list_differing(digests, rebuilt.get(stage, {})) for stage, digests in recorded.items()}
    return RebuildVerdict(differing, compare_predictions(recorded_rows, rebuilt_rows), tolerance)


def list_differing(recorded: Mapping[str, str], rebuilt: Mapping[str, str]) -> list[str]:
    """The names whose values differ, and those that only one of the two has, sorted."""
    return sorted({name for name, _ in set(recorded.items()) ^ set(rebuilt.items())})


def compare_predictions(recorded: Sequence[Row], rebuilt: Sequence[Row]) -> PredictionDifference | None:
    """Compare predictions photo by photo, in whatever order they stand; None where photos, labels or columns differ."""
    ours, theirs = ({row.get("photo"): row for row in rows} for rows in (recorded, rebuilt))
    if not ours or ours.keys() != theirs.keys():
        return None
    pairs = [(row, theirs[photo]) for photo, row in ours.items()]
    if any(one.keys() != other.keys() or one["label"] != other["label"] for one, other in pairs):
        return None
    relabelled = sum(one["predicted"] != other["predicted"] for one, other in pairs)
    differences = [difference(one[name], other[name]) for one, other in pairs for name in one if name not in NAMES]
    return PredictionDifference(len(pairs), relabelled, max(differences, default=0.0))


def difference(one: str, other: str) -> float:
    """How far two probabilities are apart; infinitely, where one is no number and the other is not the same text."""
    if one == other:
        return 0.0
    try:
        apart = abs(float(one) - float(other))
    except ValueError:
        return math.inf
    return math.inf if math.isnan(apart) else apart


def describe_stages(verdict: RebuildVerdict, not_rebuilt: Collection[str]) -> str:
    """A line for each stage; of those in `not_rebuilt` the recorded outputs were taken."""
    width = max(map(len, verdict.differing), default=0)
    lines = []
    for stage, outputs in verdict.differing.items():
        same = "taken as it was recorded" if stage in not_rebuilt else "identical"
        lines.append(f"{stage:<{width}}  {f'differs: {name_some(outputs)}' if outputs else same}")
    return "\n".join(lines)


def describe_environments(recorded: Mapping[str, Any], rebuilt: Mapping[str, Any]) -> str:
    """What differs between two environments of train, a line each; "" if nothing does."""
    then, now = flatten_params(recorded), flatten_params(rebuilt)
    return "\n".join(
        f"{name}: {then.get(name, 'not known')} then, {now.get(name, 'not known')} now"
        for name in list_differing(then, now)
    )
