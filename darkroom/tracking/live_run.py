"""Live logging: the MLflow run of a training in progress, which the record stage completes later."""

import logging
import socket
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from filelock import FileLock, Timeout
from mlflow import MlflowClient
from mlflow.entities import LifecycleStage, Metric, Run, RunStatus
from mlflow.exceptions import MlflowException
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

from darkroom.pipeline.stage import StageError
from darkroom.tracking.client import (
    MODEL_TAG,
    connect,
    create_run,
    log_params,
    storable_params,
)
from darkroom.tracking.failures import TRACKING_ERRORS, one_line
from darkroom.tracking.store import KEY_TAG, LIVE_TAG, Store, experiment_name, find_store

# The monitor logs errors with the store's address, including a user's name and password; `attempt` prints them without.
logging.getLogger("mlflow.system_metrics.system_metrics_monitor").setLevel(logging.CRITICAL + 1)

PLACE_TAG = "darkroom.place"
FOLDER_TAG = "darkroom.folder"


@dataclass
class LiveRun:
    """The run of a training in progress, or none.

    If the tracking store fails, live logging stops and training continues.

    Used as a context manager: if training raises an exception, the run is FAILED. If that happens before the end of the
    first epoch, as for a misspelled layer, the run is deleted.
    """

    client: MlflowClient | None = None
    run_id: str = ""
    lock: FileLock | None = None
    logged_epochs: set[int] = field(default_factory=set)
    monitor: SystemMetricsMonitor | None = None

    @classmethod
    def open(cls, store: Store, params: Mapping[str, str], earlier: str = "") -> Self:
        """Create or resume a run. If that fails, print the reason in one line and return an object that logs nothing.

        Args:
            store: the store.
            params: values by dotted name.
            earlier: the id of the run of the interrupted training that is now resumed; used again if it still exists.
        """
        try:
            client, experiment_id = connect(store)
            run = find_resumable_run(client, experiment_id, earlier, params)
            name = uuid.uuid4().hex
            lock = live_lock(store, name)
            lock.acquire()
            tags = {LIVE_TAG: name, PLACE_TAG: machine_and_project(store), FOLDER_TAG: str(Path.cwd())}
            if run is None:
                run_id = create_run(client, experiment_id, experiment_name(), tags).info.run_id
                logged = set()
            else:
                run_id = run.info.run_id
                logged = {point.step for point in client.get_metric_history(run_id, "loss")}
                for key, value in tags.items():
                    client.set_tag(run_id, key, value)
                # After the tags: other processes close a RUNNING run whose lock nobody holds.
                client.update_run(run_id, RunStatus.to_string(RunStatus.RUNNING))
            log_params(client, run_id, params)
            monitor = SystemMetricsMonitor(run_id, resume_logging=run is not None, tracking_uri=store.address)  # type: ignore[no-untyped-call]
        except (StageError, *TRACKING_ERRORS) as error:
            print(f"train: live logging to MLflow is off ({one_line(error)}); training continues", flush=True)
            return cls()
        action = "live logging to" if run is None else "resuming live logging to"
        print(f"train: {action} MLflow run {run_id} of {store.shown_address}", flush=True)
        return cls(client, run_id, lock, logged, monitor)

    def log_epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Log the metrics of an epoch, counted from 1, in one request, unless the run has them already."""
        if epoch in self.logged_epochs:
            return
        self.logged_epochs.add(epoch)
        now = int(time.time() * 1000)
        points = [Metric(name, value, now, epoch) for name, value in metrics.items()]
        self.attempt(lambda client: client.log_batch(self.run_id, points))

    def log_curves(self, curves: Mapping[str, Sequence[float]]) -> None:
        """Log the epochs that the interrupted training completed, unless the run has them already."""
        for epoch, values in enumerate(zip(*curves.values(), strict=True), 1):
            self.log_epoch(epoch, dict(zip(curves, values, strict=True)))

    def hand_over(self, model_digest: str) -> None:
        """Tag the run with the digest of its model, by which the record stage finds the run."""
        self.attempt(lambda client: client.set_tag(self.run_id, MODEL_TAG, model_digest))

    def __enter__(self) -> Self:
        if self.monitor is not None:
            self.monitor.start()  # type: ignore[no-untyped-call]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.monitor is not None and self.client is not None:
            self.monitor.finish()  # type: ignore[no-untyped-call]
        if kind is not None:
            status = RunStatus.to_string(RunStatus.FAILED if issubclass(kind, Exception) else RunStatus.KILLED)
            self.attempt(lambda client: client.set_terminated(self.run_id, status))
            if not self.logged_epochs:
                self.attempt(lambda client: client.delete_run(self.run_id))
        if self.lock is not None:
            self.lock.release()
            Path(self.lock.lock_file).unlink(missing_ok=True)

    def attempt(self, call: Callable[[MlflowClient], object]) -> None:
        if self.client is None:
            return
        try:
            call(self.client)
        except TRACKING_ERRORS as error:
            print(f"train: live logging to MLflow is off ({one_line(error)}); training continues", flush=True)
            self.client = None


def open_live_run(params: Mapping[str, str], earlier: str = "") -> LiveRun:
    """Create or resume a run in the store that the environment names; see `LiveRun.open`."""
    try:
        store = find_store()
    except StageError as error:
        print(f"train: live logging to MLflow is off ({error}); training continues", flush=True)
        return LiveRun()
    return LiveRun.open(store, params, earlier)


def find_resumable_run(client: MlflowClient, experiment_id: str, run_id: str, params: Mapping[str, str]) -> Run | None:
    """Return the run if it is in the experiment, not deleted, and has no result yet and no other params."""
    if not run_id:
        return None
    try:
        run = client.get_run(run_id)
    except MlflowException:  # of another store
        return None
    is_active = run.info.experiment_id == experiment_id and run.info.lifecycle_stage == LifecycleStage.ACTIVE
    has_same_params = run.data.params.items() <= storable_params(params).items()
    return run if is_active and has_same_params and KEY_TAG not in run.data.tags else None


def live_lock(store: Store, name: str) -> FileLock:
    """The lock that a training holds while it runs; the system releases it when the process is killed."""
    folder = store.locks_folder / "live"
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / f"{name}.lock")


def machine_and_project(store: Store) -> str:
    """The machine and project of this process; only from the same ones can the lock of a training be checked."""
    return f"{socket.gethostname()}:{store.root}"


def is_abandoned(store: Store, tags: Mapping[str, str]) -> bool:
    """Whether nothing will ever complete the live run with these tags.

    This holds for a run of this machine and project whose process has ended, and which has no model, or ran in this
    folder, where the calling stage came after it, or in the folder of a DVC experiment that no longer exists.
    """
    if tags.get(PLACE_TAG) != machine_and_project(store):
        return False
    lock = live_lock(store, tags[LIVE_TAG])
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    lock.release()
    Path(lock.lock_file).unlink(missing_ok=True)
    folder = Path(tags[FOLDER_TAG])
    return MODEL_TAG not in tags or folder == Path.cwd() or not folder.exists()
