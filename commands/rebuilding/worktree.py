"""Checks out a commit of the project into a separate folder, and prepares it for the stages of a recorded run."""

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
from darkroom.pipeline.yaml_file import load_yaml
from darkroom.tracking.lockfile import (
    FOLDER_SUFFIX,
    Stages,
    file_digest,
    folder_digest,
    output_digests,
    recorded_params,
)

DVC_YAML = Path("dvc.yaml")
# Params that name files or folders of this machine, which may not be in Git.
PHOTOS, WEIGHTS = ("acquire", "folder"), ("train", "backbone", "weights")


def read_output(*command: str) -> str:
    """Run a git or dvc command and return its output.

    Raises:
        StageError: the program is missing, or fails; the message has the last line of its stderr.
    """
    if shutil.which(command[0]) is None:
        raise StageError(f"{command[0]} is not on the PATH; install it, then run this again")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise StageError(f"`{' '.join(command)}` failed: {reason}")
    return done.stdout.strip()


@contextmanager
def check_out(commit: str, keep: Path | None) -> Iterator[Path]:
    """Check out a commit into a new worktree of the workspace's repository.

    Args:
        commit: the commit's id.
        keep: the folder of the worktree, which stays; None uses a temporary folder.

    Yields:
        the project's folder in the worktree, which may be below its top.

    Raises:
        StageError: this is not a Git repository, it does not have the commit, or the folder cannot be used.
    """
    top = find_repository()
    try:
        read_output("git", "cat-file", "-e", f"{commit}^{{commit}}")
    except StageError:
        raise StageError(
            f"commit {commit} is not in the Git repository {top}; fetch it (`git fetch --all`), or run this in the "
            "clone that recorded the run"
        ) from None
    if keep is not None and (keep.resolve().is_relative_to(top) or not is_free(keep)):
        raise StageError(f"--keep {keep}: expected a new or an empty folder outside the repository {top}")

    with TemporaryDirectory(prefix="darkroom-rebuild-") as temporary:
        folder = Path(temporary, "project") if keep is None else keep.resolve()
        try:
            # Hooks would run in the new folder: the one of `dvc install` checks out all outputs there.
            read_output("git", "-c", f"core.hooksPath={os.devnull}", "worktree", "add", "--detach", str(folder), commit)
            yield folder / Path.cwd().resolve().relative_to(top)
        finally:
            if keep is None:
                with suppress(StageError):
                    read_output("git", "worktree", "remove", "--force", str(folder))


def find_repository() -> Path:
    """The top folder of the workspace's Git repository."""
    read_output("git", "--version")
    try:
        return Path(read_output("git", "rev-parse", "--show-toplevel")).resolve()
    except StageError as error:
        if "safe.directory" in str(error):  # Git's advice, the last line of its message, for another user's repository
            raise
        raise StageError(
            f"rebuilding needs the Git repository with the commit of the run, and {Path.cwd()} is not in a repository "
            f"({error}); run this in a clone of the project"
        ) from None


def is_free(folder: Path) -> bool:
    return not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))


def check_code(stages: Stages, folder: Path, commit: str) -> None:
    """Reject a run whose code, packages or commands differ from its commit, which is checked out in `folder`.

    Raises:
        StageError: some files differ; the message names them.
    """
    # dvc.lock has relative paths for what is inside the project, and absolute ones for the rest.
    photos = os.path.relpath(recorded_params(stages).get(".".join(PHOTOS), os.devnull))
    not_code = {*output_digests(stages), photos, os.path.abspath(photos)}
    used = {(dep["path"], dep["md5"]) for stage in stages.values() for dep in stage.get("deps", [])}
    changed = {path for path, md5 in used if path not in not_code and not has_digest(folder / path, md5)}
    commands = read_pipeline(folder)
    if any(commands.get(name, {}).get("cmd") != stage.get("cmd") for name, stage in stages.items()):
        changed.add(str(DVC_YAML))
    if changed:
        raise StageError(
            f"the run used changes that are not in commit {commit[:12]}: {name_some(sorted(changed))}; commit before "
            "a run that you want to rebuild, and do not store other files in folders of code"
        )


def has_digest(path: Path, digest: str) -> bool:
    """Whether a file or folder has this MD5 digest, as DVC computes it."""
    if digest.endswith(FOLDER_SUFFIX):
        return path.is_dir() and folder_digest(path) == digest
    return path.is_file() and file_digest(path) == digest


def read_pipeline(folder: Path) -> dict[str, Any]:
    """The stages of dvc.yaml, in the order of the pipeline; empty if the file does not exist."""
    file = folder / DVC_YAML
    stages: dict[str, Any] = load_yaml(file)["stages"] if file.exists() else {}
    return stages


def use_workspace_path(folder: Path, param: Sequence[str]) -> None:
    """Make a param that names a file or folder outside Git absolute, in the params.yaml of the project in `folder`.

    A relative path would not exist in the checkout. The param is left as it is if the path is absolute, does not exist
    in the workspace, or is in Git.
    """
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
    """Whether the checkout in `folder` has `path`, and the workspace has no untracked files there."""
    with suppress(StageError):
        return (folder / path).exists() and not read_output("git", "ls-files", "--others", "--directory", "--", path)
    return False
