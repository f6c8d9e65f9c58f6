"""The MLflow run of a result: found, adopted from a training or created, and then completed.

A run counts as recorded once it has the result's key, which is written last. Everything before may be interrupted and
repeated.
"""

import time
from pathlib import Path

from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Run, RunStatus

from darkroom.pipeline.stage import StageError, hold_lock
from darkroom.recording.logged_model import find_logged_model, has_model_files, log_model
from darkroom.recording.result import Result, RunOrigin
from darkroom.runs.registry import open_registry, register_version, registry_address, registry_lock, show_addresses
from darkroom.tracking.client import (
    MODEL_TAG,
    RECORDED_LATER,
    connect,
    create_run,
    log_metrics,
    log_params,
    storable_params,
)
from darkroom.tracking.failures import TRACKING_ERRORS, explain_failure, one_line
from darkroom.tracking.live_run import is_abandoned
from darkroom.tracking.store import EXPERIMENT_TAG, KEY_TAG, LIVE_TAG, Store

RESTORED_TAG = "darkroom.restored"
KILLED = RunStatus.to_string(RunStatus.KILLED)
# The run of a completed training is RUNNING until the record stage finishes it; a record stage that is interrupted just
# before its last step leaves it FINISHED.
UNRECORDED = (RunStatus.to_string(RunStatus.RUNNING), RunStatus.to_string(RunStatus.FINISHED))


def record_result(store: Store, result: Result) -> tuple[str, RunOrigin]:
    """Make sure that exactly one run holds this result, and return the run's id and origin.

    Raises:
        StageError: the store cannot be used; the next attempt completes the recording.
    """
    client, experiment_id = connect(store)
    try:
        # One recording at a time on this machine: two that restored the same training could adopt the same live run.
        with FileLock(store.locks_folder / "record.lock"):
            run, origin = adopt_or_create_run(client, experiment_id, result)
            if origin == RunOrigin.COMPLETED:
                complete_files(client, store, run, result)
            elif origin != RunOrigin.KNOWN:
                complete_run(client, store, run, result)
            close_leftovers(client, store, experiment_id, run, result)
    except TRACKING_ERRORS as error:
        reason, fix = explain_failure(error, [store.address, registry_address(store)])
        raise StageError(
            f"the MLflow store {show_addresses(store)} failed ({reason}); {fix}, {RECORDED_LATER}"
        ) from None
    return run.info.run_id, origin


def adopt_or_create_run(client: MlflowClient, experiment_id: str, result: Result) -> tuple[Run, RunOrigin]:
    for key in (result.key, *result.earlier_keys):
        for run in search_runs(client, experiment_id, KEY_TAG, key):
            if run.info.status == RunStatus.to_string(RunStatus.FINISHED):
                return run, RunOrigin.COMPLETED if lacks_files(client, run, result) else RunOrigin.KNOWN
    candidates = [
        run for run in search_runs(client, experiment_id, MODEL_TAG, result.model_digest) if is_live_run_of(run, result)
    ]
    for run in sorted(candidates, key=lambda run: not is_same_experiment(run, result)):
        return run, RunOrigin.RESTORED if RESTORED_TAG in run.data.tags else RunOrigin.ADOPTED
    tags = {MODEL_TAG: result.model_digest, RESTORED_TAG: "true"}
    return create_run(client, experiment_id, result.experiment, tags), RunOrigin.RESTORED


def lacks_files(client: MlflowClient, run: Run, result: Result) -> bool:
    """Whether an artifact of a recorded run is missing, or its model has no files; false if that cannot be checked."""
    run_id = run.info.run_id
    try:
        folders = {artifact_folder(file) for file in result.artifacts}
        present = {entry.path for folder in folders for entry in client.list_artifacts(run_id, folder)}
        if not {file.as_posix() for file in result.artifacts} <= present:
            return True
        model_id = find_logged_model(client, run_id)
        return model_id is None or not has_model_files(client, model_id)
    except TRACKING_ERRORS as error:
        print(f"record: the files of run {run_id} cannot be checked ({one_line(error)})", flush=True)
        return False


def search_runs(client: MlflowClient, experiment_id: str, tag: str, value: str) -> list[Run]:
    """List the runs with this tag, newest first, without deleted runs."""
    return list(client.search_runs([experiment_id], f"tags.`{tag}` = '{value}'", order_by=["start_time DESC"]))


def is_live_run_of(run: Run, result: Result) -> bool:
    """Whether a run that made the same model has no result yet, and no params that differ from those of `result`."""
    return (
        run.info.status in UNRECORDED
        and KEY_TAG not in run.data.tags
        and run.data.params.items() <= storable_params(result.params).items()
    )


def is_same_experiment(run: Run, result: Result) -> bool:
    return run.data.tags.get(EXPERIMENT_TAG, "") == result.experiment


def complete_run(client: MlflowClient, store: Store, run: Run, result: Result) -> None:
    """Log all that a run lacks, register its model, and set the result's key last."""
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
    with hold_lock(registry_lock(store), "record: waiting for a running promote to finish"):
        register_version(open_registry(store), store, run_id, result.key)
    client.set_terminated(run_id)
    client.set_tag(run_id, KEY_TAG, result.key)


def complete_files(client: MlflowClient, store: Store, run: Run, result: Result) -> None:
    """Log the files of a recorded run and its model again."""
    for file in result.artifacts:
        client.log_artifact(run.info.run_id, str(file), artifact_folder(file))
    log_model(client, run, result.params)
    with hold_lock(registry_lock(store), "record: waiting for a running promote to finish"):
        register_version(open_registry(store), store, run.info.run_id, run.data.tags[KEY_TAG])


def artifact_folder(file: Path) -> str | None:
    folder = file.parent.as_posix()
    return None if folder == "." else folder


def log_missing_metrics(client: MlflowClient, run: Run, result: Result) -> None:
    """Log the curves and scores that a run lacks, or has with other values from an interrupted recording.

    A live run has most of its curves already.
    """
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
    """Close live runs that nothing will complete: those of killed or never recorded trainings, and of forced
    trainings that reproduced this result. The latter are deleted, so that a result has one run."""
    for other in client.search_runs([experiment_id], "attributes.status = 'RUNNING'"):
        tags = other.data.tags
        if other.info.run_id == run.info.run_id or LIVE_TAG not in tags:
            continue
        if (
            tags.get(MODEL_TAG) == result.model_digest
            and is_live_run_of(other, result)
            and is_same_experiment(other, result)
        ):
            client.set_terminated(other.info.run_id, KILLED)
            client.delete_run(other.info.run_id)
        elif is_abandoned(store, tags):
            client.set_terminated(other.info.run_id, KILLED)
