"""Measure how much the common mistake would flatter this data: splitting the stored images at random, row by row.

After augmentation the variants of a photo are many rows, and a split by row puts some of them on both sides: the
network is asked about photos that it was trained on. This trains the current params twice, on such a split and on the
honest one. It is no stage of the pipeline.

Reads   params.yaml               split, train, evaluate
        dvc.lock                  the params that data/ was made with
        data/augment/images.npy   uint8 pixels (rows, height, width, channels)
        data/augment/images.csv   the label of each row
        data/split/               the honest split: train.npy, validation.npy, test.npy
Writes  MLflow                    two runs that name each other, in the experiment "<experiment>-inflation"
Run as  python -m stages.inflation    (after `dvc repro split`)
"""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from sklearn.model_selection import train_test_split

from stages.lib.arrays import ClassNumbers, RowNumbers
from stages.lib.batches import Batches
from stages.lib.dataset import SUBSETS, StoredImages, read_index, read_row_numbers
from stages.lib.inflation_runs import InflationExperiment, Outcome
from stages.lib.live_run import LiveRun
from stages.lib.lockfile import Stages, check_finished, flatten_params, output_digests, read_stages, recorded_params
from stages.lib.params import EvaluateParams, SplitParams, TrainParams, read_document, read_params
from stages.lib.paths import AUGMENT_IMAGES, AUGMENT_INDEX, DVC_LOCK, PARAMS, subset_rows
from stages.lib.scores import measure_accuracy
from stages.lib.stage import StageError, name_some, run_stage
from stages.lib.store import find_store
from stages.lib.training import EpochReport, number_labels, train_network

DATA_STAGES = ("acquire", "augment", "split")


def split_rows(
    targets: ClassNumbers, validation_fraction: float, test_fraction: float, seed: int
) -> dict[str, RowNumbers]:
    """Split all rows at random in the shares of the params, stratified by class: the mistake that is measured.

    Raises:
        StageError: there are too few rows.
    """
    rows = np.arange(len(targets))
    share = validation_fraction / (1 - test_fraction)
    try:
        rest, test = train_test_split(rows, test_size=test_fraction, stratify=targets, random_state=seed)
        train, validation = train_test_split(rest, test_size=share, stratify=targets[rest], random_state=seed)
    except ValueError as error:
        raise StageError(
            f"{len(rows)} images of {len(np.unique(targets))} classes are too few to be split by row ({error}); "
            "add photos, or store more variants with augment.rotation_degrees"
        ) from None
    return {"train": train, "validation": validation, "test": test}


def train_and_score(
    settings: TrainParams,
    images: StoredImages,
    rows: Mapping[str, RowNumbers],
    targets: ClassNumbers,
    scoring: EvaluateParams,
) -> Outcome:
    """Train on the rows of one split, and score the network on its test rows."""
    keras.utils.clear_session()  # the network that was trained before is of no more use
    fitted = {subset: rows[subset] for subset in ("train", "validation")}
    report = EpochReport(LiveRun(), settings.epochs)
    trained = train_network(settings, images, fitted, targets, int(targets.max()) + 1, [report])
    test = Batches(images, rows["test"], targets[rows["test"]], scoring.batch_size)
    predicted = trained.network.predict(test, verbose=0).argmax(axis=1)
    return Outcome(measure_accuracy(predicted, test.targets, scoring.confidence_level), trained.curves)


def check_freshness(stages: Stages, document: Mapping[str, Any]) -> None:
    """Refuse data that was made with other params than those that are to be judged.

    Raises:
        StageError: with the params that differ.
    """
    check_finished(stages, "split", DVC_LOCK)
    made_with = recorded_params({name: stages[name] for name in DATA_STAGES if name in stages})
    wanted = flatten_params({name: document.get(name) for name in DATA_STAGES})
    changed = sorted(name for name, _ in made_with.items() ^ wanted.items())
    if changed:
        raise StageError(f"data/ was made with other params ({name_some(sorted(set(changed)))}): run `dvc repro split`")


def describe_outcomes(honest: Outcome, leaking: Outcome, level: float) -> str:
    named = {"split by photo (honest)": honest.accuracy, "split by row (the mistake)": leaking.accuracy}
    lines = [
        f"{name:<28}{score.value:.3f} ({level:.0%} interval {score.low:.3f} to {score.high:.3f}), {score.total} images"
        for name, score in named.items()
    ]
    difference = leaking.accuracy.value - honest.accuracy.value
    lines.append(f"{'the mistake flatters by':<28}{difference:+.3f}")
    lines.append("(the interval by row is too narrow as well: it takes variants of one photo for independent)")
    return "\n".join(lines)


def main() -> None:
    split, train = read_params("split", SplitParams), read_params("train", TrainParams)
    evaluate = read_params("evaluate", EvaluateParams)

    document = read_document(PARAMS)
    stages = read_stages(DVC_LOCK)
    check_freshness(stages, document)
    index = read_index(AUGMENT_INDEX)
    images = StoredImages(AUGMENT_IMAGES, len(index))
    _, targets = number_labels([row.label for row in index])
    by_photo = {subset: read_row_numbers(subset_rows(subset), len(index)) for subset in SUBSETS}

    store = find_store()
    experiment = InflationExperiment.open(store)
    by_row = split_rows(targets, split.validation_fraction, split.test_fraction, split.seed)
    outcomes = []
    for name, rows in {"by photo": by_photo, "by row": by_row}.items():
        print(f"inflation: training on the split {name}, {len(rows['train'])} rows", flush=True)
        outcomes.append(train_and_score(train, images, rows, targets, evaluate))
    honest, leaking = outcomes
    print(describe_outcomes(honest, leaking, evaluate.confidence_level), flush=True)

    params = flatten_params({name: document[name] for name in (*DATA_STAGES, "train", "evaluate")})
    data = output_digests({name: stages[name] for name in DATA_STAGES})
    runs, how = experiment.record(params, data, honest, leaking)
    print(f"inflation: -> runs {' and '.join(runs)} of {store.shown_address}, {how}")


if __name__ == "__main__":
    run_stage("inflation", main)
