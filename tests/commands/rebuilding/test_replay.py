import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from dvc.config import Config

from commands.rebuilding.replay import Checkout, find_python, format_config, list_output_files, share_cache
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


@pytest.fixture(scope="module")
def workspace_to_copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    project = Project(tmp_path_factory.mktemp("built") / "workspace")
    project.root.mkdir()
    project.dvc("init", "--quiet", "--no-scm")
    project.dvc("remote", "add", "--default", "team", "../remote")
    (project.root / "dvc.yaml").write_text(STAGES)
    project.dvc("repro", "--quiet", "train")
    return project.root


@pytest.fixture
def project(workspace_to_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A workspace as the current folder, with the outputs of its stages in DVC's cache, and a remote next to it."""
    shutil.copytree(workspace_to_copy, tmp_path / "workspace")
    monkeypatch.chdir(tmp_path / "workspace")
    return Project(tmp_path / "workspace")


@pytest.fixture
def checkout(project: Project, tmp_path: Path) -> Checkout:
    """A second copy of the project, without outputs, cache or configuration."""
    folder = tmp_path / "second"
    for file in ("dvc.yaml", "dvc.lock", ".dvc/config"):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(project.root / file, folder / file)
    (folder / ".dvc/config").write_text("[core]\n    no_scm = true\n")
    return Checkout(folder, PYTHON)


def restore(checkout: Checkout, remote: str | None = "team") -> str | None:
    """Restore the outputs of acquire, with the configuration that `share_cache` would ask two processes for."""
    cache = Path(".dvc/cache").resolve()
    remote_folder = Path("../remote").resolve()
    values = {"core.remote": "team", "cache.dir": str(cache), "remote.team.url": str(remote_folder)}
    (checkout.folder / ".dvc/config.local").write_text(format_config(values))
    digests = output_digests({"acquire": read_stages(Path("dvc.lock"))["acquire"]})
    return checkout.restore("acquire", digests, cache, remote)


def empty_cache(project: Project) -> None:
    shutil.rmtree(project.root / ".dvc/cache/files")


class TestRestore:
    def test_outputs_come_from_the_cache(self, checkout: Checkout) -> None:
        assert restore(checkout) == "DVC's cache"
        assert (checkout.folder / "photos/dog").read_text() == "dog\n"
        assert (checkout.folder / "photos.csv").exists()
        assert not (checkout.folder / "model").exists()

    def test_outputs_that_the_cache_lacks_come_from_the_remote(self, project: Project, checkout: Checkout) -> None:
        project.dvc("push", "--quiet")
        empty_cache(project)
        assert restore(checkout) == "the remote team"
        assert (checkout.folder / "photos/dog").read_text() == "dog\n"

    @pytest.mark.parametrize("remote", ["team", None])
    def test_outputs_that_neither_has_are_not_restored(
        self, project: Project, checkout: Checkout, remote: str | None
    ) -> None:
        empty_cache(project)
        assert restore(checkout, remote) is None

    def test_corrupt_files_are_named(self, project: Project, checkout: Checkout) -> None:
        listed = output_digests(read_stages(Path("dvc.lock")))
        digest = dict(list_output_files(listed, project.root / ".dvc/cache"))["photos/dog"]
        corrupt = project.root / ".dvc/cache/files/md5" / digest[:2] / digest[2:]
        corrupt.chmod(0o644)
        corrupt.write_text("cow\n")
        corrupt.chmod(0o444)
        with pytest.raises(StageError, match="^1 files of the stage acquire from DVC's cache are corrupt") as error:
            restore(checkout)
        assert str(corrupt) in str(error.value)


class TestRunStage:
    def test_a_stage_runs_again_and_the_cache_is_unchanged(self, project: Project, checkout: Checkout) -> None:
        restore(checkout)
        cached = sorted((project.root / ".dvc/cache").rglob("*"))
        checkout.rerun_stage("train")
        assert (checkout.folder / "model").read_text() != (project.root / "model").read_text()
        assert read_stages(checkout.folder / "dvc.lock")["train"] != read_stages(Path("dvc.lock"))["train"]
        assert sorted((project.root / ".dvc/cache").rglob("*")) == cached

    def test_a_stage_that_fails_is_named_and_its_output_is_shown(
        self, checkout: Checkout, capfd: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(StageError, match="^the stage fail failed, see its output above"):
            checkout.rerun_stage("fail")
        assert "the reason" in capfd.readouterr().err


@pytest.fixture
def _interruptible() -> Iterator[None]:
    """Ctrl+C as in a terminal: processes that a shell starts in the background ignore it."""
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, inherited)


class TestRun:
    def test_environment_variables_are_inherited_except_those_of_the_workspace(self, tmp_path: Path) -> None:
        code = f"""
from pathlib import Path
from commands.rebuilding.replay import Checkout
import os; os.environ["ADDED"] = "later"
Checkout(Path({str(tmp_path)!r}), Path("/their/bin/python")).run("env")
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
    def test_an_interrupt_kills_all_child_processes(self, tmp_path: Path) -> None:
        pid = tmp_path / "pid"

        def interrupt() -> None:
            while not (pid.exists() and pid.read_text().endswith("\n")):
                time.sleep(0.01)
            time.sleep(0.5)  # until the command is waited for
            os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=interrupt, daemon=True).start()
        with pytest.raises(KeyboardInterrupt):
            Checkout(tmp_path, PYTHON).run("sh", "-c", "trap '' INT; sleep 100 & echo $! > pid; wait")
        assert not psutil.pid_exists(int(pid.read_text()))


class TestShareCache:
    def test_cache_and_remotes_are_those_of_the_workspace(self, project: Project, checkout: Checkout) -> None:
        odd = 'it\'s a #1, = "quoted"'
        with Config(project.root / ".dvc").edit("local") as config:  # as `dvc remote` does it
            config["remote"]["our.web"] = {"url": "https://example.org/photos", "password": odd}
        cache, remote = share_cache(checkout.folder)
        assert (cache, remote) == (project.root / ".dvc/cache", "team")
        config = Config(checkout.folder / ".dvc")
        assert config["cache"]["dir"] == str(cache)
        assert config["remote"]["team"]["url"] == str(project.root.parent / "remote")
        assert config["remote"]["our.web"]["url"] == "https://example.org/photos"
        assert config["remote"]["our.web"]["password"] == odd
        assert (checkout.folder / ".dvc/config.local").stat().st_mode & 0o077 == 0

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

    def test_with_the_same_packages_it_is_this_python(self, folder: Path) -> None:
        shutil.copyfile("requirements.lock", folder / "requirements.lock")
        assert find_python(folder) == PYTHON

    def test_the_makefile_installs_other_packages(self, folder: Path) -> None:
        rule = ".venv/.requirements.installed: requirements.lock\n\tmkdir -p .venv/bin\n"
        (folder / "Makefile").write_text(f"{rule}\tln -s $(PYTHON) .venv/bin/python\n\ttouch $@\n")
        python = find_python(folder)
        assert python == folder / ".venv/bin/python"
        assert subprocess.run([python, "--version"], check=True, capture_output=True).stdout.startswith(b"Python 3")

    def test_packages_that_cannot_be_installed_are_an_error(self, folder: Path) -> None:
        with pytest.raises(StageError, match="^the packages of the run, .*, could not be installed: `make PYTHON="):
            find_python(folder)
