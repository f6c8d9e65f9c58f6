"""Runs the stages of a recorded run again, with the packages of the run and the photos that DVC has."""

import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from commands.rebuilding.worktree import has_digest, read_output
from darkroom.pipeline.paths import LOCK_FILE
from darkroom.pipeline.stage import StageError, name_some
from darkroom.tracking.address import DATABASE, anchor
from darkroom.tracking.lockfile import file_digest

DVC_CONFIG = Path(".dvc/config.local")
ENVIRONMENT = Path(".venv")
KILL_SECONDS = 10
DROPPED_VARIABLES = ("DVC_", "MLFLOW_", "TF_CONFIG")  # beginnings of their names
INSTALLED = ENVIRONMENT / ".requirements.installed"  # the Makefile's target


@dataclass(frozen=True)
class Checkout:
    """`folder` is the project of the recorded run, checked out; its stages run in the environment of `python`."""

    folder: Path
    python: Path

    def run(self, *command: str) -> int:
        """Run a command in the folder, with its output on the terminal, and return the exit code. An interrupt kills
        the command and its children.

        It gets the user's environment variables, except those that refer to the workspace or to other hosts: the
        user's MLflow store, DVC_ROOT with the checkpoints and caches of trainings, and TF_CONFIG.
        """
        # The variables that this process was started with: `darkroom` adds some for its own backend, and the recorded
        # code may need others.
        variables = psutil.Process().environ()
        inherited = {name: value for name, value in variables.items() if not name.startswith(DROPPED_VARIABLES)}
        path = os.pathsep.join([str(self.python.parent), variables.get("PATH", os.defpath)])
        own = {"PATH": path, "MLFLOW_TRACKING_URI": anchor(DATABASE, self.folder)}
        process = psutil.Popen(command, cwd=self.folder, env=inherited | own)
        try:
            return int(process.wait())
        except KeyboardInterrupt:
            kill_with_children(process)
            raise

    def dvc(self, *arguments: str) -> int:
        return self.run(str(self.python), "-m", "dvc", *arguments)

    def rerun_stage(self, stage: str) -> None:
        """Run a stage without DVC's run cache. Its outputs are not written to DVC's cache, which is the workspace's: if
        a stage has several results there, DVC restores the newest one.

        Raises:
            StageError: the stage fails.
        """
        if self.dvc("repro", "--force", "--no-run-cache", "--no-commit", "--single-item", stage):
            raise StageError(
                f"the stage {stage} failed, see its output above; `--keep FOLDER` keeps the folder that it ran in"
            )

    def restore(self, stage: str, digests: Mapping[str, str], cache: Path, remote: str | None) -> str | None:
        """Restore a stage's outputs from DVC's cache, or else from the remote.

        Returns:
            where they came from; None if neither has them.

        Raises:
            StageError: the restored files are corrupt.
        """
        origin = "DVC's cache"
        if self.dvc("checkout", "--quiet", stage):
            origin = f"the remote {remote}"
            if remote is None or self.dvc("pull", stage):
                return None
        outputs = list_output_files(digests, cache)
        corrupt = [md5 for path, md5 in outputs if not has_digest(self.folder / path, md5)]
        if corrupt:
            files = [str(cached_file(cache, md5)) for md5 in corrupt]
            raise StageError(
                f"{len(corrupt)} files of the stage {stage} from {origin} are corrupt: their content does not match "
                f"the digests in their names; remove them there ({name_some(files, 5)}), then run this again"
            )
        return origin


def kill_with_children(process: psutil.Popen) -> None:
    """Kill a process and all processes that it has started, and wait for their end."""
    with suppress(psutil.NoSuchProcess):
        started = [process, *process.children(recursive=True)]
        for one in started:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        psutil.wait_procs(started, timeout=KILL_SECONDS)


def list_output_files(digests: Mapping[str, str], cache: Path) -> Iterator[tuple[str, str]]:
    """The path and the MD5 digest of each output file, and of each file in an output folder."""
    for path, digest in digests.items():
        if digest.endswith(".dir"):
            for file in json.loads(cached_file(cache, digest).read_bytes()):
                yield f"{path}/{file['relpath']}", file["md5"]
        else:
            yield path, digest


def cached_file(cache: Path, digest: str) -> Path:
    return cache / "files/md5" / digest[:2] / digest[2:]


def share_cache(folder: Path) -> tuple[Path, str | None]:
    """Configure the project in `folder` to use the DVC cache and the remotes of the workspace, with their credentials.

    Returns:
        the cache's folder, and the name of the default remote if there is one.
    """
    dvc = (sys.executable, "-m", "dvc")
    # `dvc config --list` prints absolute paths; those in the config files are relative to the files.
    lines = read_output(*dvc, "config", "--list").splitlines()
    cache = Path(read_output(*dvc, "cache", "dir"))
    values = dict(line.split("=", 1) for line in lines) | {"cache.dir": str(cache)}
    file = folder / DVC_CONFIG
    file.touch(mode=0o600)
    file.write_text(format_config(values), encoding="utf-8")
    return cache, values.get("core.remote")


def format_config(values: Mapping[str, str]) -> str:
    """The content of a DVC config file, from values by dotted name, such as `core.remote` and `remote.team.url`."""
    sections: dict[str, list[str]] = {}
    for dotted, value in values.items():
        section, *name, option = dotted.split(".")
        title = f"'{section} \"{'.'.join(name)}\"'" if name else section
        quote = next(quote for quote in ('"', "'", '"""') if quote not in value)
        sections.setdefault(title, []).append(f"{option} = {quote}{value}{quote}\n")
    return "".join(f"[{title}]\n{''.join(options)}" for title, options in sections.items())


def find_python(folder: Path) -> Path:
    """Find a Python with the packages of the project in `folder`: this one, or a new environment that the project's
    Makefile sets up.

    Raises:
        StageError: the packages cannot be installed.
    """
    if LOCK_FILE.exists() and has_digest(folder / LOCK_FILE, file_digest(LOCK_FILE)):
        return Path(sys.executable)
    print(f"rebuild: the run used other packages; installing them into {folder / ENVIRONMENT}", flush=True)
    command = ("make", f"PYTHON={sys.executable}", str(INSTALLED))
    if shutil.which("make") is None or Checkout(folder, Path(sys.executable)).run(*command):
        raise StageError(
            f"the packages of the run, listed in its {LOCK_FILE}, could not be installed: `{' '.join(command)}` needs "
            "make and access to the package index"
        )
    return folder / ENVIRONMENT / "bin/python"
