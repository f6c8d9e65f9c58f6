"""Compare two recorded runs on the photos that both tested, and test whether their accuracies differ.

A photo tends to be easy or hard for both runs, so a paired test is more sensitive than two accuracies with an interval
each. The command reports McNemar's test and an interval of the difference.

Reads   MLflow     two runs with a result: the predictions of each
Writes  nothing
Run as  darkroom compare RUN_A RUN_B [--confidence-level 0.95]
"""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from commands.text_table import align
from darkroom.runs.comparison import check_confidence_level, compare_accuracy, describe_photos, fetch_predictions
from darkroom.runs.lookup import find_run, open_existing
from darkroom.runs.paired_tests import count_cells
from darkroom.runs.pairs import PhotoPairs, pair_photos
from darkroom.tracking.store import find_store


def tabulate_cells(pairs: PhotoPairs) -> str:
    """Count the photos that each run classifies correctly, and that both, only one, or neither does."""
    cells = count_cells(pairs.first, pairs.second)
    counts = {
        "A correct": cells.both + cells.only_first,
        "B correct": cells.both + cells.only_second,
        "both correct": cells.both,
        "only A correct": cells.only_first,
        "only B correct": cells.only_second,
        "neither correct": cells.neither,
    }
    total = len(pairs.labels)
    rows = [[name, f"{count}", f"{count / total:.3f}"] for name, count in counts.items()]
    return align([["", "photos", "fraction"], *rows])


def tabulate_labels(pairs: PhotoPairs) -> str:
    """The accuracies of both runs for each label."""
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
            fetch_predictions(client, find_run(client, store, run), Path(files, name))
            for run, name in zip(wanted, "AB", strict=True)
        )
    pairs = pair_photos(first, second)

    for line in describe_photos(first, second, pairs):
        print(f"compare: {line}")
    print(f"\n{tabulate_cells(pairs)}\n\n{tabulate_labels(pairs)}\n")
    print(f"compare: {compare_accuracy(first.run, second.run, pairs, confidence_level).text}")
