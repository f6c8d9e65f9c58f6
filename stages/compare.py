"""Compare two recorded runs on the photos that both tested, and tell whether their accuracies can be told apart.

A photo is easy or hard for both, so pairs tell more than two accuracies with an interval each: McNemar's test, and an
interval of the difference. It is no stage of the pipeline.

Reads   MLflow     two runs with a result: the predictions of each
Writes  nothing
Run as  python -m stages.compare RUN_A RUN_B [--confidence-level 0.95]
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import numpy as np
import typer
from mlflow import MlflowClient

from stages.lib.command_line import make_app
from stages.lib.paired_scores import count_cells, difference_interval, mcnemar_p_value
from stages.lib.paths import EVALUATE_PREDICTIONS
from stages.lib.photo_pairs import PhotoPairs, RunPredictions, pair_photos, read_predictions
from stages.lib.run_lookup import check_result, find_run, lay_file, open_existing
from stages.lib.stage import StageError, name_some, run_stage
from stages.lib.store import Store, find_store

SMALLEST_P = 1e-99
ID_CHARACTERS = 8
APP = make_app()


def fetch_predictions(client: MlflowClient, store: Store, wanted: str, folder: Path) -> RunPredictions:
    """Fetch the predictions of a run with a result into `folder`, and read them.

    Raises:
        StageError: there is no such run or several, or it has no result or no predictions.
    """
    run = find_run(client, store, wanted)
    check_result(run)
    lay_file(client, run, EVALUATE_PREDICTIONS, folder)
    return read_predictions(
        folder / EVALUATE_PREDICTIONS, f"run {run.info.run_id[:ID_CHARACTERS]} ({run.info.run_name})"
    )


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
        f"only {name}: {name_some(sorted(set(ours) - set(others)), 5)}"
        for name, ours, others in (("A", first, second), ("B", second, first))
        if set(ours) - set(others)
    ]
    easier = "; fewer labels are easier to tell apart" if len(first) != len(second) else ""
    return f"A chose among {len(first)} labels, B among {len(second)} ({'; '.join(alone)}){easier}"


def tabulate_cells(pairs: PhotoPairs) -> str:
    """How many photos each run has right, and which ones: both, one alone, neither."""
    cells = count_cells(pairs.first, pairs.second)
    counts = {
        "A right": cells.both + cells.only_first,
        "B right": cells.both + cells.only_second,
        "both right": cells.both,
        "only A right": cells.only_first,
        "only B right": cells.only_second,
        "both wrong": cells.neither,
    }
    total = len(pairs.labels)
    return align([["", "photos", "share"], *([name, f"{n}", f"{n / total:.3f}"] for name, n in counts.items())])


def tabulate_labels(pairs: PhotoPairs) -> str:
    """The accuracies on the photos of each label."""
    table = [["label", "photos", "A", "B", "A - B"]]
    for label in np.unique(pairs.labels).tolist():
        chosen = pairs.labels == label
        first, second = pairs.first[chosen].mean(), pairs.second[chosen].mean()
        table.append([label, f"{chosen.sum()}", f"{first:.3f}", f"{second:.3f}", f"{first - second:+.3f}"])
    return align(table)


def align(table: Sequence[Sequence[str]]) -> str:
    """Lay out rows of cells: the first column to the left, all others to the right."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in table
    )


def judge(first: str, second: str, pairs: PhotoPairs, confidence_level: float) -> str:
    """Say in one sentence whether two runs can be told apart: if McNemar's test rejects that they are equally good."""
    p_value = mcnemar_p_value(pairs.first, pairs.second, pairs.groups)
    low, high = difference_interval(pairs.first, pairs.second, pairs.groups, confidence_level)
    verdict = "distinguishable" if p_value < 1 - confidence_level else "not distinguishable"
    one, other = pairs.first.mean(), pairs.second.mean()
    # The test is exact and the interval is not, so at the edge they may disagree.
    excludes_0 = low > 0 or high < 0
    decides = "" if excludes_0 == (verdict == "distinguishable") else ", which decides"
    shown = f"p = {p_value:.2g}" if p_value >= SMALLEST_P else f"p < {SMALLEST_P:g}"
    return (
        f"{first} and {second} are {verdict}: {one:.3f} against {other:.3f} of {len(pairs.labels)} photos, difference "
        f"{one - other:+.3f} ({confidence_level * 100:g}% interval {low:+.3f} to {high:+.3f}), McNemar's test "
        f"{shown}{decides}"
    )


def main(wanted: Sequence[str], confidence_level: float) -> None:
    if not 0 < confidence_level < 1:
        raise StageError(
            f"--confidence-level: expected a number above 0 and below 1, such as 0.95, got {confidence_level:g}"
        )
    store = find_store()
    with TemporaryDirectory(prefix="darkroom-compare-") as files, open_existing(store) as client:
        first, second = (
            fetch_predictions(client, store, run, Path(files, place)) for run, place in zip(wanted, "AB", strict=True)
        )
    pairs = pair_photos(first, second)

    for line in describe_photos(first, second, pairs):
        print(f"compare: {line}")
    print(f"\n{tabulate_cells(pairs)}\n\n{tabulate_labels(pairs)}\n")
    print(f"compare: {judge(first.run, second.run, pairs, confidence_level)}")


@APP.command()
def start(
    run_a: Annotated[str, typer.Argument(help="A run's id or name, or the beginning of one.")],
    run_b: Annotated[str, typer.Argument(help="Another's.")],
    confidence_level: Annotated[
        float, typer.Option(help="Of the interval; p must be below 1 less this to tell the runs apart.")
    ] = 0.95,
) -> None:
    """Compare two recorded runs on the photos that both tested, and tell whether their accuracies can be told apart."""
    run_stage("compare", partial(main, (run_a, run_b), confidence_level))


if __name__ == "__main__":
    APP()
