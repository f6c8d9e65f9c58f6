"""The two MLflow runs that hold what a leaking split would report beside what an honest one does."""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

from mlflow import MlflowClient
from mlflow.entities import Metric

from stages.lib.result import git_tags
from stages.lib.scores import Accuracy
from stages.lib.stage import StageError
from stages.lib.store import Store, experiment_name
from stages.lib.tracking import TRACKING_FAULTS, connect, create_run, log_metrics, log_params, one_line

INFLATION_TAG = "darkroom.inflation"
COUNTERPART_TAG = "darkroom.counterpart"
SPLIT_TAG = "darkroom.split"
# What the MLflow UI reads: it draws a run below its parent, and shows a note as the run's description.
PARENT_TAG = "mlflow.parentRunId"
NOTE_TAG = "mlflow.note.content"
HONEST, LEAKING = "by photo", "by row"


class Outcome(NamedTuple):
    """What training on one split came to: the accuracy on its test images, and the curves by name."""

    accuracy: Accuracy
    curves: Mapping[str, list[float]]


@dataclass(frozen=True)
class InflationExperiment:
    """The experiment of these runs. It is not that of the results, in which the flattered one would lead every list."""

    client: MlflowClient
    experiment_id: str
    shown_address: str

    @classmethod
    def open(cls, store: Store) -> Self:
        """Open the store before anything is trained.

        Raises:
            StageError: it cannot be used.
        """
        experiment = replace(store, experiment=f"{store.experiment}-inflation")
        return cls(*connect(experiment, "then run this again"), store.shown_address)

    def record(
        self, params: Mapping[str, str], data: Mapping[str, str], honest: Outcome, leaking: Outcome
    ) -> tuple[list[str], str]:
        """Record both outcomes as runs that name each other, once.

        Args:
            params: dotted names and values.
            data: the outputs that were trained on, and DVC's digest of each.
            honest, leaking: the outcomes of the split by photo and of that by row.

        Returns:
            the ids of the honest and the leaking run, and "new" or "known".

        Raises:
            StageError: the store failed meanwhile.
        """
        outcomes = {HONEST: honest, LEAKING: leaking}
        result = [sorted(params.items()), sorted(data.items()), [outcome._asdict() for outcome in outcomes.values()]]
        key = hashlib.sha256(json.dumps(result).encode()).hexdigest()
        tags = {**git_tags(), **{f"dvc.md5.{path}": digest for path, digest in data.items()}}
        tags["mlflow.source.name"] = "python -m stages.inflation"
        runs: list[str] = []
        try:
            if known := self.find(key):
                return known, "known"
            for split in outcomes:
                runs.append(self.create(tags | {SPLIT_TAG: split}, f"split {split}"))
            difference = leaking.accuracy.value - honest.accuracy.value
            for run_id, (split, outcome) in zip(runs, outcomes.items(), strict=True):
                log_outcome(self.client, run_id, params, outcome, difference)
                self.client.set_tag(run_id, NOTE_TAG, describe(split, difference))
            self.link(runs, key)
        except TRACKING_FAULTS as error:
            with suppress(*TRACKING_FAULTS):
                for run_id in runs:
                    self.client.delete_run(run_id)
            raise StageError(f"the MLflow store {self.shown_address} failed ({one_line(error)})") from None
        return runs, "new"

    def find(self, key: str) -> list[str]:
        """The ids of two finished runs that name each other; none if there are no such."""
        found = self.client.search_runs([self.experiment_id], f"tags.`{INFLATION_TAG}` = '{key}'")
        counterparts = {run.info.run_id: run.data.tags[COUNTERPART_TAG] for run in found}
        honest = [run.info.run_id for run in found if run.data.tags[SPLIT_TAG] == HONEST]
        return next(([run_id, counterparts[run_id]] for run_id in honest if counterparts[run_id] in counterparts), [])

    def create(self, tags: Mapping[str, str], name: str) -> str:
        run_id: str = create_run(self.client, self.experiment_id, experiment_name(), tags).info.run_id
        self.client.update_run(run_id, name=name)
        return run_id

    def link(self, runs: Sequence[str], key: str) -> None:
        """Finish both runs; the key comes last, so that runs which were cut off count for nothing."""
        honest, leaking = runs
        self.client.set_tag(leaking, PARENT_TAG, honest)
        for run_id, other in ((honest, leaking), (leaking, honest)):
            self.client.set_tag(run_id, COUNTERPART_TAG, other)
            self.client.set_terminated(run_id)
        for run_id in runs:
            self.client.set_tag(run_id, INFLATION_TAG, key)


def log_outcome(
    client: MlflowClient, run_id: str, params: Mapping[str, str], outcome: Outcome, difference: float
) -> None:
    log_params(client, run_id, params)
    now = int(time.time() * 1000)
    points = [
        Metric(name, value, now, epoch)
        for name, values in outcome.curves.items()
        for epoch, value in enumerate(values, 1)
    ]
    accuracy = outcome.accuracy
    scores = {"test_accuracy": accuracy.value, "test_accuracy_low": accuracy.low, "test_accuracy_high": accuracy.high}
    points += [Metric(name, value, now, 0) for name, value in (scores | {"inflation": difference}).items()]
    log_metrics(client, run_id, points)


def describe(split: str, difference: float) -> str:
    what = "honest" if split == HONEST else "leaking: variants of a photo stand on both sides"
    return f"Split {split} ({what}). Splitting by row changes the reported accuracy by {difference:+.3f}."
