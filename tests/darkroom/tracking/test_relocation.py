"""Projects that were moved or copied, each with its own real store."""

import shutil
from dataclasses import replace
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from darkroom.runs.lookup import find_run, open_existing
from darkroom.runs.registry import register_version
from darkroom.tracking.address import anchor
from darkroom.tracking.client import connect, create_run
from darkroom.tracking.relocation import relocate_artifacts
from darkroom.tracking.store import Store, find_store
from tests.recorded_runs import log_model_of, new_database


def store_in(root: Path) -> Store:
    return Store(anchor("sqlite:///mlflow.db", root), "darkroom", root)


def add_run(store: Store, name: str) -> Run:
    """A run with a file and a registered model."""
    client, experiment_id = connect(store)
    run = create_run(client, experiment_id, name, {})
    client.log_text(run.info.run_id, name, "name.txt")
    log_model_of(store, run.info.run_id)
    register_version(client, store, run.info.run_id, name)
    return run


def read_file(store: Store, run_id: str) -> str:
    """The file of a run, read as the commands do; its model must have its files too."""
    with open_existing(store) as client:
        run = find_run(client, store, run_id)
        (version,) = client.search_model_versions(f"run_id = '{run_id}'")
        model = mlflow.artifacts.download_artifacts(f"models:/darkroom/{version.version}", tracking_uri=store.address)
        assert Path(model, "MLmodel").exists()
        return Path(client.download_artifacts(run.info.run_id, "name.txt")).read_text()


@pytest.fixture(params=["project", "what?now #1 100%41 [a] *"])
def project(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The store of a project with a recorded run."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    root = tmp_path / "projects" / request.param
    root.mkdir(parents=True)
    (root / "mlflow.db").write_bytes(new_database())
    (root / "dvc.yaml").touch()
    store = store_in(root)
    add_run(store, "first")
    return store


def test_the_store_of_a_project_is_in_it_whatever_its_name(project: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project.root)
    assert find_store() == project
    assert project.database == project.root / "mlflow.db"
    assert sorted(path.name for path in project.root.parent.iterdir()) == [project.root.name]
    assert {path.name for path in project.root.iterdir()} >= {"mlflow.db", "mlartifacts"}


def test_a_moved_project_finds_its_artifacts_and_writes_new_ones_to_its_new_place(
    project: Store, capfd: pytest.CaptureFixture[str]
) -> None:
    (first,) = MlflowClient(project.address).search_runs(["1"])
    moved = store_in(project.root.with_name("moved"))
    project.root.rename(moved.root)

    assert read_file(moved, first.info.run_id) == "first"
    second = add_run(moved, "second")

    assert read_file(moved, second.info.run_id) == "second"
    assert not project.root.exists()
    assert (moved.root / "mlartifacts" / second.info.run_id / "artifacts/name.txt").exists()
    assert capfd.readouterr().err.count("formerly in") == 1


def test_a_copy_writes_into_its_own_folder_and_so_does_the_original(
    project: Store, capfd: pytest.CaptureFixture[str]
) -> None:
    copied = store_in(project.root.with_name("copied"))
    shutil.copytree(project.root, copied.root)
    runs = {store: add_run(store, "second").info.run_id for store in (copied, project)}
    for store, run_id in runs.items():
        assert read_file(store, run_id) == "second"
        folders = {path.name for path in (store.root / "mlartifacts").iterdir()}
        assert folders & set(runs.values()) == {run_id}
    assert capfd.readouterr().err.count(f"formerly in {project.root}, are now") == 1


@pytest.mark.parametrize("chosen", ["artifacts", "elsewhere/mlartifacts"])
def test_a_location_that_somebody_chose_stays(project: Store, tmp_path: Path, chosen: str) -> None:
    other = replace(project, experiment="other")
    (tmp_path / chosen).mkdir(parents=True)
    location = (tmp_path / chosen).as_uri()
    MlflowClient(project.address).create_experiment("other", location)
    connect(other)
    assert MlflowClient(project.address).get_experiment_by_name("other").artifact_location == location


def test_a_database_that_projects_share_stays(project: Store) -> None:
    other = replace(project, root=project.root.with_name("other"))
    (before,) = MlflowClient(project.address).search_runs(["1"])
    relocate_artifacts(other)
    assert MlflowClient(project.address).get_run(before.info.run_id).info.artifact_uri == before.info.artifact_uri
