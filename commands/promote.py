"""Make a recorded run's model the champion, if it is better than the current champion.

A run is better if its accuracy is significantly higher on the photos that both runs tested (see compare), and if it
knows all labels of the champion. Without a champion, the run becomes the first one.

Reads   MLflow     the run and that of the champion: the predictions of each
Writes  MLflow     the alias "champion" of the registered model, and the run's version where it has none
Run as  darkroom promote RUN [--confidence-level 0.95]

The exit code is 0 if the run is the champion now, or was it already. It is 1 if the run is not better, or if an error
occurred: only the message distinguishes these cases. In both, the champion stays.
"""

import json
import shlex
from pathlib import Path
from tempfile import TemporaryDirectory

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion

from darkroom.pipeline.stage import StageError, hold_lock, name_some
from darkroom.runs.comparison import (
    check_confidence_level,
    compare_accuracy,
    describe_photos,
    fetch_predictions,
    find_missing_labels,
    show_run,
)
from darkroom.runs.lookup import check_result, find_run, open_existing
from darkroom.runs.pairs import pair_photos
from darkroom.runs.registry import CHAMPION, find_aliased, find_version_run, model_name, register_version, registry_lock
from darkroom.tracking.store import KEY_TAG, TEST_ACCURACY, Store, find_store


def promote(client: MlflowClient, store: Store, run: Run, confidence_level: float) -> str:
    """Make a run's version the champion if it is better, and return the outcome as a sentence. The caller holds
    `registry_lock`.

    Raises:
        StageError: the run is not better, or cannot be compared with the champion.
    """
    version = register_version(client, store, run.info.run_id, run.data.tags[KEY_TAG])
    candidate = f"{show_run(run)} is version {version.version} of {version.name}"
    champion = find_aliased(client, store, CHAMPION)
    if champion is None:
        previous = describe_first(run)
    elif champion.run_id == run.info.run_id:  # a run may have several versions that were created by hand
        return f"{show_run(run)} is version {champion.version} of {champion.name}, and already its champion"
    else:
        previous = f"previously version {champion.version}"
        try:
            check_better(client, run, champion, confidence_level)
        except StageError as error:
            raise StageError(
                f"{error}; version {champion.version} of {champion.name} stays the champion; to make version "
                f"{version.version} the champion anyway: {promotion_by_hand(store, version)}"
            ) from None
    # The lock only excludes other processes of this machine.
    if not is_same(find_aliased(client, store, CHAMPION), champion):
        raise StageError(f"{candidate}, but another champion was set in the meantime; run this again")
    client.set_registered_model_alias(version.name, CHAMPION, version.version)
    return f"{candidate}, and now its champion ({previous})"


def describe_first(run: Run) -> str:
    accuracy = run.data.metrics.get(TEST_ACCURACY)
    return "the first one" if accuracy is None else f"the first one, test accuracy {accuracy:.3f}"


def check_better(client: MlflowClient, run: Run, champion: ModelVersion, confidence_level: float) -> None:
    """Compare a run with the champion, print the comparison, and reject a run that is not better.

    Raises:
        StageError: the run is not better, it had an easier task, or the two cannot be compared.
    """
    rival = find_version_run(client, champion)
    with TemporaryDirectory(prefix="darkroom-promote-") as files:
        first, second = (
            fetch_predictions(client, each, Path(files, name)) for each, name in ((run, "A"), (rival, "B"))
        )
    pairs = pair_photos(first, second)
    verdict = compare_accuracy(first.run, second.run, pairs, confidence_level)
    for line in (*describe_photos(first, second, pairs), verdict.text):
        print(f"promote: {line}", flush=True)
    if not verdict.first_is_better:
        why = "worse than" if verdict.is_distinguishable else "not distinguishable from"
        raise StageError(f"{first.run} is {why} the champion, {second.run}")
    # With fewer labels to choose from, the run had an easier task on the photos that both tested.
    missing = find_missing_labels(first.labels, second.labels)
    if first.labels and missing:  # earlier versions recorded no labels
        raise StageError(
            f"{first.run} lacks labels of the champion, {second.run} ({name_some(missing, 5)}), so the photos that "
            "both tested were easier for it"
        )


def is_same(version: ModelVersion | None, other: ModelVersion | None) -> bool:
    """Whether both are the same version of the registered model, or both None."""
    first, second = (None if each is None else int(each.version) for each in (version, other))
    return first == second


def promotion_by_hand(store: Store, version: ModelVersion) -> str:
    """A shell command that makes a version the champion without any comparison."""
    # An address with a password is left out: MLflow reads it from MLFLOW_TRACKING_URI, as this command did.
    address = json.dumps(store.address) if store.shown_address == store.address else ""
    arguments = ", ".join(
        json.dumps(value, ensure_ascii=False) for value in (version.name, CHAMPION, f"{version.version}")
    )
    code = f"from mlflow import MlflowClient; MlflowClient({address}).set_registered_model_alias({arguments})"
    return f"python -c {shlex.quote(code)}"


def check_experiment(client: MlflowClient, store: Store, run: Run) -> None:
    """Reject a run that does not belong to the experiment whose results are the versions of the registered model.

    Raises:
        StageError: it belongs to another experiment.
    """
    experiment = client.get_experiment(run.info.experiment_id).name
    if experiment != store.experiment:
        raise StageError(
            f"{show_run(run)} belongs to the experiment {experiment}, expected a run of {store.experiment}, whose "
            f"results are the versions of {model_name(store)}; set MLFLOW_EXPERIMENT_NAME to the run's experiment"
        )


def main(wanted: str, confidence_level: float) -> None:
    check_confidence_level(confidence_level)
    store = find_store()
    waiting = "promote: waiting for another process that promotes or registers a model"
    with open_existing(store) as client, hold_lock(registry_lock(store), waiting):
        run = find_run(client, store, wanted)
        check_result(run)
        check_experiment(client, store, run)
        closing = promote(client, store, run, confidence_level)
    print(f"promote: {closing}")
