"""Compare two recorded runs on the photos that both tested, and tell whether their accuracies can be told apart.

A photo is easy or hard for both, so pairs tell more than two accuracies with an interval each: McNemar's test, and an
interval of the difference. It is no stage of the pipeline.

Reads   MLflow     two runs with a result: the predictions of each
Writes  nothing
Run as  python -m commands.compare RUN_A RUN_B [--confidence-level 0.95]
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import numpy as np
import typer

from commands.text_table import align
from darkroom.pipeline.command_line import WHICH_RUN, make_app
from darkroom.pipeline.stage import run_command
from darkroom.runs.comparison import check_confidence_level, describe_photos, fetch_predictions, judge
from darkroom.runs.lookup import find_run, open_existing
from darkroom.runs.paired_tests import count_cells
from darkroom.runs.pairs import PhotoPairs, pair_photos
from darkroom.tracking.store import find_store

APP = make_app()


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


def main(wanted: Sequence[str], confidence_level: float) -> None:
    check_confidence_level(confidence_level)
    store = find_store()
    with TemporaryDirectory(prefix="darkroom-compare-") as files, open_existing(store) as client:
        first, second = (
            fetch_predictions(client, find_run(client, store, run), Path(files, place))
            for run, place in zip(wanted, "AB", strict=True)
        )
    pairs = pair_photos(first, second)

    for line in describe_photos(first, second, pairs):
        print(f"compare: {line}")
    print(f"\n{tabulate_cells(pairs)}\n\n{tabulate_labels(pairs)}\n")
    print(f"compare: {judge(first.run, second.run, pairs, confidence_level).text}")


@APP.command()
def start(
    run_a: Annotated[str, typer.Argument(help=WHICH_RUN)],
    run_b: Annotated[str, typer.Argument(help="Another's.")],
    confidence_level: Annotated[
        float, typer.Option(help="Of the interval; p must be below 1 less this to tell the runs apart.")
    ] = 0.95,
) -> None:
    """Compare two recorded runs on the photos that both tested, and tell whether their accuracies can be told apart."""
    run_command("compare", partial(main, (run_a, run_b), confidence_level))


if __name__ == "__main__":
    APP()
