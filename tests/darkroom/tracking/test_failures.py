"""Stores that real MLflow cannot use, and the messages about them."""

import sqlite3
import subprocess
import sys
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from darkroom.pipeline.stage import StageError
from darkroom.runs.lookup import open_existing
from darkroom.tracking.client import connect
from darkroom.tracking.failures import explain_failure
from darkroom.tracking.store import Store
from tests.imports import ROOT
from tests.recorded_runs import new_database

OLDER = "451aebb31d03"  # of MLflow 0.9
INSTALLED = f"MLflow {version('mlflow')}"


def store_with_schema(root: Path, revision: str) -> Store:
    """A database that MLflow has not opened yet in this process: it would not look at the schema again."""
    (root / "mlflow.db").write_bytes(new_database())
    with closing(sqlite3.connect(root / "mlflow.db")) as connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", (revision,))
        connection.commit()
    return Store(f"sqlite:///{root}/mlflow.db", "darkroom", root)


def list_messages(store: Store) -> list[str]:
    """What recording and the other commands say about a store."""
    messages = []
    with pytest.raises(StageError) as caught:
        connect(store)
    messages.append(str(caught.value))
    with pytest.raises(StageError) as caught, open_existing(store) as client:
        client.search_experiments()
    return [*messages, str(caught.value)]


def test_an_older_database_is_named_with_the_command_that_upgrades_it(tmp_path: Path) -> None:
    store = store_with_schema(tmp_path, OLDER)
    said = (
        f"the MLflow store {store.address} cannot be used (its schema {OLDER} is older than the installed "
        f"{INSTALLED}); make a backup of the database, run `mlflow db upgrade {store.address}`, then "
    )
    recording, other = list_messages(store)
    assert recording == f"{said}`dvc repro` records the result without training again"
    assert other == f"{said}run this again"


def test_a_newer_database_is_named(tmp_path: Path) -> None:
    store = store_with_schema(tmp_path, "f" * 12)
    said = f"(its schema {'f' * 12} is newer than the installed {INSTALLED}); install the MLflow that has upgraded it"
    assert all(said in message for message in list_messages(store))


def test_the_command_hides_the_login_and_names_a_registry_elsewhere() -> None:
    error = MlflowException(f"Detected out-of-date database schema (found version {OLDER}, but expected abc). Take")
    store, registry = "postgresql://someone:secret@db/runs", "sqlite:////models and more.db"
    assert explain_failure(error, [store, registry, registry])[1] == (
        "make a backup of the database, run `mlflow db upgrade postgresql://db/runs` and `mlflow db upgrade "
        "'sqlite:////models and more.db'` with the user and password in the address"
    )
    assert "`mlflow db upgrade` on the server" in explain_failure(error, ["https://host"])[1]


READ_ONLY = """
import os
from pathlib import Path
from darkroom.pipeline.stage import StageError
from darkroom.tracking.client import connect
from darkroom.tracking.store import Store
from mlflow import MlflowClient
store = Store(f"sqlite:///{Path.cwd()}/mlflow.db", "new", Path.cwd())
MlflowClient(store.address).search_experiments()  # imports what another user may not read
if os.geteuid() == 0:
    os.seteuid(65534)
try:
    connect(store)
except StageError as error:
    print(error)
"""


def test_a_database_without_permission_to_write_is_named() -> None:
    with TemporaryDirectory() as folder:  # which another user may enter, unlike those of pytest
        root = Path(folder)
        (root / ".cache/mlflow").mkdir(parents=True)
        (root / "mlflow.db").write_bytes(new_database())
        (root / "mlflow.db.lock").touch()
        for path, mode in (("mlflow.db.lock", 0o666), ("mlflow.db", 0o444), (".", 0o555)):
            (root / path).chmod(mode)
        variables = {"PYTHONPATH": str(ROOT), "HOME": "/"}
        command = [sys.executable, "-c", READ_ONLY]
        done = subprocess.run(command, cwd=root, env=variables, capture_output=True, text=True, check=False)
        root.chmod(0o755)
    assert "attempt to write a readonly database" in done.stdout, done.stderr
    assert "; make the database and its folder writable for this user, then `dvc repro` records" in done.stdout
    assert len(done.stdout.splitlines()) == 1


def test_an_unknown_store_is_explained_by_its_own_words() -> None:
    with pytest.raises(MlflowException) as caught:
        MlflowClient("nonsense://x").search_experiments()
    reason, fix = explain_failure(caught.value, ["nonsense://x"])
    assert "nonsense" in reason
    assert fix == "start its server or correct MLFLOW_TRACKING_URI"
