"""Make a recorded run's model the champion, if it is better than the one that is.

Better is what compare tells apart on the photos that both runs tested, at the higher accuracy, from a run that knows
all labels of the champion. Without a champion the run becomes the first.

Reads   MLflow     the run and that of the champion: the predictions of each
Writes  MLflow     the alias "champion" of the registered model, and the run's version where it has none
Run as  darkroom promote RUN [--confidence-level 0.95]

It exits with 0 if the run is the champion now, or was it already. It exits with 1 if the run is not better, and at any
other fault too: only the message tells these apart. The champion then stays.
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
    """Make a run's version the champion if it is better, and tell what has become of it. Who calls this holds
    `registry_lock`.

    Raises:
        StageError: it is not better, or nobody can tell.
    """
    version = register_version(client, store, run.info.run_id, run.data.tags[KEY_TAG])
    place = f"{show_run(run)} is version {version.version} of {version.name}"
    champion = find_aliased(client, store, CHAMPION)
    if champion is None:
        was = describe_first(run)
    elif champion.run_id == run.info.run_id:  # somebody may have made several versions of it by hand
        return f"{show_run(run)} is version {champion.version} of {champion.name}, and already its champion"
    else:
        was = f"was version {champion.version}"
        try:
            check_better(client, run, champion, confidence_level)
        except StageError as error:
            raise StageError(
                f"{error}; version {champion.version} of {champion.name} stays the champion; to make version "
                f"{version.version} the champion all the same: {promotion_by_hand(store, version)}"
            ) from None
    # The lock keeps out this machine's others alone.
    if not is_same(find_aliased(client, store, CHAMPION), champion):
        raise StageError(f"{place}, but another champion was set meanwhile; run this again")
    client.set_registered_model_alias(version.name, CHAMPION, version.version)
    return f"{place}, and now its champion ({was})"


def describe_first(run: Run) -> str:
    accuracy = run.data.metrics.get(TEST_ACCURACY)
    return "the first one" if accuracy is None else f"the first one; test accuracy {accuracy:.3f}"


def check_better(client: MlflowClient, run: Run, champion: ModelVersion, confidence_level: float) -> None:
    """Say what is compared and how it comes out; refuse a run that is not better than the champion.

    Raises:
        StageError: it is not, it had an easier task, or the two cannot be compared.
    """
    rival = find_version_run(client, champion)
    with TemporaryDirectory(prefix="darkroom-promote-") as files:
        first, second = (
            fetch_predictions(client, each, Path(files, place)) for each, place in ((run, "A"), (rival, "B"))
        )
    pairs = pair_photos(first, second)
    verdict = compare_accuracy(first.run, second.run, pairs, confidence_level)
    for line in (*describe_photos(first, second, pairs), verdict.text):
        print(f"promote: {line}", flush=True)
    if not verdict.first_is_better:
        why = "worse than" if verdict.is_distinguishable else "not distinguishable from"
        raise StageError(f"{first.run} is {why} the champion, {second.run}")
    # It could not confuse the photos that both tested with those of the labels that it lacks.
    missing = find_missing_labels(first.labels, second.labels)
    if first.labels and missing:  # earlier versions recorded no labels
        raise StageError(
            f"{first.run} does not know all labels of the champion, {second.run}: it lacks {name_some(missing, 5)}, "
            "so the photos that both tested were easier for it"
        )


def is_same(version: ModelVersion | None, other: ModelVersion | None) -> bool:
    """Whether two versions of the registered model are one, or both are none."""
    one, another = (None if each is None else int(each.version) for each in (version, other))
    return one == another


def promotion_by_hand(store: Store, version: ModelVersion) -> str:
    """The command that makes a version the champion, whatever it is worth."""
    # An address with a login is not shown; MLflow finds it in MLFLOW_TRACKING_URI, as this command has.
    address = json.dumps(store.address) if store.shown_address == store.address else ""
    arguments = ", ".join(
        json.dumps(text, ensure_ascii=False) for text in (version.name, CHAMPION, f"{version.version}")
    )
    code = f"from mlflow import MlflowClient; MlflowClient({address}).set_registered_model_alias({arguments})"
    return f"python -c {shlex.quote(code)}"


def check_experiment(client: MlflowClient, store: Store, run: Run) -> None:
    """Refuse a run that is in the store, but not in the experiment whose results are versions of the registered model.

    Raises:
        StageError: it is in another.
    """
    experiment = client.get_experiment(run.info.experiment_id).name
    if experiment != store.experiment:
        raise StageError(
            f"{show_run(run)} is of the experiment {experiment}, expected one of {store.experiment}, whose results are "
            f"the versions of {model_name(store)}; name the run's own experiment in MLFLOW_EXPERIMENT_NAME"
        )


def main(wanted: str, confidence_level: float) -> None:
    check_confidence_level(confidence_level)
    store = find_store()
    waiting = "promote: waiting for another that promotes or registers a model"
    with open_existing(store) as client, hold_lock(registry_lock(store), waiting):
        run = find_run(client, store, wanted)
        check_result(run)
        check_experiment(client, store, run)
        closing = promote(client, store, run, confidence_level)
    print(f"promote: {closing}")
