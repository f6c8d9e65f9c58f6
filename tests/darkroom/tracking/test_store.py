import itertools
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.utils.validation import _validate_metric_name, _validate_param_name

from darkroom.pipeline.stage import StageError
from darkroom.tracking.address import hide_login
from darkroom.tracking.live_run import open_live_run
from darkroom.tracking.store import KEY_TAG, LIVE_TAG, Store, find_recorded_run, find_store, storable_name

KEY = "5" * 64
numbers = itertools.count()


@pytest.fixture
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("DVC_ROOT", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store created by MLflow itself."""
    path = tmp_path_factory.mktemp("a store with 100% odd # name") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def client(database: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{database}")


@pytest.fixture
def store(database: Path, client: MlflowClient) -> Store:
    """The store with a new experiment."""
    name = f"experiment {next(numbers)}"
    client.create_experiment(name)
    return Store(f"sqlite:///{database}", name, database.parent)


def create_run(client: MlflowClient, store: Store, status: str = "FINISHED", **tags: str) -> str:
    experiment = client.get_experiment_by_name(store.experiment)
    run_id: str = client.create_run(experiment.experiment_id).info.run_id
    for name, value in tags.items():
        client.set_tag(run_id, {"key": KEY_TAG, "live": LIVE_TAG}[name], value)
    if status != "RUNNING":
        client.set_terminated(run_id, status)
    return run_id


class TestFindStore:
    def test_the_store_is_a_database_in_the_project_by_default(
        self, workspace: Path, plain_environment: pytest.MonkeyPatch
    ) -> None:
        assert plain_environment
        assert find_store() == Store(f"sqlite:///{workspace}/mlflow.db", "darkroom", workspace)

    def test_empty_variables_count_as_unset(self, workspace: Path, plain_environment: pytest.MonkeyPatch) -> None:
        for name in ("DVC_ROOT", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
            plain_environment.setenv(name, "")
        assert find_store() == Store(f"sqlite:///{workspace}/mlflow.db", "darkroom", workspace)

    @pytest.mark.parametrize(
        ("address", "path"),
        [("sqlite:///runs/ours.db", "{project}/runs/ours.db"), ("sqlite:////srv/runs.db", "/srv/runs.db")],
        ids=["relative", "absolute"],
    )
    def test_a_relative_database_is_one_file_for_all_experiments(
        self, tmp_path: Path, workspace: Path, plain_environment: pytest.MonkeyPatch, address: str, path: str
    ) -> None:
        project = tmp_path / "project"
        plain_environment.setenv("DVC_ROOT", str(project))
        plain_environment.setenv("MLFLOW_TRACKING_URI", address)
        store = find_store()
        assert workspace != project
        assert store.address == f"sqlite:///{path.format(project=project)}"
        assert store.root == project
        assert store.locks_folder == project / ".cache/mlflow"

    def test_the_experiment_is_the_one_that_mlflow_would_use(self, plain_environment: pytest.MonkeyPatch) -> None:
        plain_environment.setenv("MLFLOW_EXPERIMENT_NAME", "guitars")
        assert find_store().experiment == "guitars"

    @pytest.mark.parametrize("address", ["http://localhost:5000", "https://user:secret@mlflow.example.org/path"])
    def test_the_address_of_a_server_is_not_changed(self, plain_environment: pytest.MonkeyPatch, address: str) -> None:
        plain_environment.setenv("MLFLOW_TRACKING_URI", address)
        store = find_store()
        assert store.address == address
        assert store.is_server

    @pytest.mark.parametrize("address", ["sqlite:///x.db", "postgresql://db/runs", "./mlruns"])
    def test_other_addresses_are_not_servers(self, plain_environment: pytest.MonkeyPatch, address: str) -> None:
        plain_environment.setenv("MLFLOW_TRACKING_URI", address)
        assert not find_store().is_server


class TestExperimentId:
    def test_the_experiment_with_the_id_is_used(
        self, store: Store, client: MlflowClient, plain_environment: pytest.MonkeyPatch
    ) -> None:
        plain_environment.setenv("MLFLOW_TRACKING_URI", store.address)
        plain_environment.setenv("MLFLOW_EXPERIMENT_ID", client.get_experiment_by_name(store.experiment).experiment_id)
        assert find_store().experiment == store.experiment
        plain_environment.setenv("MLFLOW_EXPERIMENT_NAME", "named")
        assert find_store().experiment == "named"

    def test_an_unknown_id_is_an_error(self, store: Store, plain_environment: pytest.MonkeyPatch) -> None:
        plain_environment.setenv("MLFLOW_TRACKING_URI", store.address)
        plain_environment.setenv("MLFLOW_EXPERIMENT_ID", "987")
        with pytest.raises(StageError, match="has no experiment with the id 987, which MLFLOW_EXPERIMENT_ID names"):
            find_store()

    def test_live_logging_stops_and_training_continues_if_the_server_does_not_respond(
        self, plain_environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        plain_environment.setenv("MLFLOW_TRACKING_URI", "http://someone:secret@127.0.0.1:9")
        plain_environment.setenv("MLFLOW_EXPERIMENT_ID", "1")
        assert open_live_run({}).client is None
        assert capsys.readouterr().out == (
            "train: live logging to MLflow is off (the MLflow store http://127.0.0.1:9 cannot be used (connection "
            "failed); start its server or correct MLFLOW_TRACKING_URI); training continues\n"
        )


class TestHideLogin:
    @pytest.mark.parametrize(
        ("text", "shown"),
        [
            ("https://user:secret@host/path", "https://host/path"),
            ("https://token@host:5000", "https://host:5000"),
            ("https://user:se@cret@host/path", "https://host/path"),
            ("postgresql+psycopg2://user:secret@db/runs", "postgresql+psycopg2://db/runs"),
            ("GET http://a:b@h1/x failed, then http://c:d@h2/y", "GET http://h1/x failed, then http://h2/y"),
            ("https://host/people/@me", "https://host/people/@me"),
            ("https://host and a@b", "https://host and a@b"),
            ("sqlite:////home/a@b/mlflow.db", "sqlite:////home/a@b/mlflow.db"),
        ],
    )
    def test_names_and_passwords_are_removed_from_addresses(self, text: str, shown: str) -> None:
        assert hide_login(text) == shown

    def test_a_store_s_shown_address_has_none(self, tmp_path: Path) -> None:
        assert Store("https://user:secret@host", "darkroom", tmp_path).shown_address == "https://host"


class TestFindRecordedRun:
    def test_the_finished_run_with_the_key_is_found(self, client: MlflowClient, store: Store) -> None:
        create_run(client, store, key="0" * 64)
        run_id = create_run(client, store, key=KEY)
        assert find_recorded_run(store, KEY) == run_id

    def test_the_address_may_have_options(self, client: MlflowClient, store: Store) -> None:
        run_id = create_run(client, store, key=KEY)
        assert find_recorded_run(Store(f"{store.address}?timeout=5", store.experiment, store.root), KEY) == run_id

    def test_an_unknown_key_has_no_run(self, client: MlflowClient, store: Store) -> None:
        create_run(client, store, key=KEY)
        assert find_recorded_run(store, "0" * 64) is None

    @pytest.mark.parametrize("status", ["RUNNING", "FAILED", "KILLED"])
    def test_an_unfinished_run_is_ignored(self, client: MlflowClient, store: Store, status: str) -> None:
        create_run(client, store, status, key=KEY)
        assert find_recorded_run(store, KEY) is None

    def test_a_deleted_run_is_ignored(self, client: MlflowClient, store: Store) -> None:
        client.delete_run(create_run(client, store, key=KEY))
        assert find_recorded_run(store, KEY) is None

    def test_a_run_of_another_experiment_is_ignored(self, client: MlflowClient, store: Store) -> None:
        create_run(client, store, key=KEY)
        client.create_experiment(f"other than {store.experiment}")
        assert find_recorded_run(Store(store.address, f"other than {store.experiment}", store.root), KEY) is None

    def test_an_open_live_run_leaves_the_search_to_mlflow(self, client: MlflowClient, store: Store) -> None:
        run_id = create_run(client, store, key=KEY)
        live = create_run(client, store, "RUNNING", live="train")
        assert find_recorded_run(store, KEY) is None
        client.set_terminated(live)
        assert find_recorded_run(store, KEY) == run_id

    def test_an_open_run_of_another_program_does_not_matter(self, client: MlflowClient, store: Store) -> None:
        run_id = create_run(client, store, key=KEY)
        create_run(client, store, "RUNNING")
        assert find_recorded_run(store, KEY) == run_id

    def test_without_a_database_there_is_no_run_and_none_is_created(self, tmp_path: Path) -> None:
        assert find_recorded_run(Store(f"sqlite:///{tmp_path}/mlflow.db", "darkroom", tmp_path), KEY) is None
        assert not list(tmp_path.iterdir())

    def test_a_database_with_other_tables_has_no_run(self, tmp_path: Path) -> None:
        with closing(sqlite3.connect(tmp_path / "mlflow.db")) as connection:
            connection.execute("CREATE TABLE runs (name TEXT)")
        assert find_recorded_run(Store(f"sqlite:///{tmp_path}/mlflow.db", "darkroom", tmp_path), KEY) is None

    def test_a_file_that_is_not_a_database_has_no_run(self, tmp_path: Path) -> None:
        (tmp_path / "mlflow.db").write_text("no database")
        assert find_recorded_run(Store(f"sqlite:///{tmp_path}/mlflow.db", "darkroom", tmp_path), KEY) is None

    @pytest.mark.parametrize("address", ["http://localhost:1", "postgresql://db/runs"])
    def test_other_stores_are_left_to_mlflow(self, tmp_path: Path, address: str) -> None:
        assert find_recorded_run(Store(address, "darkroom", tmp_path), KEY) is None


class TestStorableName:
    @pytest.mark.parametrize(
        ("name", "stored"),
        [
            ("train.epochs", "train.epochs"),
            ("test_f1/Great Dane_2-b.c", "test_f1/Great Dane_2-b.c"),
            ("test_f1/Bär", "test_f1/Bär"),
            ("acquire.classes.it's", "acquire.classes.it_27_s"),
            ("a,b:c", "a_2c_b_3a_c"),
        ],
    )
    def test_invalid_characters_become_their_code_points(self, name: str, stored: str) -> None:
        assert storable_name(name) == stored

    @settings(deadline=None, max_examples=100)
    @given(st.text(st.characters(exclude_characters="./"), min_size=1, max_size=400))
    def test_mlflow_accepts_the_name_of_any_label(self, label: str) -> None:
        _validate_metric_name(storable_name(f"test_f1/{label}"))
        _validate_param_name(storable_name(f"acquire.classes.{label}"))

    def test_long_names_stay_different(self) -> None:
        one, other = storable_name("a" * 300), storable_name("a" * 301)
        assert (len(one), len(other)) == (250, 250)
        assert one != other

    def test_mlflow_rejects_the_label_itself(self) -> None:
        with pytest.raises(MlflowException):
            _validate_metric_name("test_f1/a,b")
