"""Versions in a real registry: how they are created, and how they refer to runs, logged models and aliases."""

import json
from dataclasses import replace
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, RESOURCE_DOES_NOT_EXIST

from darkroom.pipeline.stage import StageError
from darkroom.runs.registry import (
    CHAMPION,
    find_aliased,
    find_aliased_run,
    find_version,
    model_name,
    open_registry,
    register_version,
)
from darkroom.tracking.store import Store
from tests.recorded_runs import add_experiment, create_store, log_model_of, new_database, record_run


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return create_store(tmp_path_factory.mktemp("store"))


@pytest.fixture
def store(database: Store, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store with a new experiment, and so a new registered model."""
    monkeypatch.delenv("MLFLOW_REGISTRY_URI", raising=False)
    return add_experiment(database)


@pytest.fixture
def client(store: Store) -> MlflowClient:
    return open_registry(store)


def record_with_model(store: Store, name: str = "run") -> str:
    run_id = record_run(store, {}, name, {})
    log_model_of(store, run_id)
    return run_id


class TestVersion:
    def test_each_run_is_one_version_with_its_key_however_often_it_is_registered(
        self, client: MlflowClient, store: Store
    ) -> None:
        one, other = record_with_model(store), record_with_model(store)
        for run_id in (one, other, one):
            register_version(client, store, run_id, f"key of {run_id}")

        found = client.search_model_versions(f"name = '{store.experiment}'")
        assert {int(version.version): version.run_id for version in found} == {1: one, 2: other}
        assert {version.run_id: version.tags for version in found} == {
            run_id: {"darkroom.key": f"key of {run_id}"} for run_id in (one, other)
        }

    def test_it_is_what_mlflow_finds_by_number_and_by_alias(self, client: MlflowClient, store: Store) -> None:
        record_with_model(store)
        run_id = record_with_model(store)
        version = register_version(client, store, run_id, "k")
        client.set_registered_model_alias(version.name, CHAMPION, version.version)
        for address in (f"models:/{store.experiment}/1", f"models:/{store.experiment}@champion"):
            folder = mlflow.artifacts.download_artifacts(address, tracking_uri=store.address)
            assert Path(folder, "MLmodel").read_text() == f"run_id: {run_id}\n"

    def test_the_logged_model_lists_it_once_beside_others(self, client: MlflowClient, store: Store) -> None:
        run_id = record_with_model(store)
        model_id = client.get_run(run_id).outputs.model_outputs[0].model_id
        client.set_logged_model_tags(model_id, {"mlflow.modelVersions": '[{"name": "theirs", "version": 7}]'})
        for _ in range(2):
            register_version(client, store, run_id, "k")
        assert json.loads(client.get_logged_model(model_id).tags["mlflow.modelVersions"]) == [
            {"name": "theirs", "version": 7},
            {"name": store.experiment, "version": 1},
        ]

    def test_the_key_follows_the_result_of_the_run(self, client: MlflowClient, store: Store) -> None:
        run_id = record_with_model(store)
        for key in ("cut off", "whole"):
            register_version(client, store, run_id, key)
        (version,) = client.search_model_versions(f"run_id = '{run_id}'")
        assert version.tags == {"darkroom.key": "whole"}

    def test_versions_of_other_registered_models_are_ignored(self, client: MlflowClient, store: Store) -> None:
        run_id = record_with_model(store)
        register_version(client, replace(store, experiment=f"{store.experiment} of others"), run_id, "k")
        assert find_version(client, store, run_id) is None
        register_version(client, store, run_id, "k")
        assert find_version(client, store, run_id).name == store.experiment

    def test_a_run_without_a_model_is_rejected(self, client: MlflowClient, store: Store) -> None:
        run_id = record_run(store, {}, "bare", {})
        with pytest.raises(StageError, match=f"^run {run_id} has no model; record the result in a new store"):
            register_version(client, store, run_id, "k")
        assert client.search_registered_models(f"name = '{store.experiment}'") == []


class TestName:
    @pytest.mark.parametrize(
        ("experiment", "name"), [("darkroom", "darkroom"), ("/Users/me: cats", "-Users-me- cats"), ("it's", "it's")]
    )
    def test_it_is_the_experiment_s_name_without_invalid_characters(
        self, database: Store, experiment: str, name: str
    ) -> None:
        store = replace(database, experiment=experiment)
        client = MlflowClient(store.address)
        if client.get_experiment_by_name(experiment) is None:
            client.create_experiment(experiment, (store.root / "artifacts").as_uri())
        assert model_name(store) == name
        assert register_version(client, store, record_with_model(store), "k").name == name


class TestAlias:
    def test_the_run_of_its_version_is_found(self, client: MlflowClient, store: Store) -> None:
        assert find_aliased(client, store, CHAMPION) is None  # no registered model
        run_id = record_with_model(store)
        register_version(client, store, run_id, "k")
        assert find_aliased(client, store, CHAMPION) is None  # no alias
        client.set_registered_model_alias(store.experiment, CHAMPION, "1")
        assert find_aliased_run(client, store, CHAMPION).info.run_id == run_id

    @pytest.mark.parametrize("code", [INVALID_PARAMETER_VALUE, RESOURCE_DOES_NOT_EXIST])
    def test_an_alias_that_mlflow_lists_but_fails_to_find_is_an_error(
        self, client: MlflowClient, store: Store, monkeypatch: pytest.MonkeyPatch, code: int
    ) -> None:
        def refuse(*_: object) -> None:
            raise MlflowException("something else", code)

        register_version(client, store, record_with_model(store), "k")
        monkeypatch.setattr(MlflowClient, "get_model_version_by_alias", refuse)
        assert find_aliased(client, store, CHAMPION) is None
        client.set_registered_model_alias(store.experiment, CHAMPION, "1")
        with pytest.raises(MlflowException, match="something else"):
            find_aliased(client, store, CHAMPION)

    def test_a_version_without_a_run_is_named(self, client: MlflowClient, store: Store) -> None:
        client.create_registered_model(store.experiment)
        client.create_model_version(store.experiment, (store.root / "elsewhere").as_uri())
        client.set_registered_model_alias(store.experiment, CHAMPION, "1")
        said = f"^version 1 of the registered model {store.experiment} has no run, .*; expected one that `dvc repro`"
        with pytest.raises(StageError, match=said):
            find_aliased_run(client, store, CHAMPION)

    def test_one_whose_run_was_deleted_is_named(self, client: MlflowClient, store: Store) -> None:
        run_id = record_with_model(store)
        register_version(client, store, run_id, "k")
        client.set_registered_model_alias(store.experiment, CHAMPION, "1")
        client.delete_run(run_id)
        said = f"is of run {run_id}, which was deleted; `mlflow runs restore --run-id {run_id}` brings it back$"
        with pytest.raises(StageError, match=said):
            find_aliased_run(client, store, CHAMPION)

    def test_one_whose_run_does_not_exist_is_named(self, client: MlflowClient, store: Store) -> None:
        client.create_registered_model(store.experiment)
        client.create_model_version(store.experiment, (store.root / "elsewhere").as_uri(), "0" * 32)
        client.set_registered_model_alias(store.experiment, CHAMPION, "1")
        with pytest.raises(StageError, match=f"is of run {'0' * 32}, which is not in the store; "):
            find_aliased_run(client, store, CHAMPION)


class TestRegistryElsewhere:
    def test_its_address_is_relative_to_the_project_s_folder(
        self, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("MLFLOW_REGISTRY_URI", f"sqlite:///registry-{store.experiment}.db")
        registry = store.root / f"registry-{store.experiment}.db"
        registry.write_bytes(new_database())
        client = open_registry(store)
        register_version(client, store, record_with_model(store), "k")
        there = MlflowClient(f"sqlite:///{registry}", f"sqlite:///{registry}")
        assert there.get_registered_model(store.experiment).name == store.experiment
        assert list(tmp_path.iterdir()) == []
        assert find_aliased(client, store, "latest").version == 1

        monkeypatch.delenv("MLFLOW_REGISTRY_URI")
        assert find_aliased(open_registry(store), store, "latest") is None
