"""Fixtures that several test modules use."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.examples import train_params
from tests.fake_web import FakeWeb
from tests.project import Project, copy_small_project, draw_photos

# Files that take minutes. Where files are dealt out to several processes, the last ones should be short.
LONG_FILES = ("test_end_to_end", "test_rebuild", "test_inflation", "test_mlflow_ui", "test_parity", "test_app")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.stem not in LONG_FILES)


@pytest.fixture(scope="session", autouse=True)
def threads_of_trainings() -> None:
    """TensorFlow's threads can be set before its first operation only, which is in whatever test comes first."""
    if "keras" in sys.modules:  # else no test that was collected trains here; importing it takes ten seconds
        from darkroom.models.backend import make_deterministic

        make_deterministic(train_params().seed, train_params().threads)


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is the current one, and has the store that a project has by itself."""
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
    """A web of our own on loopback, to which this process and its children are led."""
    with FakeWeb() as web:
        for name, value in web.environment.items():
            monkeypatch.setenv(name, value)
        yield web


@pytest.fixture(scope="session")
def recorded_project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A small project with two recorded runs, of three and of two epochs. Tests must leave it as it is."""
    project = copy_small_project(tmp_path_factory.mktemp("recorded") / "project")
    project.dvc("repro")
    project.set_params(train__epochs=2)
    project.dvc("repro")
    return project
