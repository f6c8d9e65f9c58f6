"""Find the tracking store, and whether a result is recorded in it. Nothing here imports MLflow, which takes seconds."""

import hashlib
import os
import re
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from darkroom.pipeline.paths import project_root

KEY_TAG = "darkroom.key"
LIVE_TAG = "darkroom.live"
EXPERIMENT_TAG = "dvc.experiment"
COMMIT_TAG, DIRTY_TAG = "mlflow.source.git.commit", "darkroom.git_dirty"
TEST_ACCURACY = "test_accuracy"
ID_CHARACTERS = 8  # of a run's id, in messages
SQLITE = "sqlite:///"
# The advice for a damaged run: in its own store, `dvc repro` would find it and record nothing.
RECORD_AGAIN = "record the result in a new store: `MLFLOW_TRACKING_URI=sqlite:///new.db dvc repro`"
NAME_CHARACTERS = 250

KNOWN_RUN = """
    SELECT runs.run_uuid FROM runs
    JOIN tags ON tags.run_uuid = runs.run_uuid
    JOIN experiments ON experiments.experiment_id = runs.experiment_id
    WHERE experiments.name = ? AND tags.key = ? AND tags.value = ?
    AND runs.status = 'FINISHED' AND runs.lifecycle_stage = 'active'
"""
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
        if not self.address.startswith(SQLITE):
            return None
        return Path(self.address.removeprefix(SQLITE).partition("?")[0])


def hide_login(text: str) -> str:
    """Remove user names and passwords from the addresses in a text."""
    return re.sub(r"://[^/\s]*@", "://", text)


def find_store() -> Store:
    """Find the store that the environment names, by default mlflow.db in the project.

    `MLFLOW_TRACKING_URI` is the address and `MLFLOW_EXPERIMENT_NAME` the experiment, as everywhere in MLflow. Relative
    SQLite addresses are relative to the project's folder, so that all DVC experiments share one store; in an experiment
    that DVC runs in a temporary folder, `DVC_ROOT` names the project's folder.
    """
    root = project_root()
    address = anchor(os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}mlflow.db", root)
    return Store(address, os.environ.get("MLFLOW_EXPERIMENT_NAME") or "darkroom", root)


def anchor(address: str, root: Path) -> str:
    """Make a relative SQLite address relative to the folder `root`; return others unchanged."""
    return f"{SQLITE}{root / address.removeprefix(SQLITE)}" if address.startswith(SQLITE) else address


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


def find_recorded_run(store: Store, key: str) -> str | None:
    """Query a SQLite store directly for the finished run of a result.

    Returns:
        the run's id; None if there is none, if a live run is still open, or if only MLflow can read the store.
    """
    if store.database is None:
        return None
    try:
        with closing(sqlite3.connect(f"{store.database.as_uri()}?mode=ro", uri=True)) as connection:
            if connection.execute(OPEN_LIVE_RUN, (store.experiment, LIVE_TAG)).fetchone():
                return None
            row = connection.execute(KNOWN_RUN, (store.experiment, KEY_TAG, key)).fetchone()
    except sqlite3.Error:  # no database yet, or tables of another version of MLflow: left to MLflow
        return None
    return row[0] if row else None
