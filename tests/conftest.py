"""Fixtures that several test modules use."""

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.built_once import build_once, shared_folder
from tests.examples import train_params
from tests.fake_web import FakeWeb
from tests.fork_server import exclude_imports_from_garbage_collection
from tests.project import Project, copy_small_project, draw_photos

# The files that take longest, so that one process does not start them while the other has nothing left to do.
LONGEST = ("test_end_to_end", "test_gradcam", "test_rebuild", "test_training", "test_mlflow_ui", "test_checkpoint")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest files first, then those with the most slow tests."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: (item.path.stem not in LONGEST, -slow[item.path]))


def pytest_collection_finish() -> None:
    exclude_imports_from_garbage_collection()


@pytest.fixture(scope="session", autouse=True)
def threads_of_trainings() -> None:
    """Set TensorFlow's threads, which must happen before its first operation in any test."""
    if "keras" in sys.modules:  # else no test that was collected trains here; importing it takes ten seconds
        from darkroom.models.backend import make_deterministic

        make_deterministic(train_params().seed, train_params().threads)


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder as the current one, without a configured tracking store."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)  # which MLflow itself sets in a process
    return tmp_path


@pytest.fixture
def drawn_photos(tmp_path: Path) -> Path:
    """A folder per class with twelve drawn photos each."""
    folder = tmp_path / "drawn"
    draw_photos(folder)
    return folder


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeWeb]:
    """A fake web on loopback, which this process and its children use as a proxy."""
    with FakeWeb() as web:
        for name, value in web.environment.items():
            monkeypatch.setenv(name, value)
        yield web


@pytest.fixture(scope="session")
def recorded_project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A small project with two recorded runs, of three and of two epochs.

    All processes of a test run share it, and its store holds its absolute path: tests must not change it.
    """
    folder = shared_folder(tmp_path_factory) / "recorded"
    build_once(folder, build_recorded_project)
    return Project(folder / "project", forks=True)


def build_recorded_project(folder: Path) -> None:
    project = copy_small_project(folder / "project")
    project.forks = True
    project.dvc("repro")
    project.set_params(train__epochs=2)
    project.dvc("repro")
