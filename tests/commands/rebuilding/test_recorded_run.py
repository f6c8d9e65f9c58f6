from pathlib import Path

import pytest

from commands.rebuilding.recorded_run import read_run
from darkroom.pipeline.stage import StageError
from darkroom.tracking.lockfile import file_digest, read_stages, result_key
from darkroom.tracking.store import KEY_TAG, Store
from tests.recorded_runs import create_store, record_run

COMMIT = "c" * 40
LOCK = """
schema: '2.0'
stages:
  evaluate:
    cmd: python -m stages.evaluate
    params: {{params.yaml: {{evaluate: {{batch_size: 256}}}}}}
    outs: [{{path: data/evaluate/predictions.csv, md5: {digest}}}]
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return create_store(tmp_path_factory.mktemp("store"))


@pytest.fixture
def files(workspace: Path) -> dict[str, str]:
    """The text files of a run, by path."""
    (workspace / "predictions.csv").write_text("photo,label\na,cat\n")
    return {
        "dvc.lock": LOCK.format(digest=file_digest(workspace / "predictions.csv")),
        "params.yaml": "evaluate: {batch_size: 256}\nsplit: {seed: 1}\n",
        "data/evaluate/predictions.csv": "photo,label\na,cat\n",
    }


def tags_of(files: dict[str, str]) -> dict[str, str]:
    Path("dvc.lock").write_text(files["dvc.lock"])
    key = result_key(read_stages(Path("dvc.lock")))
    return {KEY_TAG: key, "mlflow.source.git.commit": COMMIT, "darkroom.git_dirty": "true"}


def test_a_run_is_read_with_its_files(store: Store, files: dict[str, str], tmp_path: Path) -> None:
    run_id = record_run(store, files, "brave-cat-1", tags_of(files))
    run = read_run(store, "brave-c", tmp_path / "run")
    assert (run.run_id, run.name, run.commit, run.is_dirty) == (run_id, "brave-cat-1", COMMIT, True)
    assert list(run.stages) == ["evaluate"]
    assert {path: (run.folder / path).read_text() for path in files} == files


class TestRequirements:
    @pytest.mark.parametrize(
        ("missing", "message"),
        [(KEY_TAG, "has no recorded result"), ("mlflow.source.git.commit", "recorded outside Git")],
    )
    def test_a_run_needs_a_key_and_a_commit(
        self, store: Store, files: dict[str, str], tmp_path: Path, missing: str, message: str
    ) -> None:
        tags = {name: value for name, value in tags_of(files).items() if name != missing}
        with pytest.raises(StageError, match=message):
            read_run(store, record_run(store, files, "incomplete", tags), tmp_path)

    @pytest.mark.parametrize("missing", ["dvc.lock", "params.yaml", "data/evaluate/predictions.csv"])
    def test_a_run_needs_its_files(self, store: Store, files: dict[str, str], tmp_path: Path, missing: str) -> None:
        tags = tags_of(files)
        del files[missing]
        with pytest.raises(StageError, match=f"^{missing} of run .* cannot be downloaded .* in a new store"):
            read_run(store, record_run(store, files, "incomplete", tags), tmp_path)

    @pytest.mark.parametrize(
        ("path", "old", "new", "message"),
        [
            ("dvc.lock", "256", "255", "^dvc.lock of run .* is not what was recorded"),
            ("data/evaluate/predictions.csv", "cat", "dog", "^data/evaluate/predictions.csv of run .* is not what"),
            ("params.yaml", "256", "255", "^params.yaml of run .* they differ in evaluate.batch_size;"),
        ],
    )
    def test_the_files_must_match_each_other(
        self, store: Store, files: dict[str, str], tmp_path: Path, path: str, old: str, new: str, message: str
    ) -> None:
        tags = tags_of(files)
        files[path] = files[path].replace(old, new)
        with pytest.raises(StageError, match=message):
            read_run(store, record_run(store, files, "changed", tags), tmp_path)
