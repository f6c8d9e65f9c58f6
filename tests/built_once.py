"""Folders that take long to build: once in a test run, by whichever of its processes needs one first."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock


def shared_folder(factory: pytest.TempPathFactory) -> Path:
    """The temporary folder of this test run, which all its processes have in common and no other test run has."""
    own = factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


def build_once(folder: Path, build: Callable[[Path], object]) -> None:
    """Let `build` fill the new `folder`, or wait until another process has done so; after a failure start again."""
    built = folder.with_name(f"{folder.name}.built")
    with FileLock(f"{folder}.lock"):
        if not built.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            build(folder)
            built.touch()
