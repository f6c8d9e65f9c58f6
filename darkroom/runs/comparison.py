"""Compare two recorded runs on the photos that both tested: describe the data, and decide which run is better."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from mlflow import MlflowClient
from mlflow.entities import Run

from darkroom.pipeline.paths import EVALUATE_PREDICTIONS
from darkroom.pipeline.stage import StageError, name_some
from darkroom.runs.lookup import check_result, fetch_run_file
from darkroom.runs.paired_tests import difference_interval, mcnemar_p_value
from darkroom.runs.pairs import PhotoPairs, RunPredictions, read_run_predictions
from darkroom.tracking.store import ID_CHARACTERS

SMALLEST_P = 1e-99


class PairedVerdict(NamedTuple):
    """Whether the accuracies of two runs differ significantly, the first accuracy minus the second, and a summary."""

    is_distinguishable: bool
    difference: float
    text: str

    @property
    def first_is_better(self) -> bool:
        return self.is_distinguishable and self.difference > 0


def check_confidence_level(confidence_level: float) -> None:
    """Raise a StageError unless the confidence level is between 0 and 1."""
    if not 0 < confidence_level < 1:
        raise StageError(
            f"--confidence-level: expected a number above 0 and below 1, such as 0.95, got {confidence_level:g}"
        )


def show_run(run: Run) -> str:
    """Name a run in a message, by the beginning of its id and its name."""
    return f"run {run.info.run_id[:ID_CHARACTERS]} ({run.info.run_name})"


def fetch_predictions(client: MlflowClient, run: Run, folder: Path) -> RunPredictions:
    """Download the predictions of a run to `folder`, and read them.

    Raises:
        StageError: the run has no recorded result or no predictions.
    """
    check_result(run)
    fetch_run_file(client, run, EVALUATE_PREDICTIONS, folder)
    return read_run_predictions(folder / EVALUATE_PREDICTIONS, show_run(run))


def describe_photos(first: RunPredictions, second: RunPredictions, pairs: PhotoPairs) -> list[str]:
    """Describe in lines what is compared, and what limits the comparison."""
    total, groups = len(pairs.labels), len(set(pairs.groups))
    same = " (the same run)" if first.run == second.run else ""
    lines = [
        f"A is {first.run}, B is {second.run}{same}",
        f"A tested {len(first.rows)} photos, B {len(second.rows)}; compared on the {total} photos that both tested",
    ]
    if len(first.rows) == len(second.rows) == total:
        lines[-1] = f"A and B tested the same {total} photos"
    if pairs.label_conflicts:
        lines.append(f"left out: {pairs.label_conflicts} photos whose labels differ between the runs")
    without_digests = [name for name, run in (("A", first), ("B", second)) if not run.has_digests]
    if without_digests:
        lines.append(f"{' and '.join(without_digests)} did not record the photos' digests: photos are matched by name")
    if groups < total:
        lines.append(f"related photos, such as near duplicates, are counted as groups: {groups} groups")
    if set(first.labels) != set(second.labels):
        lines.append(describe_labels(first.labels, second.labels))
    return lines


def describe_labels(first: Sequence[str], second: Sequence[str]) -> str:
    alone = [
        f"only {name}: {name_some(labels, 5)}"
        for name, labels in (("A", find_missing_labels(second, first)), ("B", find_missing_labels(first, second)))
        if labels
    ]
    easier = "; a classifier with fewer labels has an easier task" if len(first) != len(second) else ""
    return f"A has {len(first)} labels, B has {len(second)} ({'; '.join(alone)}){easier}"


def find_missing_labels(labels: Sequence[str], expected: Sequence[str]) -> list[str]:
    return sorted(set(expected) - set(labels))


def compare_accuracy(first: str, second: str, pairs: PhotoPairs, confidence_level: float) -> PairedVerdict:
    """Decide whether two accuracies differ: if McNemar's test rejects that the runs are equally accurate."""
    p_value = mcnemar_p_value(pairs.first, pairs.second, pairs.groups)
    low, high = difference_interval(pairs.first, pairs.second, pairs.groups, confidence_level)
    is_distinguishable = p_value < 1 - confidence_level
    one, other = float(pairs.first.mean()), float(pairs.second.mean())
    # The test is exact and the interval is an approximation, so they may disagree at the limit.
    excludes_0 = low > 0 or high < 0
    decides = "" if excludes_0 == is_distinguishable else ", which takes precedence"
    shown = f"p = {p_value:.2g}" if p_value >= SMALLEST_P else f"p < {SMALLEST_P:g}"
    text = (
        f"{first} and {second} are {'' if is_distinguishable else 'not '}distinguishable: {one:.3f} against "
        f"{other:.3f} of {len(pairs.labels)} photos, difference {one - other:+.3f} ({confidence_level * 100:g}% "
        f"interval {low:+.3f} to {high:+.3f}), McNemar's test {shown}{decides}"
    )
    return PairedVerdict(is_distinguishable, one - other, text)
