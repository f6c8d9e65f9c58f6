import re
from pathlib import Path

import pytest
from mlflow import MlflowClient

from stages.lib.lockfile import file_digest, read_stages, result_key
from stages.lib.recorded_run import read_run
from stages.lib.stage import StageError
from stages.lib.store import KEY_TAG, Store

COMMIT = "c" * 40
LOCK = """
stages:
  evaluate:
    cmd: python -m stages.evaluate
    params: {{params.yaml: {{evaluate: {{batch_size: 256}}}}}}
    outs: [{{path: data/evaluate/predictions.csv, md5: {digest}}}]
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    root = tmp_path_factory.mktemp("store")
    store = Store(f"sqlite:///{root}/mlflow.db", "darkroom", root)
    MlflowClient(store.address).create_experiment("darkroom", (root / "artifacts").as_uri())
    return store


@pytest.fixture
def files(workspace: Path) -> dict[str, str]:
    """What a run holds, by path."""
    (workspace / "predictions.csv").write_text("photo,label\na,cat\n")
    return {
        "dvc.lock": LOCK.format(digest=file_digest(workspace / "predictions.csv")),
        "params.yaml": "evaluate: {batch_size: 256}\nsplit: {seed: 1}\n",
        "data/evaluate/predictions.csv": "photo,label\na,cat\n",
    }


def record(store: Store, files: dict[str, str], name: str, **tags: str) -> str:
    client = MlflowClient(store.address)
    experiment = client.get_experiment_by_name(store.experiment)
    run_id: str = client.create_run(experiment.experiment_id, run_name=name, tags=tags).info.run_id
    for path, text in files.items():
        client.log_text(run_id, text, path)
    client.set_terminated(run_id)
    return run_id


def tags_of(files: dict[str, str]) -> dict[str, str]:
    Path("dvc.lock").write_text(files["dvc.lock"])
    key = result_key(read_stages(Path("dvc.lock")))
    return {KEY_TAG: key, "mlflow.source.git.commit": COMMIT, "darkroom.git_dirty": "true"}


class TestWhichRun:
    def test_an_id_a_name_and_their_beginnings_are_enough(
        self, store: Store, files: dict[str, str], tmp_path: Path
    ) -> None:
        run_id = record(store, files, "brave-cat-1", **tags_of(files))
        for number, wanted in enumerate((run_id, run_id[:10], "brave-cat-1", "brave-c")):
            run = read_run(store, wanted, tmp_path / str(number))
            assert (run.run_id, run.name, run.commit, run.is_dirty) == (run_id, "brave-cat-1", COMMIT, True)
            assert list(run.stages) == ["evaluate"]
            assert {path: (run.folder / path).read_text() for path in files} == files

    def test_a_name_goes_before_what_begins_with_it(self, store: Store, files: dict[str, str], tmp_path: Path) -> None:
        wanted = record(store, files, "tall", **tags_of(files))
        record(store, files, "taller", **tags_of(files))
        assert read_run(store, "tall", tmp_path / "run").run_id == wanted

    def test_one_of_several_is_not_chosen(self, store: Store, files: dict[str, str], tmp_path: Path) -> None:
        runs = [record(store, files, "twin") for _ in range(2)]
        with pytest.raises(StageError, match="^twin is no single run of .*; give the id of one$") as error:
            read_run(store, "twin", tmp_path)
        assert all(run in str(error.value) for run in runs)

    @pytest.mark.parametrize("wanted", ["nobody", "0" * 32])
    def test_an_unknown_one_is_named(self, store: Store, tmp_path: Path, wanted: str) -> None:
        with pytest.raises(StageError, match=f"^there is no run {wanted} in the experiment darkroom of sqlite"):
            read_run(store, wanted, tmp_path)


class TestWhatItMustHold:
    @pytest.mark.parametrize(
        ("lacking", "message"),
        [(KEY_TAG, "holds no recorded result"), ("mlflow.source.git.commit", "recorded outside Git")],
    )
    def test_a_key_and_a_commit(
        self, store: Store, files: dict[str, str], tmp_path: Path, lacking: str, message: str
    ) -> None:
        tags = {name: value for name, value in tags_of(files).items() if name != lacking}
        with pytest.raises(StageError, match=message):
            read_run(store, record(store, files, "lacking", **tags), tmp_path)

    @pytest.mark.parametrize("lacking", ["dvc.lock", "params.yaml", "data/evaluate/predictions.csv"])
    def test_its_files(self, store: Store, files: dict[str, str], tmp_path: Path, lacking: str) -> None:
        tags = tags_of(files)
        del files[lacking]
        with pytest.raises(StageError, match=f"^{lacking} of run .* cannot be fetched .* in a new store"):
            read_run(store, record(store, files, "lacking", **tags), tmp_path)

    @pytest.mark.parametrize(
        ("path", "old", "new", "message"),
        [
            ("dvc.lock", "256", "255", "^dvc.lock of run .* cannot be what was recorded"),
            ("data/evaluate/predictions.csv", "cat", "dog", "^data/evaluate/predictions.csv of run .* cannot be what"),
            ("params.yaml", "256", "255", "^params.yaml of run .* they differ in evaluate.batch_size;"),
        ],
    )
    def test_files_that_belong_together(
        self, store: Store, files: dict[str, str], tmp_path: Path, path: str, old: str, new: str, message: str
    ) -> None:
        tags = tags_of(files)
        files[path] = files[path].replace(old, new)
        with pytest.raises(StageError, match=message):
            read_run(store, record(store, files, "changed", **tags), tmp_path)


class TestStore:
    def test_none_is_created(self, tmp_path: Path) -> None:
        store = Store(f"sqlite:///{tmp_path}/mlflow.db", "darkroom", tmp_path)
        with pytest.raises(StageError, match=f"^there is no MLflow store {re.escape(store.address)}"):
            read_run(store, "any", tmp_path / "run")
        assert list(tmp_path.iterdir()) == []

    def test_a_server_that_is_away_is_named_without_the_login(self, tmp_path: Path) -> None:
        store = Store("http://someone:secret@127.0.0.1:9", "darkroom", tmp_path)
        with pytest.raises(StageError, match=r"^the MLflow store http://127.0.0.1:9 cannot be used \(nobody answers"):
            read_run(store, "any", tmp_path)

    def test_what_is_no_database_is_no_store(self, tmp_path: Path) -> None:
        (tmp_path / "mlflow.db").write_text("something else, longer than the header of a database " * 10)
        with pytest.raises(StageError, match="cannot be used"):
            read_run(Store(f"sqlite:///{tmp_path}/mlflow.db", "darkroom", tmp_path), "any", tmp_path)
