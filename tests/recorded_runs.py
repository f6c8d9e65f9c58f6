"""Runs in an MLflow store of a test's own, as the stage record leaves them."""

from collections.abc import Mapping
from pathlib import Path

from mlflow import MlflowClient

from stages.lib.store import Store


def create_store(root: Path) -> Store:
    store = Store(f"sqlite:///{root}/mlflow.db", "darkroom", root)
    MlflowClient(store.address).create_experiment(store.experiment, (root / "artifacts").as_uri())
    return store


def record_run(store: Store, files: Mapping[str, str], name: str, tags: Mapping[str, str]) -> str:
    """Record texts by path in a finished run, and give its id."""
    client = MlflowClient(store.address)
    experiment = client.get_experiment_by_name(store.experiment)
    run_id: str = client.create_run(experiment.experiment_id, run_name=name, tags=dict(tags)).info.run_id
    for path, text in files.items():
        client.log_text(run_id, text, path)
    client.set_terminated(run_id)
    return run_id
