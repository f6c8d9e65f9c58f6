"""The MLflow run that shows a training while it goes on, until the record stage completes it."""

import socket
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from filelock import FileLock, Timeout
from mlflow import MlflowClient
from mlflow.entities import Metric, RunStatus

from stages.lib.stage import StageError
from stages.lib.store import LIVE_TAG, Store, experiment_name
from stages.lib.tracking import MODEL_TAG, TRACKING_FAULTS, connect, create_run, log_params, one_line

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
    has_epochs: bool = False

    @classmethod
    def open(cls, store: Store, params: Mapping[str, str]) -> Self:
        """Create the run with `params`, dotted names to values, or say in one line why there is none."""
        try:
            client, experiment_id = connect(store)
            name = uuid.uuid4().hex
            alive = live_lock(store, name)
            alive.acquire()
            tags = {LIVE_TAG: name, PLACE_TAG: here(store), FOLDER_TAG: str(Path.cwd())}
            run_id = create_run(client, experiment_id, experiment_name(), tags).info.run_id
            log_params(client, run_id, params)
        except (StageError, *TRACKING_FAULTS) as error:
            print(f"train: goes on without showing itself in MLflow: {one_line(error)}", flush=True)
            return cls()
        print(f"train: shows itself in MLflow as run {run_id} of {store.shown_address}", flush=True)
        return cls(client, run_id, alive)

    def log_epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Log the metrics of an epoch, counted from 1, in one request."""
        self.has_epochs = True
        now = int(time.time() * 1000)
        points = [Metric(name, value, now, epoch) for name, value in metrics.items()]
        self.attempt(lambda client: client.log_batch(self.run_id, points))

    def hand_over(self, model_digest: str) -> None:
        """Note which model came out of this run, and leave the run to the record stage."""
        self.attempt(lambda client: client.set_tag(self.run_id, MODEL_TAG, model_digest))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None:
            status = RunStatus.to_string(RunStatus.FAILED if issubclass(kind, Exception) else RunStatus.KILLED)
            self.attempt(lambda client: client.set_terminated(self.run_id, status))
            if not self.has_epochs:
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
