"""Compares a rebuilt result with the recorded one: identical, equal within a tolerance, or different."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from darkroom.pipeline.stage import name_some
from darkroom.scores.predictions import NAMES, Row
from darkroom.tracking.lockfile import flatten_params

# The digest of every output by path, for each stage in the order of the pipeline.
Digests = Mapping[str, Mapping[str, str]]


class PredictionDifference(NamedTuple):
    """The difference between two tables of predictions for the same photos."""

    photos: int
    relabelled: int  # photos with a different predicted label
    largest: float  # difference of a probability


@dataclass(frozen=True)
class RebuildVerdict:
    """`differing` lists the outputs that differ for each stage, in the order of the pipeline; `predictions` is None if
    the tables cannot be compared."""

    differing: Mapping[str, Sequence[str]]
    predictions: PredictionDifference | None
    tolerance: float

    @property
    def first(self) -> str | None:
        """The first stage with an output that differs."""
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
                f"equal within {found.largest:.3g}: {where}, but all {found.photos} test photos have the same "
                "predicted label"
            )
        where += f" ({name_some(self.differing[self.first])})"
        if found is None:
            return f"different: {where}; the predictions cannot be compared, because their photos or labels differ"
        return (
            f"different: {where}; {found.relabelled} of {found.photos} test photos have a different predicted label, "
            f"probabilities differ by up to {found.largest:.3g} (--tolerance {self.tolerance:g})"
        )


def compare_results(
    recorded: Digests, rebuilt: Digests, recorded_rows: Sequence[Row], rebuilt_rows: Sequence[Row], tolerance: float
) -> RebuildVerdict:
    """Compare two results.

    Args:
        recorded: the digests of the recorded result; only its stages are compared.
        rebuilt: the digests of the rebuilt result.
        recorded_rows: the recorded predictions; empty if there is no table.
        rebuilt_rows: the rebuilt predictions.
        tolerance: the largest difference of a probability that counts as equal.
    """
    differing = {stage: list_differing(digests, rebuilt.get(stage, {})) for stage, digests in recorded.items()}
    return RebuildVerdict(differing, compare_predictions(recorded_rows, rebuilt_rows), tolerance)


def list_differing(recorded: Mapping[str, str], rebuilt: Mapping[str, str]) -> list[str]:
    """The names whose values differ, or that only one mapping has, sorted."""
    return sorted({name for name, _ in set(recorded.items()) ^ set(rebuilt.items())})


def compare_predictions(recorded: Sequence[Row], rebuilt: Sequence[Row]) -> PredictionDifference | None:
    """Compare predictions photo by photo, in any order; None if photos, labels or columns differ."""
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
    """The absolute difference of two probabilities; infinite if one is not a number and the strings differ."""
    if one == other:
        return 0.0
    try:
        apart = abs(float(one) - float(other))
    except ValueError:
        return math.inf
    return math.inf if math.isnan(apart) else apart


def describe_stages(verdict: RebuildVerdict, not_rebuilt: Collection[str]) -> str:
    """A line for each stage; those in `not_rebuilt` did not run, because DVC had their outputs."""
    width = max(map(len, verdict.differing), default=0)
    lines = []
    for stage, outputs in verdict.differing.items():
        same = "restored from DVC" if stage in not_rebuilt else "identical"
        lines.append(f"{stage:<{width}}  {f'differs: {name_some(outputs)}' if outputs else same}")
    return "\n".join(lines)


def describe_environments(recorded: Mapping[str, Any], rebuilt: Mapping[str, Any]) -> str:
    """The differences between two environments of train, a line each; "" if there are none."""
    then, now = flatten_params(recorded), flatten_params(rebuilt)
    return "\n".join(
        f"{name}: {then.get(name, 'unknown')} then, {now.get(name, 'unknown')} now"
        for name in list_differing(then, now)
    )
