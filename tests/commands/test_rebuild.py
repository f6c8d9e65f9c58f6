"""Results rebuilt from their runs: an old commit, with params that were never committed and a run that DVC restored."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from mlflow.entities import Run

from commands.rebuild import describe_environment_change
from commands.rebuilding.recorded_run import RecordedRun
from darkroom.pipeline.files import write_json
from darkroom.pipeline.paths import TRAIN_ENVIRONMENT
from darkroom.tracking.lockfile import file_digest, output_digests
from tests.fork_server import start_forks
from tests.project import Project, executed_stages

pytestmark = pytest.mark.slow

# The predictions of this commit depend on a variable that no stage records, so that a rebuilt result can differ.
PREDICTED = "    predicted = probabilities.argmax(axis=1)\n"
SECRET = '    probabilities **= float(__import__("os").environ.get("SECRET", "1"))\n'
# Its own Makefile sets up its packages: the installed ones, because the tests have no package index.
MAKEFILE = '.venv/.requirements.installed:\n\tln -s "$(PACKAGES)" .venv\n'
REBUILT = ["augment", "split", "train", "evaluate", "explain"]
IDENTICAL = [f"{stage:<8}  identical" for stage in REBUILT]


@pytest.fixture(scope="module")
def project(recorded_project: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project with a single run: DVC restored all of it but the evaluation, and its params were not committed. Newer
    commits have other code, packages and params."""
    project = Project(tmp_path_factory.mktemp("old") / "project", forks=True)
    not_copied = shutil.ignore_patterns("mlflow.db*", "mlartifacts", "tmp")
    shutil.copytree(recorded_project.root, project.root, symlinks=True, ignore=not_copied)
    project.git("checkout", "--quiet", ".")
    evaluate = project.root / "stages/evaluate.py"
    evaluate.write_text(evaluate.read_text().replace(PREDICTED, SECRET + PREDICTED))
    assert evaluate.read_text().count(SECRET) == 1
    (project.root / "Makefile").write_text(MAKEFILE)
    project.commit("Keep a secret")
    project.set_params(train__epochs=2)
    assert executed_stages(project.dvc("repro")) == ["evaluate", "record"]

    project.set_params(train__epochs=4)
    evaluate.write_text(f"{evaluate.read_text()}# the end\n")
    with (project.root / "requirements.lock").open("a") as lock:
        lock.write("# the end\n")
    project.commit("Go on")
    return project


@pytest.fixture
def run(project: Project) -> Run:
    (run,) = project.runs()
    assert run.data.tags["darkroom.restored"] == run.data.tags["darkroom.git_dirty"] == "true"
    assert run.data.tags["mlflow.source.git.commit"] == project.git("rev-parse", "HEAD~").strip()
    return run


def rebuild(project: Project, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    packages = str(start_forks().parent) if project.forks else sys.prefix
    command = ("python", "-m", "commands", "rebuild", *arguments)
    return project.run(*command, check=False, timeout_seconds=300, PACKAGES=packages, **environment)


def verdict_lines(done: subprocess.CompletedProcess[str]) -> list[str]:
    """The printed lines from the first stage's verdict on."""
    lines = done.stdout.splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("acquire   "))
    return lines[first:]


def remove_cached_photos(project: Project) -> None:
    """Remove the outputs of acquire from DVC's cache."""
    digests = output_digests({"acquire": project.lock["acquire"]})
    for digest in digests.values():
        (project.root / ".dvc/cache/files/md5" / digest[:2] / digest[2:]).unlink()


def left_folders() -> list[Path]:
    """The temporary folders of rebuild; tests that run at the same time may have folders of other commands."""
    folder = Path(tempfile.gettempdir())
    return sorted([*folder.glob("darkroom-run-*"), *folder.glob("darkroom-rebuild-*")])


def state(project: Project) -> tuple[object, ...]:
    """Everything that a rebuild must not change; compiled modules are caches of Python."""
    files = [*project.root.glob("d*"), *project.root.glob("[dm]*/**/*"), *(project.root / ".dvc/cache").rglob("*")]
    digests = {path: file_digest(path) for path in sorted(files) if path.is_file() and path.suffix != ".pyc"}
    runs = [run.to_dictionary() for run in project.runs()]
    return digests, runs, project.git("status", "--short"), project.git("worktree", "list"), left_folders()


def test_an_old_run_with_uncommitted_params_is_rebuilt_identically(project: Project, run: Run) -> None:
    before = state(project)

    done = rebuild(project, run.info.run_name)

    assert done.returncode == 0, done.stdout + done.stderr
    assert executed_stages(done) == REBUILT
    assert "rebuild: photos restored from DVC's cache" in done.stdout
    assert "rebuild: the run used other packages; installing them into" in done.stdout
    assert "epoch 2/2" in done.stdout
    assert verdict_lines(done) == [
        "acquire   restored from DVC",
        *IDENTICAL,
        f"rebuild: run {run.info.run_id} -> identical to the byte",
    ]
    assert state(project) == before


def test_nearly_the_same_predictions_are_equal_within_the_tolerance(project: Project, run: Run, tmp_path: Path) -> None:
    project.dvc("remote", "add", "--local", "--default", "team", os.path.relpath(tmp_path / "remote", project.root))
    project.dvc("push")
    remove_cached_photos(project)

    done = rebuild(project, run.info.run_id, SECRET="1.0001")
    project.dvc("remote", "remove", "--local", "team")

    assert done.returncode == 0, done.stdout + done.stderr
    assert executed_stages(done) == REBUILT
    assert "rebuild: photos restored from the remote team" in done.stdout
    *before, evaluate, explained, last = verdict_lines(done)
    assert [*before, explained] == ["acquire   restored from DVC", *IDENTICAL[:3], IDENTICAL[4]]
    assert evaluate.startswith("evaluate  differs: data/evaluate/predictions.csv, ")
    assert last.startswith(f"rebuild: run {run.info.run_id} -> equal within 3.")
    assert last.endswith(
        "e-05: the first stage that differs is evaluate, but all 6 test photos have the same predicted label"
    )


def test_other_predictions_are_different_and_missing_photos_are_fetched_from_their_source(
    project: Project, run: Run, tmp_path: Path
) -> None:
    remove_cached_photos(project)
    kept = tmp_path / "kept"

    done = rebuild(project, run.info.run_id[:12], "--keep", str(kept), SECRET="-1")

    assert done.returncode == 1
    assert executed_stages(done) == ["acquire", *REBUILT]
    *before, evaluate, explained, message, last = verdict_lines(done)
    assert before == ["acquire   identical", *IDENTICAL[:3]]
    assert evaluate.startswith("evaluate  differs: data/evaluate/confusion.png, data/evaluate/predictions.csv")
    assert explained == "explain   differs: data/explain/gradcam.png"
    assert message == f"rebuild: the result is in {kept}; `git worktree remove --force {kept}` removes it"
    assert last.startswith(
        f"rebuild: run {run.info.run_id} -> different: the first stage that differs is evaluate "
        "(data/evaluate/confusion.png, data/evaluate/predictions.csv"
    )
    assert "; 6 of 6 test photos have a different predicted label, probabilities differ by up to " in last
    assert (kept / "data/train/model.keras").exists()
    project.git("worktree", "remove", "--force", str(kept))


def test_an_interrupt_leaves_nothing_behind(project: Project, run: Run, tmp_path: Path) -> None:
    log = tmp_path / "log"
    before = left_folders()
    with log.open("w") as output:
        started = subprocess.Popen(
            ["python", "-m", "commands", "rebuild", run.info.run_id],
            cwd=project.root,
            env=replace(project, forks=False).command_environment(PACKAGES=sys.prefix),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        deadline = time.monotonic() + 120
        while "Running stage" not in log.read_text():
            assert started.poll() is None, log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        children = psutil.Process(started.pid).children(recursive=True)
        started.send_signal(signal.SIGTERM)
        assert started.wait(30) == 130

    assert children
    assert not any(child.is_running() for child in children)
    assert log.read_text().splitlines()[-1] == "rebuild: interrupted"
    assert left_folders() == before
    assert len(project.git("worktree", "list").splitlines()) == 1


def test_runs_that_cannot_be_rebuilt_give_a_one_line_error(project: Project, run: Run) -> None:
    unknown = rebuild(project, "nobody")
    project.client.set_tag(run.info.run_id, "mlflow.source.git.commit", project.git("rev-parse", "HEAD").strip())
    other_code = rebuild(project, run.info.run_id)
    project.client.set_tag(run.info.run_id, "mlflow.source.git.commit", run.data.tags["mlflow.source.git.commit"])

    for done, message in (
        (unknown, "rebuild: there is no run nobody in the experiment darkroom of sqlite:///"),
        (other_code, "rebuild: the run used changes that are not in commit "),
    ):
        assert done.returncode == 1
        (line,) = [line for line in done.stderr.splitlines() if line.startswith("rebuild:")]
        assert line.startswith(message)
        assert "Traceback" not in done.stderr
    assert ": requirements.lock, stages/evaluate.py; commit before" in other_code.stderr
    assert len(project.git("worktree", "list").splitlines()) == 1


class TestDescribeEnvironmentChange:
    def write_environments(self, tmp_path: Path, *devices: str) -> tuple[RecordedRun, Path]:
        for name, device in zip(("then", "now"), devices, strict=False):
            write_json(tmp_path / name / TRAIN_ENVIRONMENT, {"device": device, "threads": {"used": 2}})
        return RecordedRun("1", "name", "c", is_dirty=False, folder=tmp_path / "then", stages={}), tmp_path / "now"

    def test_values_that_differ_are_named(self, tmp_path: Path) -> None:
        run, folder = self.write_environments(tmp_path, "cpu: A", "gpu: B")
        assert describe_environment_change(run, folder) == "device: cpu: A then, gpu: B now"

    @pytest.mark.parametrize("devices", [["cpu: A", "cpu: A"], ["cpu: A"], []], ids=["same", "one", "none"])
    def test_equal_or_unknown_environments_give_no_text(self, tmp_path: Path, devices: list[str]) -> None:
        assert describe_environment_change(*self.write_environments(tmp_path, *devices)) == ""
