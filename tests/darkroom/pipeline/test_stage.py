import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from darkroom.pipeline.stage import StageError, run_command, run_stage

ROOT = Path(__file__).parents[3]
FULL_DEVICE = Path("/dev/full")
PATIENCE_SECONDS = 60

# A stage that logs when it begins and ends, and waits for a file in between.
STAGE = """
import sys, time
from pathlib import Path
from darkroom.pipeline.stage import run_stage

def main():
    name, signal = sys.argv[1:]
    with open("log", "a") as log:
        print(name, "begins", file=log, flush=True)
        end = time.monotonic() + 60
        while not Path(signal).exists() and time.monotonic() < end:
            time.sleep(0.01)
        print(name, "ends", file=log, flush=True)

run_stage("train", main)
"""
# A process that starts a stage, waits until it runs, and kills itself. Its output stays open until the stage ends.
KILLED_PARENT = """
import os, signal, subprocess, sys
os.environ["DVC_STAGE"] = "train"
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE)
child.stdout.readline()
os.kill(os.getpid(), signal.SIGKILL)
"""
ENDLESS_STAGE = """
import time
from darkroom.pipeline.stage import run_stage

def main():
    print("runs", flush=True)
    time.sleep(100)

run_stage("train", main)
"""


@pytest.fixture(autouse=True)
def started_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stage that DVC has started would end with its parent process."""
    monkeypatch.delenv("DVC_STAGE", raising=False)


def start_python(code: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_log(folder: Path, text: str) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not ((folder / "log").exists() and text in (folder / "log").read_text()):
        assert time.monotonic() < end, f"{text!r} did not appear"
        time.sleep(0.01)


def fail_with(error: BaseException) -> None:
    raise error


class TestEnding:
    def test_a_stage_that_succeeds_prints_nothing_else(
        self, workspace: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        run_stage("split", lambda: (workspace / "done").touch())
        assert (workspace / "done").exists()
        assert capfd.readouterr() == ("", "")

    def test_a_stage_error_ends_in_its_message_with_the_name_of_the_stage(self, workspace: Path) -> None:
        with pytest.raises(SystemExit) as caught:
            run_stage("split", lambda: fail_with(StageError("data/x.csv is missing; write it")))
        assert caught.value.code == "split: data/x.csv is missing; write it"
        run_stage("split", lambda: (workspace / "the lock is free").touch())
        assert (workspace / "the lock is free").exists()

    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT], ids=["disk full", "quota used up"])
    def test_a_full_disk_ends_in_one_line_with_the_file(self, workspace: Path, number: int) -> None:
        assert workspace == Path.cwd()
        with pytest.raises(SystemExit) as caught:
            run_stage("augment", lambda: fail_with(OSError(number, os.strerror(number), "data/images.npy")))
        assert caught.value.code == (
            "augment: the disk is full (data/images.npy): free some space, then run this again"
        )

    @pytest.mark.skipif(not FULL_DEVICE.exists(), reason="this system has no device that is always full")
    def test_a_full_disk_without_a_file_name_ends_in_one_line_with_the_folder(self, workspace: Path) -> None:
        with pytest.raises(SystemExit) as caught:
            run_stage("augment", lambda: FULL_DEVICE.write_bytes(b"pixels") and None)
        assert caught.value.code == (f"augment: the disk is full ({workspace}): free some space, then run this again")

    @pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS], ids=errno.errorcode.get)
    def test_a_file_without_permission_ends_in_one_line(self, workspace: Path, number: int) -> None:
        assert workspace == Path.cwd()
        with pytest.raises(SystemExit) as caught:
            run_stage("augment", lambda: fail_with(OSError(number, os.strerror(number), "data/images.npy")))
        assert caught.value.code == (
            f"augment: data/images.npy cannot be used ({os.strerror(number)}): make it readable and writable for this "
            "user, then run this again"
        )

    def test_an_interrupt_ends_in_one_line(self, workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert workspace == Path.cwd()
        with pytest.raises(SystemExit) as caught:
            run_stage("split", lambda: fail_with(KeyboardInterrupt()))
        assert caught.value.code == 130
        assert capsys.readouterr().err == "split: interrupted\n"

    @pytest.mark.parametrize("error", [ValueError("a defect"), PermissionError(errno.EACCES, "not allowed")])
    def test_other_exceptions_are_not_caught(self, workspace: Path, error: BaseException) -> None:
        assert workspace == Path.cwd()
        with pytest.raises(type(error)) as caught:
            run_stage("split", lambda: fail_with(error))
        assert caught.value is error

    def test_a_failing_script_exits_with_code_1_and_its_message_on_stderr(self, workspace: Path) -> None:
        assert workspace == Path.cwd()
        stage = start_python(
            "from darkroom.pipeline.stage import StageError, run_stage\n"
            "def main(): raise StageError('two\\nlines')\n"
            "run_stage('split', main)"
        )
        assert stage.communicate(timeout=PATIENCE_SECONDS) == ("", "split: two\nlines\n")
        assert stage.returncode == 1


class TestOutput:
    def test_a_reader_that_closes_the_pipe_ends_it_without_a_message(self, workspace: Path) -> None:
        assert workspace == Path.cwd()
        stage = start_python(
            "from darkroom.pipeline.stage import run_command\n"
            "def main():\n"
            "    while True: print('words')\n"
            "run_command('predict', main)"
        )
        assert stage.stdout.readline() == "words\n"
        stage.stdout.close()
        assert stage.stderr.read() == ""
        assert stage.wait(PATIENCE_SECONDS) == 1

    def test_another_broken_pipe_is_an_error(self) -> None:
        with pytest.raises(BrokenPipeError):
            run_command("predict", lambda: fail_with(BrokenPipeError()))


class TestWaiting:
    def test_a_second_process_of_a_stage_waits_for_the_first(self, workspace: Path) -> None:
        first = start_python(STAGE, "first", "go")
        wait_for_log(workspace, "first begins")
        second = start_python(STAGE, "second", "go")
        line = second.stderr.readline()
        (workspace / "go").touch()
        for stage in (first, second):
            stage.communicate(timeout=PATIENCE_SECONDS)
        assert line == "train: waiting for an earlier train that is still running in this folder\n"
        assert (first.returncode, second.returncode) == (0, 0)
        assert (workspace / "log").read_text().splitlines() == [
            "first begins",
            "first ends",
            "second begins",
            "second ends",
        ]

    def test_a_stage_does_not_wait_for_one_that_was_killed(self, workspace: Path) -> None:
        first = start_python(STAGE, "first", "never")
        wait_for_log(workspace, "first begins")
        first.kill()
        first.communicate(timeout=PATIENCE_SECONDS)
        run_stage("train", lambda: (workspace / "done").touch())
        assert (workspace / "done").exists()

    def test_another_stage_does_not_wait(self, workspace: Path) -> None:
        first = start_python(STAGE, "first", "go")
        wait_for_log(workspace, "first begins")
        run_stage("split", lambda: (workspace / "go").touch())
        first.communicate(timeout=PATIENCE_SECONDS)
        assert first.returncode == 0

    def test_a_stage_that_dvc_started_ends_with_dvc(self, workspace: Path) -> None:
        assert workspace == Path.cwd()
        parent = start_python(KILLED_PARENT, ENDLESS_STAGE)
        # Reading to the end waits for the stage, too, which holds the other end of stderr.
        parent.communicate(timeout=PATIENCE_SECONDS)
        assert parent.returncode == -signal.SIGKILL
