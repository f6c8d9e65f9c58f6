import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from commands.rebuilding.worktree import (
    PHOTOS,
    WEIGHTS,
    check_code,
    check_out,
    read_output,
    read_pipeline,
    use_workspace_path,
)
from darkroom.pipeline.stage import StageError
from darkroom.tracking.lockfile import Stages, file_digest, folder_digest

COMMANDS = {name: f"python -m stages.{name}" for name in ("acquire", "split", "train")}
pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")


def git(*arguments: str) -> str:
    return read_output("git", "-c", "user.name=Test", "-c", "user.email=test@localhost", *arguments)


@pytest.fixture
def repository(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Git repository of two commits as the current folder, with a stage and its code."""
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(workspace))
    (workspace / "project/stages").mkdir(parents=True)
    monkeypatch.chdir(workspace / "project")
    Path("stages/train.py").write_text("old")
    YAML(typ="safe").dump({"stages": {name: {"cmd": cmd} for name, cmd in COMMANDS.items()}}, Path("dvc.yaml"))
    git("init", "--quiet")
    git("add", "--all")
    git("commit", "--quiet", "--message", "First")
    Path("stages/train.py").write_text("new")
    git("commit", "--quiet", "--all", "--message", "Second")
    return workspace / "project"


def worktrees() -> int:
    return len(git("worktree", "list").splitlines())


class TestCheckOut:
    def test_an_older_commit_is_checked_out_and_the_workspace_is_unchanged(self, repository: Path) -> None:
        with check_out(git("rev-parse", "HEAD~"), None) as folder:
            assert (folder / "stages/train.py").read_text() == "old"
            assert not folder.is_relative_to(repository)
            (folder / "left.txt").write_text("behind")
        assert not folder.parent.exists()
        assert worktrees() == 1
        assert (repository / "stages/train.py").read_text() == "new"
        assert git("status", "--porcelain") == ""

    @pytest.mark.usefixtures("repository")
    @pytest.mark.parametrize("error", [StageError, KeyboardInterrupt])
    def test_the_worktree_is_removed_after_errors_and_interrupts(self, error: type[BaseException]) -> None:
        with pytest.raises(error), check_out("HEAD", None) as folder:
            raise error
        assert not folder.exists()
        assert worktrees() == 1

    def test_a_named_folder_is_not_removed(self, repository: Path) -> None:
        kept = repository.parent / "kept"
        with check_out("HEAD", kept) as folder:
            assert folder == kept
        assert (kept / "stages/train.py").read_text() == "new"
        assert worktrees() == 2

    def test_a_project_below_the_top_of_its_repository_is_found(
        self, repository: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(repository / "stages")
        with check_out("HEAD~", None) as folder:
            assert (folder / "train.py").read_text() == "old"

    def test_hooks_do_not_run(self, repository: Path) -> None:
        hook = repository / ".git/hooks/post-checkout"
        hook.write_text("#!/bin/sh\ntouch hooked\n")
        hook.chmod(0o755)
        with check_out("HEAD", None) as folder:
            assert not (folder / "hooked").exists()

    @pytest.mark.usefixtures("repository")
    def test_an_unknown_commit_is_an_error(self) -> None:
        with pytest.raises(StageError, match=f"^commit {'0' * 40} is not in the Git repository .*git fetch"):
            check_out("0" * 40, None).__enter__()

    @pytest.mark.parametrize("keep", ["inside", "../full"])
    def test_a_folder_inside_the_repository_or_with_files_is_rejected(self, repository: Path, keep: str) -> None:
        (repository.parent / "full").mkdir()
        (repository.parent / "full/file").touch()
        with pytest.raises(StageError, match="^--keep .*: expected a new or an empty folder outside"):
            check_out("HEAD", Path(keep)).__enter__()

    def test_a_folder_outside_a_repository_is_rejected(self, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(workspace.parent))
        with pytest.raises(StageError, match="is not in a repository .*not a git repository.*; run this in a clone"):
            check_out("HEAD", None).__enter__()

    def test_git_may_be_missing(self, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", str(workspace))
        with pytest.raises(StageError, match="^git is not on the PATH; install it"):
            check_out("HEAD", None).__enter__()


class TestCheckCode:
    @pytest.fixture
    def stages(self, repository: Path) -> Stages:
        """The stages in dvc.lock at the second commit."""
        code = {"path": "stages/train.py", "md5": file_digest(repository / "stages/train.py")}
        rows = {"path": "data/split/train.npy", "md5": "2"}
        photos = {"params.yaml": {"acquire": {"folder": "photos"}}}
        return {
            "acquire": {"cmd": COMMANDS["acquire"], "deps": [{"path": "photos", "md5": "1.dir"}], "params": photos},
            "split": {"cmd": COMMANDS["split"], "deps": [code], "outs": [rows]},
            "train": {"cmd": COMMANDS["train"], "deps": [code, rows]},
        }

    @pytest.mark.parametrize("folder", ["photos", "photos/", "./photos", "{here}/photos"])
    def test_photos_and_outputs_are_not_checked(self, repository: Path, stages: Stages, folder: str) -> None:
        stages["acquire"]["params"]["params.yaml"]["acquire"]["folder"] = folder.format(here=Path.cwd())
        check_code(stages, repository, "HEAD")

    def test_photos_outside_the_project_are_not_checked(self, repository: Path, stages: Stages) -> None:
        stages["acquire"]["params"]["params.yaml"]["acquire"]["folder"] = "/elsewhere/photos"
        stages["acquire"]["deps"] = [{"path": "/elsewhere/photos", "md5": "1.dir"}]
        check_code(stages, repository, "HEAD")

    @pytest.mark.parametrize(
        ("changes", "named"),
        [
            ({"deps": [{"path": "stages/train.py", "md5": "0"}]}, "stages/train.py"),
            ({"deps": [{"path": "stages/other.py", "md5": "0"}]}, "stages/other.py"),
            ({"deps": [{"path": "stages", "md5": "0.dir"}]}, "stages"),
            ({"cmd": "python -m stages.other"}, "dvc.yaml"),
        ],
        ids=["changed", "never committed", "folder changed", "another command"],
    )
    def test_files_that_differ_from_the_commit_are_named(
        self, repository: Path, stages: Stages, changes: dict[str, Any], named: str
    ) -> None:
        with pytest.raises(StageError, match=f"that are not in commit 0123456789ab: {named}; commit before"):
            check_code(stages | {"train": stages["train"] | changes}, repository, "0123456789abcdef")

    def test_a_folder_of_code_may_have_new_compiled_files_but_no_other_new_files(
        self, repository: Path, stages: Stages
    ) -> None:
        stages["train"]["deps"].append({"path": "stages", "md5": folder_digest(repository / "stages")})
        (repository / "stages/__pycache__").mkdir()
        (repository / "stages/__pycache__/train.pyc").write_text("compiled")
        check_code(stages, repository, "HEAD")
        (repository / "stages/new.py").write_text("new")
        with pytest.raises(StageError, match="that are not in commit HEAD: stages; commit before"):
            check_code(stages, repository, "HEAD")

    def test_two_stages_that_used_two_versions_of_a_file_are_rejected(self, repository: Path, stages: Stages) -> None:
        stages["split"]["deps"].append({"path": "stages/train.py", "md5": "0"})
        with pytest.raises(StageError, match="stages/train.py"):
            check_code(stages, repository, "HEAD")


def test_a_pipeline_is_read_in_order(workspace: Path) -> None:
    assert read_pipeline(workspace) == {}
    (workspace / "dvc.yaml").write_text("stages:\n  b: {cmd: x}\n  a: {cmd: y}\n")
    assert list(read_pipeline(workspace)) == ["b", "a"]


class TestUseWorkspacePath:
    """Git tracks `guitars` and one of the files in `photos`, and ignores `cats`."""

    @pytest.fixture
    def folder(self, repository: Path, tmp_path: Path) -> Path:
        assert Path.cwd() == repository
        for file in ("guitars/a.jpg", "photos/README.md", ".gitignore"):
            Path(file).parent.mkdir(exist_ok=True)
            Path(file).write_text("/cats/\n")
        git("add", "--all")
        git("commit", "--quiet", "--message", "Third")
        for file in ("photos/cat.jpg", "cats/cat.jpg", "weights.h5", "../beside.h5"):
            Path(file).parent.mkdir(exist_ok=True)
            Path(file).touch()
        subprocess.run(["git", "clone", "--quiet", ".", str(tmp_path / "clone")], check=True)
        return tmp_path / "clone"

    @pytest.mark.parametrize(
        ("named", "then"),
        [
            ("guitars", "guitars"),
            ("photos", "{here}/photos"),
            ("cats", "{here}/cats"),
            ("weights.h5", "{here}/weights.h5"),
            ("../beside.h5", "{up}/beside.h5"),
            ("/srv/photos", "/srv/photos"),
            ("nowhere", "nowhere"),
            ("imagenet", "imagenet"),
        ],
    )
    @pytest.mark.parametrize("param", [PHOTOS, WEIGHTS], ids=".".join)
    def test_a_path_outside_git_becomes_absolute(
        self, repository: Path, folder: Path, param: tuple[str, ...], named: str, then: str
    ) -> None:
        params = {"acquire": {"folder": named}, "train": {"backbone": {"weights": named}}, "split": {"seed": 1}}
        YAML().dump(params, folder / "params.yaml")
        use_workspace_path(folder, param)
        wanted = then.format(here=repository.resolve(), up=repository.parent.resolve())
        changed = params | ({"acquire": {"folder": wanted}} if param == PHOTOS else {})
        changed |= {"train": {"backbone": {"weights": wanted}}} if param == WEIGHTS else {}
        assert YAML(typ="safe").load(folder / "params.yaml") == changed

    def test_params_files_without_the_param_are_unchanged(self, folder: Path) -> None:
        (folder / "params.yaml").write_text("train: {epochs: 1} # as it was\n")
        for param in (PHOTOS, WEIGHTS):
            use_workspace_path(folder, param)
        assert (folder / "params.yaml").read_text() == "train: {epochs: 1} # as it was\n"
