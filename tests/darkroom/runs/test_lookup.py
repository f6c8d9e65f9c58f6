import errno
import re
from pathlib import Path

import pytest
from mlflow.entities import Run

from darkroom.pipeline.stage import StageError
from darkroom.runs.lookup import check_result, fetch_run_file, find_keyed_run, find_run, open_existing
from darkroom.runs.registry import register_version
from darkroom.tracking.store import KEY_TAG, Store
from tests.recorded_runs import create_store, log_model_of, record_run


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return create_store(tmp_path_factory.mktemp("store"))


def look_up(store: Store, wanted: str) -> Run:
    with open_existing(store) as client:
        return find_run(client, store, wanted)


class TestOpening:
    @pytest.mark.parametrize("error", [BrokenPipeError(), OSError(errno.ENOSPC, "No space left on device")], ids=str)
    def test_errors_of_the_command_are_not_blamed_on_the_store(self, store: Store, error: OSError) -> None:
        with pytest.raises(OSError, match=re.escape(str(error))) as raised, open_existing(store):
            raise error
        assert raised.value is error

    def test_a_registry_elsewhere_is_named_too(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MLFLOW_REGISTRY_URI", "https://someone:secret@models.example.org")
        with (
            pytest.raises(StageError, match=r"mlflow\.db or its registry https://models\.example\.org cannot be used"),
            open_existing(store),
        ):
            raise ConnectionError("refused")


class TestWhichRun:
    def test_a_run_is_found_by_id_name_or_the_beginning_of_either(self, store: Store) -> None:
        run_id = record_run(store, {}, "brave-cat-1", {})
        for wanted in (run_id, run_id[:10], "brave-cat-1", "brave-c"):
            run = look_up(store, wanted)
            assert (run.info.run_id, run.info.run_name) == (run_id, "brave-cat-1")

    def test_an_exact_name_takes_precedence(self, store: Store) -> None:
        wanted = record_run(store, {}, "tall", {})
        record_run(store, {}, "taller", {})
        assert look_up(store, "tall").info.run_id == wanted

    def test_an_ambiguous_name_is_rejected(self, store: Store) -> None:
        runs = [record_run(store, {}, "twin", {}) for _ in range(2)]
        with pytest.raises(StageError, match="^twin matches several runs of .*; give the id of one$") as error:
            look_up(store, "twin")
        assert all(run in str(error.value) for run in runs)

    def test_a_deleted_run_is_rejected(self, store: Store) -> None:
        run_id = record_run(store, {}, "gone", {})
        with open_existing(store) as client:
            client.delete_run(run_id)
        with pytest.raises(StageError, match=f"^run {run_id} was deleted; `mlflow runs restore --run-id {run_id}`"):
            look_up(store, run_id)

    @pytest.mark.parametrize("wanted", ["nobody", "0" * 32])
    def test_an_unknown_run_is_named(self, store: Store, wanted: str) -> None:
        with pytest.raises(StageError, match=f"^there is no run {wanted} in the experiment darkroom of sqlite"):
            look_up(store, wanted)

    def test_an_alias_of_the_registered_model_is_the_run_of_its_version(self, store: Store) -> None:
        runs = [record_run(store, {}, name, {}) for name in ("first-of-two", "second-of-two")]
        with open_existing(store) as client:
            for run_id in runs:
                log_model_of(store, run_id)
                version = register_version(client, store, run_id, "k")
            client.set_registered_model_alias("darkroom", "best-so-far", version.version)
        assert look_up(store, "@best-so-far").info.run_id == runs[1]

    @pytest.mark.parametrize(("wanted", "shown"), [("@nobody", "nobody"), ("@", r"\(empty\)"), ("@a b", "a b")])
    def test_an_unknown_alias_is_named(self, store: Store, wanted: str, shown: str) -> None:
        said = f"^no version of the registered model darkroom of sqlite:.* has the alias {shown}; .* sets @champion, "
        with pytest.raises(StageError, match=said):
            look_up(store, wanted)


class TestResult:
    def test_a_run_needs_the_tag_of_a_recorded_result(self, store: Store) -> None:
        check_result(look_up(store, record_run(store, {}, "recorded", {KEY_TAG: "k"})))
        run_id = record_run(store, {}, "live", {})
        with pytest.raises(StageError, match=f"^run {run_id} has no recorded result .* its status is FINISHED"):
            check_result(look_up(store, run_id))

    def test_the_finished_run_of_a_key_is_found(self, store: Store) -> None:
        with open_existing(store) as client:
            assert find_keyed_run(client, store, "twice") is None
            finished, unfinished = (record_run(store, {}, "keyed", {KEY_TAG: "twice"}) for _ in range(2))
            client.update_run(unfinished, status="RUNNING")
            assert find_keyed_run(client, store, "twice").info.run_id == finished
            client.update_run(finished, status="KILLED")
            assert find_keyed_run(client, store, "twice") is None


class TestFiles:
    def test_a_file_is_downloaded_to_its_path(self, store: Store, tmp_path: Path) -> None:
        run = look_up(store, record_run(store, {"data/a/b.csv": "1\n"}, "filed", {}))
        with open_existing(store) as client:
            fetch_run_file(client, run, Path("data/a/b.csv"), tmp_path)
        assert (tmp_path / "data/a/b.csv").read_text() == "1\n"

    def test_a_missing_file_is_named(self, store: Store, tmp_path: Path) -> None:
        run = look_up(store, record_run(store, {}, "bare", {}))
        with (
            open_existing(store) as client,
            pytest.raises(StageError, match="^data/a/b.csv of run .* cannot be downloaded .* in a new store"),
        ):
            fetch_run_file(client, run, Path("data/a/b.csv"), tmp_path)


class TestStore:
    def test_a_missing_store_is_not_created(self, tmp_path: Path) -> None:
        store = Store(f"sqlite:///{tmp_path}/mlflow.db", "darkroom", tmp_path)
        with pytest.raises(StageError, match=f"^there is no MLflow store {re.escape(store.address)}"):
            look_up(store, "any")
        assert list(tmp_path.iterdir()) == []

    def test_an_unreachable_server_is_named_without_the_login(self, tmp_path: Path) -> None:
        store = Store("http://someone:secret@127.0.0.1:9", "darkroom", tmp_path)
        with pytest.raises(
            StageError, match=r"^the MLflow store http://127.0.0.1:9 cannot be used \(connection failed"
        ):
            look_up(store, "any")

    def test_a_file_that_is_not_a_database_is_rejected(self, tmp_path: Path) -> None:
        (tmp_path / "mlflow.db").write_text("something else, longer than the header of a database " * 10)
        with pytest.raises(StageError, match="cannot be used"):
            look_up(Store(f"sqlite:///{tmp_path}/mlflow.db", "darkroom", tmp_path), "any")
