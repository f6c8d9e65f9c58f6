"""The two MLflow runs of an inflation measurement: one for the honest split and one for the leaking split."""

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

from mlflow import MlflowClient
from mlflow.entities import Metric, Run

from darkroom.pipeline.stage import StageError
from darkroom.recording.result import git_tags
from darkroom.scores.scores import Accuracy
from darkroom.tracking.client import connect, create_run, log_metrics, log_params
from darkroom.tracking.failures import TRACKING_ERRORS, one_line
from darkroom.tracking.store import Store, experiment_name

INFLATION_TAG = "darkroom.inflation"
COUNTERPART_TAG = "darkroom.counterpart"
SPLIT_TAG = "darkroom.split"
# Tags of the MLflow UI: it lists a run below its parent, and shows the note as the run's description.
PARENT_TAG = "mlflow.parentRunId"
NOTE_TAG = "mlflow.note.content"
HONEST, LEAKING = "by photo", "by row"
# The metrics of an Accuracy, in the order of its fields.
SCORES = ("test_accuracy", "test_accuracy_low", "test_accuracy_high", "test_images")


class Outcome(NamedTuple):
    """The outcome of training on one split: the accuracy on its test images, and the learning curves by name."""

    accuracy: Accuracy
    curves: Mapping[str, list[float]]


class RecordedOutcome(NamedTuple):
    """The outcome that a run has recorded, without its curves."""

    run_id: str
    outcome: Outcome


@dataclass(frozen=True)
class InflationExperiment:
    """The experiment of these runs. It is separate from the results, where the inflated run would top every ranking."""

    client: MlflowClient
    experiment_id: str
    shown_address: str

    @classmethod
    def open(cls, store: Store) -> Self:
        """Open the store, before any training starts.

        Raises:
            StageError: the store cannot be used.
        """
        experiment = replace(store, experiment=f"{store.experiment}-inflation")
        return cls(*connect(experiment, "then run this again"), store.shown_address)

    def find(self, key: str) -> dict[str, RecordedOutcome]:
        """The honest and the leaking outcome of two finished, linked runs; empty if there are none."""
        found = self.client.search_runs([self.experiment_id], f"tags.`{INFLATION_TAG}` = '{key}'")
        runs = {run.info.run_id: run for run in found}
        for run in found:
            other = runs.get(run.data.tags[COUNTERPART_TAG])
            if other and run.data.tags[SPLIT_TAG] == HONEST:
                return {HONEST: read_outcome(run), LEAKING: read_outcome(other)}
        return {}

    def record(
        self, key: str, params: Mapping[str, str], data: Mapping[str, str], outcomes: Mapping[str, Outcome]
    ) -> list[str]:
        """Record both outcomes as two linked runs.

        Args:
            key: the key that `find` looks up.
            params: values by dotted name.
            data: DVC's digest of each output that the training used, by path.
            outcomes: the outcomes of the splits `HONEST` and `LEAKING`.

        Returns:
            the ids of the honest and the leaking run.

        Raises:
            StageError: the store failed.
        """
        tags = {**git_tags(), **{f"dvc.md5.{path}": digest for path, digest in data.items()}}
        tags["mlflow.source.name"] = "darkroom inflation"
        difference = outcomes[LEAKING].accuracy.value - outcomes[HONEST].accuracy.value
        runs: list[str] = []
        try:
            for split in (HONEST, LEAKING):
                runs.append(self.create(tags | {SPLIT_TAG: split}, f"split {split}"))
                log_outcome(self.client, runs[-1], params, outcomes[split], difference)
                self.client.set_tag(runs[-1], NOTE_TAG, describe(split, difference))
            self.link(runs, key)
        except TRACKING_ERRORS as error:
            with suppress(*TRACKING_ERRORS):
                for run_id in runs:
                    self.client.delete_run(run_id)
            raise StageError(f"the MLflow store {self.shown_address} failed ({one_line(error)})") from None
        return runs

    def create(self, tags: Mapping[str, str], name: str) -> str:
        run_id: str = create_run(self.client, self.experiment_id, experiment_name(), tags).info.run_id
        self.client.update_run(run_id, name=name)
        return run_id

    def link(self, runs: Sequence[str], key: str) -> None:
        """Link and finish both runs. The key is set last, so that `find` ignores incomplete runs."""
        honest, leaking = runs
        self.client.set_tag(leaking, PARENT_TAG, honest)
        for run_id, other in ((honest, leaking), (leaking, honest)):
            self.client.set_tag(run_id, COUNTERPART_TAG, other)
            self.client.set_terminated(run_id)
        for run_id in runs:
            self.client.set_tag(run_id, INFLATION_TAG, key)


def read_outcome(run: Run) -> RecordedOutcome:
    value, low, high, total = (run.data.metrics[name] for name in SCORES)
    return RecordedOutcome(run.info.run_id, Outcome(Accuracy(value, low, high, int(total)), {}))


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
    scores = dict(zip(SCORES, accuracy, strict=True)) | {"inflation": difference}
    points += [Metric(name, value, now, 0) for name, value in scores.items()]
    log_metrics(client, run_id, points)


def describe(split: str, difference: float) -> str:
    kind = "honest" if split == HONEST else "leaking: variants of one photo are in several subsets"
    return f"Split {split} ({kind}). Splitting by row changes the reported accuracy by {difference:+.3f}."
