"""The MLflow run that shows a training while it goes on, until the record stage completes it."""

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
    TRACKING_FAULTS,
    connect,
    create_run,
    log_params,
    one_line,
    storable_params,
)
from darkroom.tracking.store import KEY_TAG, LIVE_TAG, Store, experiment_name

# It tells of faults with the store's address, a user's name and password included; `attempt` tells of them without.
logging.getLogger("mlflow.system_metrics.system_metrics_monitor").setLevel(logging.CRITICAL + 1)

PLACE_TAG = "darkroom.place"
FOLDER_TAG = "darkroom.folder"


@dataclass
class LiveRun:
    """A run of a training in progress, or nothing. A fault of the store ends the showing, never the training.

    Used as a context: a training that fails inside leaves the run FAILED, and one that fails before its first epoch, as
    for a layer that is not there, leaves it in MLflow's trash.
    """

    client: MlflowClient | None = None
    run_id: str = ""
    alive: FileLock | None = None
    logged_epochs: set[int] = field(default_factory=set)
    monitor: SystemMetricsMonitor | None = None

    @classmethod
    def open(cls, store: Store, params: Mapping[str, str], earlier: str = "") -> Self:
        """Create the run with `params`, dotted names to values, or say in one line why there is none.

        Args:
            store: where.
            params: dotted names to values.
            earlier: the run of a training that was killed and now goes on; it is taken up again if it is there.
        """
        try:
            client, experiment_id = connect(store)
            run = find_resumable_run(client, experiment_id, earlier, params)
            name = uuid.uuid4().hex
            alive = live_lock(store, name)
            alive.acquire()
            tags = {LIVE_TAG: name, PLACE_TAG: here(store), FOLDER_TAG: str(Path.cwd())}
            if run is None:
                run_id = create_run(client, experiment_id, experiment_name(), tags).info.run_id
                logged = set()
            else:
                run_id = run.info.run_id
                logged = {point.step for point in client.get_metric_history(run_id, "loss")}
                for key, value in tags.items():
                    client.set_tag(run_id, key, value)
                # Behind the tags: a run in progress whose lock nobody holds is closed by others.
                client.update_run(run_id, RunStatus.to_string(RunStatus.RUNNING))
            log_params(client, run_id, params)
            monitor = SystemMetricsMonitor(run_id, resume_logging=run is not None, tracking_uri=store.address)  # type: ignore[no-untyped-call]
        except (StageError, *TRACKING_FAULTS) as error:
            print(f"train: goes on without showing itself in MLflow: {one_line(error)}", flush=True)
            return cls()
        again = "again " if run is not None else ""
        print(f"train: shows itself {again}in MLflow as run {run_id} of {store.shown_address}", flush=True)
        return cls(client, run_id, alive, logged, monitor)

    def log_epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Log the metrics of an epoch, counted from 1, in one request, unless the run has them."""
        if epoch in self.logged_epochs:
            return
        self.logged_epochs.add(epoch)
        now = int(time.time() * 1000)
        points = [Metric(name, value, now, epoch) for name, value in metrics.items()]
        self.attempt(lambda client: client.log_batch(self.run_id, points))

    def log_curves(self, curves: Mapping[str, Sequence[float]]) -> None:
        """Log the epochs that an earlier training has finished, as far as the run lacks them."""
        for epoch, values in enumerate(zip(*curves.values(), strict=True), 1):
            self.log_epoch(epoch, dict(zip(curves, values, strict=True)))

    def hand_over(self, model_digest: str) -> None:
        """Note which model came out of this run, and leave the run to the record stage."""
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
        if self.alive is not None:
            self.alive.release()
            Path(self.alive.lock_file).unlink(missing_ok=True)

    def attempt(self, call: Callable[[MlflowClient], object]) -> None:
        if self.client is None:
            return
        try:
            call(self.client)
        except TRACKING_FAULTS as error:
            print(f"train: goes on without showing itself in MLflow: {one_line(error)}", flush=True)
            self.client = None


def find_resumable_run(client: MlflowClient, experiment_id: str, run_id: str, params: Mapping[str, str]) -> Run | None:
    """The run `run_id` if it is in the experiment, not deleted, holds no result yet and no other params."""
    if not run_id:
        return None
    try:
        run = client.get_run(run_id)
    except MlflowException:  # of another store
        return None
    is_free = run.info.experiment_id == experiment_id and run.info.lifecycle_stage == LifecycleStage.ACTIVE
    is_ours = run.data.params.items() <= storable_params(params).items()
    return run if is_free and is_ours and KEY_TAG not in run.data.tags else None


def live_lock(store: Store, name: str) -> FileLock:
    """The lock that a training holds while it lives; the system lets go of it when the process is killed."""
    folder = store.locks_folder / "live"
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / f"{name}.lock")


def here(store: Store) -> str:
    """This machine and project, which alone can tell whether a training of theirs still lives."""
    return f"{socket.gethostname()}:{store.root}"


def is_abandoned(store: Store, tags: Mapping[str, str]) -> bool:
    """Whether a live run with these tags is one that nothing will complete.

    That is one of this machine and project whose process is gone, and which either has made no model, or was made in
    this folder, where the stage that asks has come after it, or in a folder of a DVC experiment that is gone.
    """
    if tags.get(PLACE_TAG) != here(store):
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
