"""Find the tracking store, and whether a result is recorded in it. Nothing here imports MLflow, which takes seconds."""

import hashlib
import os
import sqlite3
from collections.abc import Iterable
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from darkroom.pipeline.paths import project_root
from darkroom.pipeline.stage import StageError
from darkroom.tracking.address import DATABASE, anchor, database_file, hide_login, local_folder

KEY_TAG = "darkroom.key"
LIVE_TAG = "darkroom.live"
EXPERIMENT_TAG = "dvc.experiment"
COMMIT_TAG, DIRTY_TAG = "mlflow.source.git.commit", "darkroom.git_dirty"
TEST_ACCURACY = "test_accuracy"
ID_CHARACTERS = 8  # of a run's id, in messages
# The advice for a damaged run: in its own store, `dvc repro` would find it and record nothing.
RECORD_AGAIN = "record the result in a new store: `MLFLOW_TRACKING_URI=sqlite:///new.db dvc repro`"
NAME_CHARACTERS = 250
EXPERIMENT = "darkroom"  # unless the environment names one
MODEL_FILE = "MLmodel"  # in the files of every model that MLflow has logged

KNOWN_RUN = """
    SELECT runs.run_uuid, runs.artifact_uri FROM runs
    JOIN tags ON tags.run_uuid = runs.run_uuid
    JOIN experiments ON experiments.experiment_id = runs.experiment_id
    WHERE experiments.name = ? AND tags.key = ? AND tags.value = ?
    AND runs.status = 'FINISHED' AND runs.lifecycle_stage = 'active'
"""
EXPERIMENT_BY_ID = "SELECT name FROM experiments WHERE experiment_id = ?"
RUN_MODEL = "SELECT artifact_location FROM logged_models WHERE source_run_id = ? AND lifecycle_stage = 'active'"
OPEN_LIVE_RUN = """
    SELECT runs.run_uuid FROM runs
    JOIN tags ON tags.run_uuid = runs.run_uuid
    JOIN experiments ON experiments.experiment_id = runs.experiment_id
    WHERE experiments.name = ? AND tags.key = ?
    AND runs.status = 'RUNNING' AND runs.lifecycle_stage = 'active'
"""


@dataclass(frozen=True)
class Store:
    """An MLflow tracking store and an experiment in it; `root` is the project's folder, also in a DVC experiment."""

    address: str
    experiment: str
    root: Path

    @property
    def is_server(self) -> bool:
        return self.address.startswith(("http://", "https://"))

    @property
    def shown_address(self) -> str:
        """The address without a user's name and password."""
        return hide_login(self.address)

    @property
    def locks_folder(self) -> Path:
        return self.root / ".cache/mlflow"

    @property
    def database(self) -> Path | None:
        """The file of a SQLite store."""
        return database_file(self.address)


def find_store() -> Store:
    """Find the store that the environment names, by default mlflow.db in the project.

    `MLFLOW_TRACKING_URI` is the address, and `MLFLOW_EXPERIMENT_NAME` or `MLFLOW_EXPERIMENT_ID` the experiment, as
    everywhere in MLflow. Relative SQLite addresses are relative to the project's folder, so that all DVC experiments
    share one store; in an experiment that DVC runs in a temporary folder, `DVC_ROOT` names the project's folder.

    Raises:
        StageError: `MLFLOW_EXPERIMENT_ID` alone names the experiment, and the store does not have it or fails.
    """
    root = project_root()
    address = anchor(os.environ.get("MLFLOW_TRACKING_URI") or DATABASE, root)
    name, number = (os.environ.get(f"MLFLOW_EXPERIMENT_{what}", "") for what in ("NAME", "ID"))
    return Store(address, name or (find_name(address, number) if number else EXPERIMENT), root)


def find_name(address: str, experiment_id: str) -> str:
    """The name of an experiment, which is the name of the registered model too."""
    database, name = database_file(address), None
    if database is not None:
        with suppress(sqlite3.Error), closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
            row = connection.execute(EXPERIMENT_BY_ID, (experiment_id,)).fetchone()
            name = row and row[0]
    else:
        from darkroom.tracking.server import fetch_name

        name = fetch_name(address, experiment_id)
    if not name:
        raise StageError(
            f"the MLflow store {hide_login(address)} has no experiment with the id {experiment_id}, which "
            "MLFLOW_EXPERIMENT_ID names; correct it, or set MLFLOW_EXPERIMENT_NAME instead"
        )
    return str(name)


def storable_name(name: str) -> str:
    """Convert the name of a param or metric to one that MLflow accepts: other characters are replaced by their code
    points, and names that are too long are shortened and end in a digest."""
    allowed = "".join(char if char.isalnum() or char in "_-./ " else f"_{ord(char):x}_" for char in name)
    if len(allowed) <= NAME_CHARACTERS:
        return allowed
    digest = hashlib.sha256(name.encode()).hexdigest()[:16]
    return f"{allowed[: NAME_CHARACTERS - len(digest) - 1]}-{digest}"


def experiment_name() -> str:
    """The name of the DVC experiment that this process runs in; "" in a plain `dvc repro`."""
    return os.environ.get("DVC_EXP_NAME", "")


def find_recorded_run(store: Store, key: str, files: Iterable[Path] = ()) -> str | None:
    """Query a SQLite store directly for the finished run of a result.

    Args:
        store: the store.
        key: the result's key.
        files: the artifacts that the run must have, if they are in a folder of this machine; then its model must have
            files too.

    Returns:
        the run's id; None if there is none, if a live run is still open, if a file is missing, or if only MLflow can
        read the store.
    """
    if store.database is None:
        return None
    try:
        with closing(sqlite3.connect(f"{store.database.as_uri()}?mode=ro", uri=True)) as connection:
            if connection.execute(OPEN_LIVE_RUN, (store.experiment, LIVE_TAG)).fetchone():
                return None
            row = connection.execute(KNOWN_RUN, (store.experiment, KEY_TAG, key)).fetchone()
            models = connection.execute(RUN_MODEL, (row[0],)).fetchall() if row else []
    except sqlite3.Error:  # no database yet, or tables of another version of MLflow: left to MLflow
        return None
    if row is None:
        return None
    wanted = [(row[1], file) for file in files]
    wanted += [(models[0][0] if models else row[1], Path(MODEL_FILE))] if wanted else []
    run_id: str = row[0]
    return run_id if all(may_exist(location, file) for location, file in wanted) else None


def may_exist(location: str, file: Path) -> bool:
    """Whether an artifact exists; true if it is not in a folder of this machine."""
    folder = local_folder(location)
    return folder is None or (folder / file).exists()
