"""Find the MLflow artifacts of a project that was moved or copied. Nothing here imports MLflow.

An experiment's location of artifacts is absolute in the database. After a move, MLflow would not find old artifacts and
would write new ones to the old place; in a copy, it would write them into the original.
"""

import sqlite3
import sys
from contextlib import closing
from pathlib import Path

from darkroom.tracking.address import local_folder
from darkroom.tracking.store import Store

ARTIFACTS = "mlartifacts"
DVC_PROJECT = Path("dvc.yaml")
LOCATIONS = "SELECT DISTINCT artifact_location FROM experiments"
# The columns that hold locations; tables of other versions of MLflow may lack them.
COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


def artifacts_folder(root: Path) -> Path:
    """The folder of the artifacts in the project `root`."""
    return root / ARTIFACTS


def relocate_artifacts(store: Store) -> None:
    """Let the artifacts in a project's own database be in this project's folder, and say so if they were elsewhere.

    The database must be in the project, because projects may share one elsewhere. Locations that do not come from a
    project, which somebody chose, are left as they are.
    """
    database = store.database
    if database is None or not database.is_relative_to(store.root) or not database.exists():
        return
    try:
        with closing(sqlite3.connect(database)) as connection:
            places = {str(location) for (location,) in connection.execute(LOCATIONS)}
            former = sorted(
                {root for root in map(find_root, places) if root is not None and is_former(root, store.root)}
            )
            for root in former:
                replace_locations(connection, artifacts_folder(root).as_uri(), artifacts_folder(store.root).as_uri())
            connection.commit()
    except sqlite3.Error:  # tables of another version, or no permission to write: MLflow reports it, if it matters
        return
    for root in former:
        print(
            f"the MLflow artifacts of this project, formerly in {root}, are now read and written in "
            f"{artifacts_folder(store.root)}",
            file=sys.stderr,
            flush=True,
        )


def find_root(location: str) -> Path | None:
    """The folder of the project that a location of artifacts is in; None if it has another form."""
    folder = local_folder(location)
    return folder.parent if folder is not None and folder.name == ARTIFACTS else None


def is_former(root: Path, here: Path) -> bool:
    """Whether `root` was the folder of this project, which was moved from there, or copied if that project exists."""
    if not root.exists():
        return True
    return (root / DVC_PROJECT).exists() and not root.samefile(here)


def replace_locations(connection: sqlite3.Connection, old: str, new: str) -> None:
    for table, column in COLUMNS:
        known = {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}
        if column in known:
            changed = f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE {column} = ? OR {column} GLOB ?"
            connection.execute(changed, (new, len(old) + 1, old, f"{escape_glob(old)}/*"))


def escape_glob(text: str) -> str:
    """Let the special characters of GLOB stand for themselves; those of LIKE would ignore upper and lower case."""
    return "".join(f"[{char}]" if char in "*?[" else char for char in text)
