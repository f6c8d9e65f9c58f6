"""Two recorded runs on the photos that both tested: what is compared, and which of them is better."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from mlflow import MlflowClient
from mlflow.entities import Run

from darkroom.pipeline.paths import EVALUATE_PREDICTIONS
from darkroom.pipeline.stage import StageError, name_some
from darkroom.runs.lookup import check_result, lay_file
from darkroom.runs.paired_tests import difference_interval, mcnemar_p_value
from darkroom.runs.pairs import PhotoPairs, RunPredictions, read_run_predictions
from darkroom.tracking.store import ID_CHARACTERS

SMALLEST_P = 1e-99


class PairedVerdict(NamedTuple):
    """Whether two runs can be told apart, the first accuracy less the second one, and both in a sentence."""

    is_distinguishable: bool
    difference: float
    text: str

    @property
    def first_is_better(self) -> bool:
        return self.is_distinguishable and self.difference > 0


def check_confidence_level(confidence_level: float) -> None:
    """Refuse what is no level of a test or an interval.

    Raises:
        StageError: it is not between 0 and 1.
    """
    if not 0 < confidence_level < 1:
        raise StageError(
            f"--confidence-level: expected a number above 0 and below 1, such as 0.95, got {confidence_level:g}"
        )


def show_run(run: Run) -> str:
    """A run in a sentence: the beginning of its id, and its name."""
    return f"run {run.info.run_id[:ID_CHARACTERS]} ({run.info.run_name})"


def fetch_predictions(client: MlflowClient, run: Run, folder: Path) -> RunPredictions:
    """Fetch the predictions of a run with a result into `folder`, and read them.

    Raises:
        StageError: it has no result or no predictions.
    """
    check_result(run)
    lay_file(client, run, EVALUATE_PREDICTIONS, folder)
    return read_run_predictions(folder / EVALUATE_PREDICTIONS, show_run(run))


def describe_photos(first: RunPredictions, second: RunPredictions, pairs: PhotoPairs) -> list[str]:
    """What is compared, and what to know about it, a line each."""
    total, groups = len(pairs.labels), len(set(pairs.groups))
    same = ", which is the same" if first.run == second.run else ""
    lines = [
        f"A is {first.run}, B is {second.run}{same}",
        f"A tested {len(first.rows)} photos, B {len(second.rows)}; compared on the {total} that both tested",
    ]
    if len(first.rows) == len(second.rows) == total:
        lines[-1] = f"A and B tested the same {total} photos"
    if pairs.relabelled:
        lines.append(f"left out: {pairs.relabelled} photos that both tested, with another label in each")
    unknowing = [name for name, run in (("A", first), ("B", second)) if not run.knows_content]
    if unknowing:
        lines.append(
            f"{' and '.join(unknowing)} did not record what the photos' files hold: names tell which are the same"
        )
    if groups < total:
        lines.append(f"photos that belong together, as near duplicates do, count together: {groups} groups")
    if set(first.labels) != set(second.labels):
        lines.append(describe_labels(first.labels, second.labels))
    return lines


def describe_labels(first: Sequence[str], second: Sequence[str]) -> str:
    alone = [
        f"only {name}: {name_some(labels, 5)}"
        for name, labels in (("A", find_missing_labels(second, first)), ("B", find_missing_labels(first, second)))
        if labels
    ]
    easier = "; fewer labels are easier to tell apart" if len(first) != len(second) else ""
    return f"A chose among {len(first)} labels, B among {len(second)} ({'; '.join(alone)}){easier}"


def find_missing_labels(labels: Sequence[str], expected: Sequence[str]) -> list[str]:
    return sorted(set(expected) - set(labels))


def compare_accuracy(first: str, second: str, pairs: PhotoPairs, confidence_level: float) -> PairedVerdict:
    """Tell whether two runs can be told apart: if McNemar's test rejects that they are equally good."""
    p_value = mcnemar_p_value(pairs.first, pairs.second, pairs.groups)
    low, high = difference_interval(pairs.first, pairs.second, pairs.groups, confidence_level)
    is_distinguishable = p_value < 1 - confidence_level
    one, other = float(pairs.first.mean()), float(pairs.second.mean())
    # The test is exact and the interval is not, so at the edge they may disagree.
    excludes_0 = low > 0 or high < 0
    decides = "" if excludes_0 == is_distinguishable else ", which decides"
    shown = f"p = {p_value:.2g}" if p_value >= SMALLEST_P else f"p < {SMALLEST_P:g}"
    text = (
        f"{first} and {second} are {'' if is_distinguishable else 'not '}distinguishable: {one:.3f} against "
        f"{other:.3f} of {len(pairs.labels)} photos, difference {one - other:+.3f} ({confidence_level * 100:g}% "
        f"interval {low:+.3f} to {high:+.3f}), McNemar's test {shown}{decides}"
    )
    return PairedVerdict(is_distinguishable, one - other, text)
