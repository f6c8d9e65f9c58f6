"""The MLflow run that stands for a result: found, adopted from a training or created, and completed.

A run counts as recorded when it has its result's key, which is written last. Everything before can be cut off and
done again.
"""

import time
from pathlib import Path

from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Run, RunStatus

from darkroom.pipeline.stage import StageError, hold_lock
from darkroom.recording.logged_model import log_model
from darkroom.recording.result import Result, RunOrigin
from darkroom.runs.registry import open_registry, register_version, registry_lock, show_places
from darkroom.tracking.client import (
    MODEL_TAG,
    TRACKING_FAULTS,
    connect,
    create_run,
    log_metrics,
    log_params,
    one_line,
    storable_params,
)
from darkroom.tracking.live_run import is_abandoned
from darkroom.tracking.store import EXPERIMENT_TAG, KEY_TAG, LIVE_TAG, Store

RESTORED_TAG = "darkroom.restored"
# A training that came to its end waits for the record stage in this state; a record stage cut off just before its
# last step leaves the run in the other.
KILLED = RunStatus.to_string(RunStatus.KILLED)
UNRECORDED = (RunStatus.to_string(RunStatus.RUNNING), RunStatus.to_string(RunStatus.FINISHED))


def record_result(store: Store, result: Result) -> tuple[str, RunOrigin]:
    """Make sure that exactly one run holds this result, and give the run's id.

    Raises:
        StageError: the store cannot be used; what was not recorded is recorded next time.
    """
    client, experiment_id = connect(store)
    try:
        # One at a time on this machine, or two that restored the same training could adopt the same live run.
        with FileLock(store.locks_folder / "record.lock"):
            run, origin = adopt_or_create_run(client, experiment_id, result)
            if origin != RunOrigin.KNOWN:
                complete_run(client, store, run, result)
            close_leftovers(client, store, experiment_id, run, result)
    except TRACKING_FAULTS as error:
        raise StageError(
            f"the MLflow store {show_places(store)} failed ({one_line(error)}); when it works again, `dvc repro` "
            "records the result without training again"
        ) from None
    return run.info.run_id, origin


def adopt_or_create_run(client: MlflowClient, experiment_id: str, result: Result) -> tuple[Run, RunOrigin]:
    for run in search_runs(client, experiment_id, KEY_TAG, result.key):
        if run.info.status == RunStatus.to_string(RunStatus.FINISHED):
            return run, RunOrigin.KNOWN
    candidates = [
        run for run in search_runs(client, experiment_id, MODEL_TAG, result.model_digest) if is_live_of(run, result)
    ]
    for run in sorted(candidates, key=lambda run: not is_same_experiment(run, result)):
        return run, RunOrigin.RESTORED if RESTORED_TAG in run.data.tags else RunOrigin.ADOPTED
    tags = {MODEL_TAG: result.model_digest, RESTORED_TAG: "true"}
    return create_run(client, experiment_id, result.experiment, tags), RunOrigin.RESTORED


def search_runs(client: MlflowClient, experiment_id: str, tag: str, value: str) -> list[Run]:
    """List the runs with this tag, the newest first; deleted runs are not among them."""
    return list(client.search_runs([experiment_id], f"tags.`{tag}` = '{value}'", order_by=["start_time DESC"]))


def is_live_of(run: Run, result: Result) -> bool:
    """Whether a run that made the same model also has the same params as far as it has any, and no result yet."""
    return (
        run.info.status in UNRECORDED
        and KEY_TAG not in run.data.tags
        and run.data.params.items() <= storable_params(result.params).items()
    )


def is_same_experiment(run: Run, result: Result) -> bool:
    return run.data.tags.get(EXPERIMENT_TAG, "") == result.experiment


def complete_run(client: MlflowClient, store: Store, run: Run, result: Result) -> None:
    """Bring a run up to its result, with its model in the registry, and mark it with the result's key last of all."""
    run_id = run.info.run_id
    log_params(client, run_id, result.params)
    log_missing_metrics(client, run, result)
    client.log_inputs(run_id, [describe_dataset(name, *dataset) for name, dataset in result.datasets.items()])
    for file in result.artifacts:
        client.log_artifact(run_id, str(file), artifact_folder(file))
    for name, value in result.tags.items():
        client.set_tag(run_id, name, value)
    if result.experiment:
        client.update_run(run_id, name=result.experiment)
    log_model(client, run, result.params)
    with hold_lock(registry_lock(store), "record: waiting for a promote that has not ended"):
        register_version(open_registry(store), store, run_id, result.key)
    client.set_terminated(run_id)
    client.set_tag(run_id, KEY_TAG, result.key)


def artifact_folder(file: Path) -> str | None:
    folder = file.parent.as_posix()
    return None if folder == "." else folder


def log_missing_metrics(client: MlflowClient, run: Run, result: Result) -> None:
    """Log the points of curves and the scores that a run has not got, or has otherwise from a record that was cut off;
    a live run has most of its curves."""
    run_id = run.info.run_id
    now = int(time.time() * 1000)
    points = [(name, value, epoch) for epoch, row in enumerate(result.curves, 1) for name, value in row.items()]
    points += [*result.levels, *((name, value, 0) for name, value in result.scores.items())]
    present = {
        (name, point.value, point.step)
        for name in {name for name, _, _ in points} & set(run.data.metrics)
        for point in client.get_metric_history(run_id, name)
    }
    missing = [Metric(name, value, now, step) for name, value, step in points if (name, value, step) not in present]
    log_metrics(client, run_id, missing)


def describe_dataset(name: str, path: str, digest: str) -> DatasetInput:
    dataset = Dataset(name=name, digest=digest, source_type="dvc", source=f'{{"path": "{path}", "md5": "{digest}"}}')
    return DatasetInput(dataset, [InputTag("mlflow.data.context", name)])


def close_leftovers(client: MlflowClient, store: Store, experiment_id: str, run: Run, result: Result) -> None:
    """Close live runs that nobody will complete: of trainings that were killed or never recorded, and of forced ones
    that gave the same result once more. The latter go to MLflow's trash, so that a result stays one run."""
    for other in client.search_runs([experiment_id], "attributes.status = 'RUNNING'"):
        tags = other.data.tags
        if other.info.run_id == run.info.run_id or LIVE_TAG not in tags:
            continue
        if (
            tags.get(MODEL_TAG) == result.model_digest
            and is_live_of(other, result)
            and is_same_experiment(other, result)
        ):
            client.set_terminated(other.info.run_id, KILLED)
            client.delete_run(other.info.run_id)
        elif is_abandoned(store, tags):
            client.set_terminated(other.info.run_id, KILLED)
