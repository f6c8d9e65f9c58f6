"""A commit of the project in a folder of its own, and what a recorded run needs there."""

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ruamel.yaml import YAML

from darkroom.pipeline.paths import PARAMS
from darkroom.pipeline.stage import StageError, name_some
from darkroom.tracking.lockfile import (
    FOLDER_SUFFIX,
    Stages,
    file_digest,
    folder_digest,
    output_digests,
    recorded_params,
)

DVC_YAML = Path("dvc.yaml")
# Params that name what lies on this machine, and need not be in Git.
PHOTOS, WEIGHTS = ("acquire", "folder"), ("train", "backbone", "weights")


def ask(*command: str) -> str:
    """What a command of git or dvc answers.

    Raises:
        StageError: the program is missing, or fails; with what it said last.
    """
    if shutil.which(command[0]) is None:
        raise StageError(f"{command[0]} is not on the PATH; install it, then run this again")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise StageError(f"`{' '.join(command)}` failed: {said}")
    return done.stdout.strip()


@contextmanager
def check_out(commit: str, keep: Path | None) -> Iterator[Path]:
    """Check a commit out into a folder of its own, a worktree of the workspace's repository.

    Args:
        commit: its id.
        keep: the folder, which then stays; else a temporary one.

    Yields:
        the project in it, which may lie below the repository's top.

    Raises:
        StageError: this is no Git repository, it has not this commit, or the folder cannot be used.
    """
    top = find_repository()
    try:
        ask("git", "cat-file", "-e", f"{commit}^{{commit}}")
    except StageError:
        raise StageError(
            f"commit {commit} is not in the Git repository {top}; fetch it (`git fetch --all`), or run this in the "
            "clone that the run was recorded in"
        ) from None
    if keep is not None and (keep.resolve().is_relative_to(top) or not is_free(keep)):
        raise StageError(f"--keep {keep}: expected a new or an empty folder outside the repository {top}")

    with TemporaryDirectory(prefix="darkroom-rebuild-") as temporary:
        folder = Path(temporary, "project") if keep is None else keep.resolve()
        try:
            # Hooks would act on the new folder; that of `dvc install` fills it with outputs.
            ask("git", "-c", f"core.hooksPath={os.devnull}", "worktree", "add", "--detach", str(folder), commit)
            yield folder / Path.cwd().resolve().relative_to(top)
        finally:
            if keep is None:
                with suppress(StageError):
                    ask("git", "worktree", "remove", "--force", str(folder))


def find_repository() -> Path:
    """The top folder of the workspace's Git repository."""
    ask("git", "--version")
    try:
        return Path(ask("git", "rev-parse", "--show-toplevel")).resolve()
    except StageError as error:
        raise StageError(
            f"a run is rebuilt from the Git repository that has its commit, and {Path.cwd()} is in none ({error}); run "
            "this in a clone of the project"
        ) from None


def is_free(folder: Path) -> bool:
    return not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))


def check_code(stages: Stages, folder: Path, commit: str) -> None:
    """Refuse a run whose code, packages or commands are not those of its commit, which is in `folder`.

    Raises:
        StageError: with the files.
    """
    photos = os.path.relpath(recorded_params(stages).get(".".join(PHOTOS), os.devnull))  # as DVC records what is inside
    not_code = {*output_digests(stages), photos, os.path.abspath(photos)}
    used = {(dep["path"], dep["md5"]) for stage in stages.values() for dep in stage.get("deps", [])}
    changed = {path for path, md5 in used if path not in not_code and not holds(folder / path, md5)}
    commands = read_pipeline(folder)
    if any(commands.get(name, {}).get("cmd") != stage.get("cmd") for name, stage in stages.items()):
        changed.add(str(DVC_YAML))
    if changed:
        raise StageError(
            f"the run was made with changes that commit {commit[:12]} does not have, in {name_some(sorted(changed))}; "
            "commit before a run that is to be rebuilt, and keep files that are not code out of the folders of code"
        )


def holds(path: Path, digest: str) -> bool:
    """Whether a file or a folder has the content of a digest of DVC's."""
    if digest.endswith(FOLDER_SUFFIX):
        return path.is_dir() and folder_digest(path) == digest
    return path.is_file() and file_digest(path) == digest


def read_pipeline(folder: Path) -> dict[str, Any]:
    """The stages of dvc.yaml, in the order of the pipeline; none where there is no such file."""
    file = folder / DVC_YAML
    stages: dict[str, Any] = YAML(typ="safe").load(file)["stages"] if file.exists() else {}
    return stages


def name_outside_files(folder: Path, param: Sequence[str]) -> None:
    """Let a param of the project in `folder` that names a file or folder relative to the project, which the workspace
    has and Git has not, name that of the workspace."""
    yaml = YAML()
    document = yaml.load(folder / PARAMS)
    section = document
    for name in param[:-1]:
        section = section.get(name, {})
    path = section.get(param[-1])
    if path is None or Path(path).is_absolute() or not Path(path).exists() or is_in_git(folder, path):
        return
    section[param[-1]] = str(Path(path).resolve())
    yaml.dump(document, folder / PARAMS)


def is_in_git(folder: Path, path: str) -> bool:
    """Whether the project that is checked out in `folder` has `path`, and the workspace has nothing there but what Git
    knows."""
    with suppress(StageError):
        return (folder / path).exists() and not ask("git", "ls-files", "--others", "--directory", "--", path)
    return False
