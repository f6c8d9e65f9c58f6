import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from dvc.config import Config

from commands.rebuilding.replay import Rebuilding, find_python, format_config, list_files, share_cache
from darkroom.pipeline.stage import StageError
from darkroom.tracking.lockfile import output_digests, read_stages
from tests.project import ROOT, Project

pytestmark = pytest.mark.slow

STAGES = """
stages:
  acquire:
    cmd: mkdir -p photos && echo cat > photos/cat && echo dog > photos/dog && echo 2 > photos.csv
    outs: [photos, photos.csv]
  train:
    cmd: date +%s%N > model
    deps: [photos]
    outs: [model]
  fail:
    cmd: echo the reason >&2; exit 3
"""
PYTHON = Path(sys.executable)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """The current folder: a workspace with the outputs of its stages in DVC's cache, and a remote beside it."""
    project = Project(tmp_path / "workspace")
    project.root.mkdir()
    project.dvc("init", "--quiet", "--no-scm")
    project.dvc("remote", "add", "--default", "team", "../remote")
    (project.root / "dvc.yaml").write_text(STAGES)
    project.dvc("repro", "--quiet", "train")
    monkeypatch.chdir(project.root)
    return project


@pytest.fixture
def second(project: Project, tmp_path: Path) -> Rebuilding:
    """A second place of the project, without outputs, cache or configuration of its own."""
    folder = tmp_path / "second"
    for file in ("dvc.yaml", "dvc.lock", ".dvc/config"):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(project.root / file, folder / file)
    (folder / ".dvc/config").write_text("[core]\n    no_scm = true\n")
    return Rebuilding(folder, PYTHON)


def restore(second: Rebuilding, remote: str | None = "team") -> str | None:
    cache, _ = share_cache(second.folder)
    digests = output_digests({"acquire": read_stages(Path("dvc.lock"))["acquire"]})
    return second.restore("acquire", digests, cache, remote)


def empty_cache(project: Project) -> None:
    shutil.rmtree(project.root / ".dvc/cache/files")


class TestRestore:
    def test_what_the_cache_has_comes_from_there(self, second: Rebuilding) -> None:
        assert restore(second) == "DVC's cache"
        assert (second.folder / "photos/dog").read_text() == "dog\n"
        assert (second.folder / "photos.csv").exists()
        assert not (second.folder / "model").exists()

    def test_what_the_remote_alone_has_comes_from_there(self, project: Project, second: Rebuilding) -> None:
        project.dvc("push", "--quiet")
        empty_cache(project)
        assert restore(second) == "the remote team"
        assert (second.folder / "photos/dog").read_text() == "dog\n"

    @pytest.mark.parametrize("remote", ["team", None])
    def test_what_is_nowhere_does_not_come(self, project: Project, second: Rebuilding, remote: str | None) -> None:
        empty_cache(project)
        assert restore(second, remote) is None

    def test_what_is_damaged_is_named(self, project: Project, second: Rebuilding) -> None:
        listed = output_digests(read_stages(Path("dvc.lock")))
        digest = dict(list_files(listed, project.root / ".dvc/cache"))["photos/dog"]
        damaged = project.root / ".dvc/cache/files/md5" / digest[:2] / digest[2:]
        damaged.chmod(0o644)
        damaged.write_text("cow\n")
        damaged.chmod(0o444)
        with pytest.raises(StageError, match="^1 files of the stage acquire came damaged from DVC's cache") as error:
            restore(second)
        assert str(damaged) in str(error.value)


class TestMake:
    def test_a_stage_runs_again_and_the_cache_knows_nothing_of_it(self, project: Project, second: Rebuilding) -> None:
        restore(second)
        cached = sorted((project.root / ".dvc/cache").rglob("*"))
        second.make("train")
        assert (second.folder / "model").read_text() != (project.root / "model").read_text()
        assert read_stages(second.folder / "dvc.lock")["train"] != read_stages(Path("dvc.lock"))["train"]
        assert sorted((project.root / ".dvc/cache").rglob("*")) == cached

    def test_a_stage_that_fails_is_named_and_says_why(
        self, second: Rebuilding, capfd: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(StageError, match="^the stage fail failed, see above what it said"):
            second.make("fail")
        assert "the reason" in capfd.readouterr().err


@pytest.fixture
def _interruptible() -> Iterator[None]:
    """Ctrl+C as in a terminal: what a shell starts in the background ignores it."""
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, inherited)


class TestRun:
    def test_the_user_s_variables_are_passed_on_but_those_that_lead_to_the_workspace(self, tmp_path: Path) -> None:
        code = f"""
from pathlib import Path
from commands.rebuilding.replay import Rebuilding
import os; os.environ["ADDED"] = "later"
Rebuilding(Path({str(tmp_path)!r}), Path("/their/bin/python")).run("env")
"""
        names = ("DVC_ROOT", "DVC_EXP_NAME", "MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "KERAS_BACKEND", "KERAS_HOME")
        printed = Project(ROOT).run("python", "-c", code, **dict.fromkeys(names, "ours")).stdout
        found = dict(line.split("=", 1) for line in printed.splitlines() if "=" in line)
        assert {name for name in found if name.startswith(("DVC_", "MLFLOW_"))} == {"MLFLOW_TRACKING_URI"}
        assert found["MLFLOW_TRACKING_URI"] == f"sqlite:///{tmp_path}/mlflow.db"
        assert found["KERAS_BACKEND"] == found["KERAS_HOME"] == "ours"
        assert found["PATH"].split(os.pathsep)[0] == "/their/bin"
        assert "ADDED" not in found

    @pytest.mark.usefixtures("_interruptible")
    def test_an_interrupt_ends_all_that_was_started(self, tmp_path: Path) -> None:
        interrupt = threading.Timer(1, os.kill, (os.getpid(), signal.SIGINT))
        interrupt.start()
        with pytest.raises(KeyboardInterrupt):
            Rebuilding(tmp_path, PYTHON).run("sh", "-c", "trap '' INT; sleep 100 & echo $! > pid; wait")
        assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))


class TestShareCache:
    def test_cache_and_remotes_are_those_of_the_workspace(self, project: Project, second: Rebuilding) -> None:
        odd = 'it\'s a #1, = "quoted"'
        project.dvc("remote", "add", "--local", "our.web", "https://example.org/photos")
        project.dvc("remote", "modify", "--local", "our.web", "password", odd)
        cache, remote = share_cache(second.folder)
        assert (cache, remote) == (project.root / ".dvc/cache", "team")
        config = Config(second.folder / ".dvc")
        assert config["cache"]["dir"] == str(cache)
        assert config["remote"]["team"]["url"] == str(project.root.parent / "remote")
        assert config["remote"]["our.web"]["url"] == "https://example.org/photos"
        assert config["remote"]["our.web"]["password"] == odd
        assert (second.folder / ".dvc/config.local").stat().st_mode & 0o077 == 0

    def test_a_section_is_written_once(self) -> None:
        values = {"core.remote": "a", "remote.a.url": "/a", "core.analytics": "false"}
        assert format_config(values) == ('[core]\nremote = "a"\nanalytics = "false"\n[\'remote "a"\']\nurl = "/a"\n')


class TestFindPython:
    @pytest.fixture
    def folder(self, workspace: Path) -> Path:
        """A project that had other packages."""
        folder = workspace / "second"
        folder.mkdir()
        Path("requirements.lock").write_text("numpy==2\n")
        (folder / "requirements.lock").write_text("numpy==1\n")
        return folder

    def test_the_same_packages_are_those_that_run_here(self, folder: Path) -> None:
        shutil.copyfile("requirements.lock", folder / "requirements.lock")
        assert find_python(folder) == PYTHON

    def test_other_packages_are_set_up_by_the_makefile(self, folder: Path) -> None:
        rule = ".venv/.requirements.installed: requirements.lock\n\tmkdir -p .venv/bin\n"
        (folder / "Makefile").write_text(f"{rule}\tln -s $(PYTHON) .venv/bin/python\n\ttouch $@\n")
        python = find_python(folder)
        assert python == folder / ".venv/bin/python"
        assert subprocess.run([python, "--version"], check=True, capture_output=True).stdout.startswith(b"Python 3")

    def test_packages_that_cannot_be_installed_are_an_error(self, folder: Path) -> None:
        with pytest.raises(StageError, match="^the packages of the run, .*, could not be installed: `make PYTHON="):
            find_python(folder)
