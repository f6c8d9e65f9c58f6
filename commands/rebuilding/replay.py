"""How the stages of a recorded run are run again: with its packages, with the photos of DVC, and for real."""

import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from commands.rebuilding.worktree import ask, holds
from darkroom.pipeline.paths import LOCK_FILE
from darkroom.pipeline.stage import StageError, name_some
from darkroom.tracking.lockfile import file_digest

DVC_CONFIG = Path(".dvc/config.local")
ENVIRONMENT = Path(".venv")
END_SECONDS = 10
LED_ELSEWHERE = ("DVC_", "MLFLOW_", "TF_CONFIG")
INSTALLED = ENVIRONMENT / ".requirements.installed"  # the Makefile's target


@dataclass(frozen=True)
class Rebuilding:
    """`folder` is the project of the recorded run, checked out; its stages run in the environment of `python`."""

    folder: Path
    python: Path

    def run(self, *command: str) -> int:
        """Run a command there, which shows what it prints; what it has started ends with it.

        It gets the user's variables, but none that would lead it to the workspace: neither to the user's MLflow store,
        nor to DVC_ROOT with what trainings keep there, nor to other hosts.
        """
        # As this process got them: `stages` adds some for its own backend, and the recorded code may know others.
        variables = psutil.Process().environ()
        inherited = {name: value for name, value in variables.items() if not name.startswith(LED_ELSEWHERE)}
        path = os.pathsep.join([str(self.python.parent), variables.get("PATH", os.defpath)])
        own = {"PATH": path, "MLFLOW_TRACKING_URI": f"sqlite:///{self.folder}/mlflow.db"}
        process = psutil.Popen(command, cwd=self.folder, env=inherited | own)
        try:
            return int(process.wait())
        except KeyboardInterrupt:
            end_with_children(process)
            raise

    def dvc(self, *arguments: str) -> int:
        return self.run(str(self.python), "-m", "dvc", *arguments)

    def make(self, stage: str) -> None:
        """Run a stage for real. DVC's cache, which is the workspace's, gets nothing of what it makes: of several
        outcomes of the same stage DVC would restore the newest there.

        Raises:
            StageError: it fails.
        """
        if self.dvc("repro", "--force", "--no-run-cache", "--no-commit", "--single-item", stage):
            raise StageError(
                f"the stage {stage} failed, see above what it said; `--keep FOLDER` keeps the folder that it ran in"
            )

    def restore(self, stage: str, digests: Mapping[str, str], cache: Path, remote: str | None) -> str | None:
        """Take a stage's outputs from DVC's cache, or through it from the remote.

        Returns:
            where they came from; None if they are nowhere.

        Raises:
            StageError: they are damaged there.
        """
        origin = "DVC's cache"
        if self.dvc("checkout", "--quiet", stage):
            origin = f"the remote {remote}"
            if remote is None or self.dvc("pull", stage):
                return None
        damaged = [md5 for path, md5 in list_files(digests, cache) if not holds(self.folder / path, md5)]
        if damaged:
            files = [str(cached_file(cache, md5)) for md5 in damaged]
            raise StageError(
                f"{len(damaged)} files of the stage {stage} came damaged from {origin}: they have not the digests that "
                f"name them; remove them from there ({name_some(files, 5)}), then run this again"
            )
        return origin


def end_with_children(process: psutil.Popen) -> None:
    """Kill a process with all that it has started, and wait for their end."""
    with suppress(psutil.NoSuchProcess):
        started = [process, *process.children(recursive=True)]
        for one in started:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        psutil.wait_procs(started, timeout=END_SECONDS)


def list_files(digests: Mapping[str, str], cache: Path) -> Iterator[tuple[str, str]]:
    """Path and MD5 digest of each output that is a file, and of each file of one that is a folder."""
    for path, digest in digests.items():
        if digest.endswith(".dir"):
            for file in json.loads(cached_file(cache, digest).read_bytes()):
                yield f"{path}/{file['relpath']}", file["md5"]
        else:
            yield path, digest


def cached_file(cache: Path, digest: str) -> Path:
    return cache / "files/md5" / digest[:2] / digest[2:]


def share_cache(folder: Path) -> tuple[Path, str | None]:
    """Let the project in `folder` use DVC's cache and the remotes of the workspace, with what they need to log in.

    Returns:
        the cache's folder, and the remote's name if there is one to fetch from.
    """
    dvc = (sys.executable, "-m", "dvc")
    # Its paths are absolute, those in the files relative to them.
    lines = ask(*dvc, "config", "--list").splitlines()
    cache = Path(ask(*dvc, "cache", "dir"))
    values = dict(line.split("=", 1) for line in lines) | {"cache.dir": str(cache)}
    file = folder / DVC_CONFIG
    file.touch(mode=0o600)
    file.write_text(format_config(values), encoding="utf-8")
    return cache, values.get("core.remote")


def format_config(values: Mapping[str, str]) -> str:
    """A DVC config file of values under their dotted names, such as `core.remote` and `remote.team.url`."""
    sections: dict[str, list[str]] = {}
    for dotted, value in values.items():
        section, *name, option = dotted.split(".")
        title = f"'{section} \"{'.'.join(name)}\"'" if name else section
        quote = next(quote for quote in ('"', "'", '"""') if quote not in value)
        sections.setdefault(title, []).append(f"{option} = {quote}{value}{quote}\n")
    return "".join(f"[{title}]\n{''.join(options)}" for title, options in sections.items())


def find_python(folder: Path) -> Path:
    """The Python whose packages are those of the project in `folder`: this one, or one set up there by its Makefile.

    Raises:
        StageError: the packages cannot be installed.
    """
    if LOCK_FILE.exists() and holds(folder / LOCK_FILE, file_digest(LOCK_FILE)):
        return Path(sys.executable)
    print(f"rebuild: the packages were others then; setting up {folder / ENVIRONMENT}", flush=True)
    command = ("make", f"PYTHON={sys.executable}", str(INSTALLED))
    if shutil.which("make") is None or Rebuilding(folder, Path(sys.executable)).run(*command):
        raise StageError(
            f"the packages of the run, which its {LOCK_FILE} names, could not be installed: `{' '.join(command)}` "
            "needs make and the package index"
        )
    return folder / ENVIRONMENT / "bin/python"
