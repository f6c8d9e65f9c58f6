"""Measure how much a common mistake would inflate the accuracy: splitting the stored images at random, row by row.

After augmentation, each photo has several rows of variants. A split by row puts variants of one photo into both the
training and the test subset, so the network is tested on photos that it was trained on (data leakage). This command
trains with the current params twice, on such a split and on the honest one.

Reads   params.yaml               split, train, evaluate
        dvc.lock                  the inputs that data/ was computed from
        data/augment/images.npy   uint8 pixels (images, height, width, channels)
        data/augment/images.csv   the label of each image
        data/split/               the honest split: train.npy, validation.npy, test.npy; the groups in photos.csv
Writes  MLflow                    two linked runs in the experiment "<experiment>-inflation"
Run as  darkroom inflation    (after `dvc repro split`)
"""

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.model_selection import train_test_split

from commands.inflation_runs import HONEST, LEAKING, InflationExperiment, Outcome
from darkroom.models.batches import Batches
from darkroom.models.targets import make_targets
from darkroom.params.evaluate import EvaluateParams
from darkroom.params.section import read_document, read_params
from darkroom.params.split import SplitParams
from darkroom.params.train import TrainParams
from darkroom.pipeline.arrays import ClassIds, RowNumbers
from darkroom.pipeline.dataset import StoredImages, read_index, read_row_numbers
from darkroom.pipeline.paths import AUGMENT_IMAGES, AUGMENT_INDEX, DVC_LOCK, LOCK_FILE, PARAMS, SUBSETS, subset_rows
from darkroom.pipeline.stage import StageError, name_some
from darkroom.scores.scores import measure_accuracy
from darkroom.scores.trained_model import read_photo_groups
from darkroom.tracking.live_run import LiveRun
from darkroom.tracking.lockfile import (
    DATA_STAGES,
    Stages,
    check_finished,
    file_digest,
    flatten_params,
    output_digests,
    read_stages,
)
from darkroom.tracking.store import find_store
from darkroom.training.distribution import count_workers
from darkroom.training.phase import EpochReport
from darkroom.training.training import features_folder, most_epochs, number_labels, train_network
from darkroom.training.training_data import TrainingData

CODE = ("commands", "darkroom", "stages")


def split_rows(
    class_ids: ClassIds, validation_fraction: float, test_fraction: float, seed: int
) -> dict[str, RowNumbers]:
    """Split all rows at random with the fractions of the params, stratified by class: the mistake to measure.

    Raises:
        StageError: there are too few rows.
    """
    rows = np.arange(len(class_ids))
    fraction = validation_fraction / (1 - test_fraction)
    try:
        rest, test = train_test_split(rows, test_size=test_fraction, stratify=class_ids, random_state=seed)
        train, validation = train_test_split(rest, test_size=fraction, stratify=class_ids[rest], random_state=seed)
    except ValueError as error:
        raise StageError(
            f"{len(rows)} images of {len(np.unique(class_ids))} classes are too few for a split by row ({error}); "
            "add photos, or store more variants with augment.rotation_degrees"
        ) from None
    return {"train": train, "validation": validation, "test": test}


def train_and_score(
    params: TrainParams, data: TrainingData, test: RowNumbers, groups: Sequence[str], scoring: EvaluateParams
) -> Outcome:
    """Train on one split, and score the network on its test rows; `groups` has the group of each test row."""
    report = EpochReport(LiveRun(), most_epochs(params))
    trained = train_network(params, data, [report], features_folder())
    class_ids = data.class_ids[test]
    batches = Batches(data.images, test, make_targets(class_ids, data.classes), scoring.batch_size)
    predicted = trained.network.model.predict(batches, verbose=0).argmax(axis=1)
    return Outcome(measure_accuracy(predicted == class_ids, groups, scoring.confidence_level), trained.curves)


def check_freshness(stages: Stages) -> None:
    """Reject data that is out of date with the current photos, params or code, according to DVC.

    Raises:
        StageError: something has changed; the message names it.
    """
    check_finished(stages, "split", DVC_LOCK)
    command = [sys.executable, "-m", "dvc", "status", "--with-deps", "--json", "split"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise StageError(f"`dvc status` failed: {done.stderr.strip()}")
    changed = sorted(set(list_leaves(json.loads(done.stdout))))
    if changed:
        raise StageError(
            f"data/ is not up to date (changed: {name_some(changed)}): run `dvc repro split`, then run this again"
        )


def list_leaves(status: Any) -> Iterator[str]:
    """The names of what has changed, from DVC's nested report: {stage: [{"changed deps": {name: "modified"}}]}."""
    for name, inner in status.items() if isinstance(status, dict) else [("", entry) for entry in status]:
        if isinstance(inner, str):
            yield name or inner
        else:
            yield from list_leaves(inner)


def digest_inputs(data: Mapping[str, str], params: Mapping[str, str]) -> str:
    """A digest of data, params, code and packages: with the same digest, training again gives the same outcomes."""
    modules = sorted(file for folder in CODE for file in Path(folder).rglob("*.py") if file.name != "version.py")
    files = [LOCK_FILE, *modules]
    code = {path.as_posix(): file_digest(path) for path in files}
    return hashlib.sha256(json.dumps([data, params, code], sort_keys=True).encode()).hexdigest()


def describe_outcomes(honest: Outcome, leaking: Outcome, level: float) -> str:
    named = {"split by photo (honest)": honest.accuracy, "split by row (leaking)": leaking.accuracy}
    lines = [
        f"{name:<28}{score.value:.3f} ({level * 100:g}% interval {score.low:.3f} to {score.high:.3f}), "
        f"{score.total} images"
        for name, score in named.items()
    ]
    difference = leaking.accuracy.value - honest.accuracy.value
    lines.append(f"{'inflation':<28}{difference:+.3f}")
    lines.append("(the interval by row is too narrow: it treats variants of one photo as independent)")
    if leaking.accuracy.low <= honest.accuracy.high:
        lines.append("(the intervals overlap: there are too few images to show a difference)")
    return "\n".join(lines)


def main() -> None:
    if count_workers() > 1:
        raise StageError("training on several hosts is not supported, got a TF_CONFIG with several; unset it")
    split, train = read_params("split", SplitParams), read_params("train", TrainParams)
    evaluate = read_params("evaluate", EvaluateParams)

    document = read_document(PARAMS)
    stages = read_stages(DVC_LOCK)
    check_freshness(stages)
    index = read_index(AUGMENT_INDEX)
    images = StoredImages(AUGMENT_IMAGES, len(index))
    labels, class_ids = number_labels([row.label for row in index])
    splits = {HONEST: {subset: read_row_numbers(subset_rows(subset), len(index)) for subset in SUBSETS}}
    splits[LEAKING] = split_rows(class_ids, split.validation_fraction, split.test_fraction, split.seed)

    store = find_store()
    params = flatten_params({name: document[name] for name in (*DATA_STAGES, "train", "evaluate")})
    digests = output_digests({name: stages[name] for name in DATA_STAGES})
    key = digest_inputs(digests, params)
    experiment = InflationExperiment.open(store)
    known = experiment.find(key)
    if known:
        outcomes = {name: run.outcome for name, run in known.items()}
    else:
        outcomes = {}
        for name, rows in splits.items():
            print(f"inflation: training on the split {name}, {len(rows['train'])} rows", flush=True)
            tested = [index[row].photo for row in rows["test"]]
            # A split by row counts each row as an independent photo.
            groups = read_photo_groups(tested) if name == HONEST else list(map(str, rows["test"]))
            subsets = {subset: rows[subset] for subset in ("train", "validation")}
            data = TrainingData(images, subsets, class_ids, len(labels))
            outcomes[name] = train_and_score(train, data, rows["test"], groups, evaluate)

    print(describe_outcomes(outcomes[HONEST], outcomes[LEAKING], evaluate.confidence_level), flush=True)
    runs = [run.run_id for run in known.values()] or experiment.record(key, params, digests, outcomes)
    print(f"inflation: -> runs {' and '.join(runs)} of {store.shown_address}, {'known' if known else 'new'}")
