"""The command line as a whole. Each command has its own tests in the files beside this one."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from commands.command_line import APP
from darkroom.version import __version__
from tests.imports import ROOT, loaded_modules

COMMANDS = list(typer.main.get_group(APP).commands)
HEAVY = {"keras", "mlflow", "numpy", "pandas", "pydantic", "sklearn", "sqlalchemy", "tensorflow"}
SCREEN = 24  # lines


def run_app(*arguments: str) -> int | str | None:
    """Run a command in this process, and return its exit code."""
    with pytest.raises(SystemExit) as ended:
        APP(list(arguments), prog_name="darkroom")
    return ended.value.code


def run(*command: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = os.environ | {"COLUMNS": "80", "PYTHONPATH": str(ROOT)} | environment
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)


def test_every_command_has_a_module_a_test_and_a_mention_in_the_manual() -> None:
    assert COMMANDS
    manual = "".join(page.read_text() for page in (ROOT / "docs").glob("*.md"))
    for command in COMMANDS:
        assert (ROOT / "commands" / f"{command}.py").is_file()
        assert (ROOT / "tests/commands" / f"test_{command}.py").is_file()
        assert f"darkroom {command}" in manual


def test_help_fits_on_one_screen_without_truncation(workspace: Path) -> None:
    done = run(sys.executable, "-m", "commands", "--help", folder=workspace)
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) <= SCREEN
    assert "..." not in done.stdout.partition("Commands:")[2]
    assert re.findall(r"^  (\w+)  ", done.stdout.partition("Commands:")[2], re.MULTILINE) == COMMANDS


def test_the_version_is_printed(workspace: Path) -> None:
    done = run(sys.executable, "-m", "commands", "--version", folder=workspace)
    assert (done.returncode, done.stdout) == (0, f"darkroom {__version__}\n")
    released, _, development = __version__.partition(".dev")
    latest = re.findall(r"^## (\S+)(.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[0]
    assert latest == (released, " (unreleased)" if development else "")


def test_help_starts_quickly() -> None:
    assert HEAVY.isdisjoint(loaded_modules("commands.command_line"))


@pytest.mark.slow
def test_what_runs_no_model_imports_neither_keras_nor_scikit_learn() -> None:
    """They take seconds. One process imports all three modules, since each of them must load neither."""
    loaded = loaded_modules("commands.compare, commands.promote, darkroom.recording.run")
    assert {"keras", "tensorflow", "sklearn"}.isdisjoint(loaded)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_prints_its_help_and_does_nothing(
    command: str, workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_app(command, "--help") == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"Usage: darkroom {command} ")
    assert err == ""
    assert list(workspace.iterdir()) == []


@pytest.mark.parametrize("command", COMMANDS)
def test_an_unknown_option_is_rejected_before_anything_runs(
    command: str, workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_app(command, "--nothing") == 2
    assert "No such option: --nothing" in capsys.readouterr().err
    assert list(workspace.iterdir()) == []


def test_a_command_runs_in_a_process_of_its_own(workspace: Path) -> None:
    done = run(sys.executable, "-m", "commands", COMMANDS[0], "--nothing", folder=workspace)
    assert done.returncode == 2
    assert done.stderr.startswith(f"Usage: darkroom {COMMANDS[0]} ")
    assert "No such option: --nothing" in done.stderr
    assert list(workspace.iterdir()) == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_available_for_shells(shell: str, workspace: Path) -> None:
    done = run(sys.executable, "-m", "commands", folder=workspace, _DARKROOM_COMPLETE=f"source_{shell}")
    assert "_DARKROOM_COMPLETE=complete_" in done.stdout  # not in the output of help


def test_the_installed_command_runs_the_code_of_the_current_folder(workspace: Path) -> None:
    """As with `python -m`: in another clone, the clone's code runs, whichever clone the environment belongs to."""
    script = "from commands.command_line import main; main()"
    shutil.copytree(ROOT / "commands", workspace / "commands", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "darkroom", workspace / "darkroom", ignore=shutil.ignore_patterns("__pycache__"))
    (workspace / "commands/compare.py").write_text("def main(*arguments): print('this clone', *arguments)")
    # -P leaves the current folder off sys.path, as for a script of the environment.
    done = run(sys.executable, "-P", "-c", script, "compare", "one", "two", folder=workspace, PYTHONPATH=str(ROOT))
    assert done.stdout == "this clone ('one', 'two') 0.95\n", done.stderr
    elsewhere = run(sys.executable, "-P", "-c", script, "--help", folder=workspace.parent, PYTHONPATH=str(ROOT))
    assert elsewhere.stdout.startswith("Usage: darkroom ")
