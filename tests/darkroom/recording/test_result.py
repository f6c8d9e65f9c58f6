import os
import shutil
import subprocess
from itertools import chain
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from darkroom.explanation.robustness import RobustnessRow
from darkroom.pipeline.dataset import write_labels, write_rows
from darkroom.pipeline.files import write_bytes, write_json, write_table, write_text
from darkroom.pipeline.paths import (
    ACQUIRE_CREDITS,
    ACQUIRE_PHOTOS_FOLDER,
    AUGMENT_IMAGES,
    DVC_LOCK,
    EVALUATE_CLASSES,
    EVALUATE_METRICS,
    EXPLAIN_METRICS,
    EXPLAIN_ROBUSTNESS,
    PARAMS,
    SUBSETS,
    TRAIN_HISTORY,
    TRAIN_LABELS,
    TRAIN_METRICS,
    TRAIN_MODEL,
    subset_rows,
)
from darkroom.pipeline.stage import StageError
from darkroom.recording.result import (
    check_recorded_output,
    git_tags,
    list_artifacts,
    read_curves,
    read_levels,
    read_result,
    read_scores,
)
from darkroom.scores.scores import ClassScores
from darkroom.tracking.lockfile import Stages, file_digest, output_digests, result_key
from darkroom.version import __version__
from tests.imports import ROOT

OUTPUTS = {
    name: [*stage["outs"], *stage["metrics"]]
    for name, stage in YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"].items()
    if name != "record"
}

# None: a score that the test photos do not define; its cell is empty.
CLASSES = [
    ClassScores("cat", 1.0, 0.5, 0.625, 0.875, 0.75, 4),
    ClassScores("Bär", 0.0, 0.0, 0.0, None, None, 1),
    ClassScores("eel", None, None, None, None, None, 0),
]
CURVES = {
    "noise": [RobustnessRow(0, 4, 0.75, 0.3, 0.95, 0.0), RobustnessRow(16, 4, 0.5, 0.15, 0.85, 0.25)],
    "jpeg": [RobustnessRow(100, 4, 0.75, 0.3, 0.95, 0.0), RobustnessRow(5, 4, 0.25, 0.05, 0.7, 0.5)],
}

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")


def run_git(*arguments: str) -> str:
    identity = ["-c", "user.name=Test", "-c", "user.email=test@localhost"]
    return subprocess.run(["git", *identity, *arguments], capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def repository(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Git repository with one commit and a clean working tree."""
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(workspace.parent))
    run_git("init", "--quiet")
    (workspace / "params.yaml").write_text("a: 1\n")
    (workspace / "dvc.lock").write_text("a: 1\n")
    run_git("add", "--all")
    run_git("commit", "--quiet", "--message", "First")
    return workspace


@pytest.fixture
def stages(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Stages:
    """The outputs of a small pipeline in the workspace, and the stages of its dvc.lock."""
    for name in ("DVC_EXP_NAME", "DVC_EXP_BASELINE_REV"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(workspace.parent))
    write_bytes(TRAIN_MODEL, b"model")
    write_labels(TRAIN_LABELS, ["cat", "dog"])
    write_table(TRAIN_HISTORY, ("epoch", "loss", "val_loss"), [(1, 0.5, 0.75), (2, 0.25, 0.125)])
    write_json(TRAIN_METRICS, {"best_epoch": 2, "parameters": 10, "device": "Abacus", "precision": "float32"})
    write_json(EVALUATE_METRICS, {"accuracy": 0.75, "loss": 0.5})
    write_rows(EVALUATE_CLASSES, ClassScores, CLASSES)
    write_json(EXPLAIN_METRICS, {"clean_accuracy": 0.75, "noise_accuracy": 0.5})
    for name, path in EXPLAIN_ROBUSTNESS.items():
        write_rows(path, RobustnessRow, CURVES.get(name, CURVES["noise"][:1]))
    datasets = {ACQUIRE_PHOTOS_FOLDER: "a.dir", AUGMENT_IMAGES: "b", **{subset_rows(name): name for name in SUBSETS}}
    files = [path for path in map(Path, chain(*OUTPUTS.values())) if path not in datasets]
    for path in (*files, PARAMS, DVC_LOCK):
        if not path.exists():
            write_text(path, path.name)
    digests = datasets | {path: file_digest(path) for path in files}
    stages: Stages = {
        name: {"cmd": "x", "outs": [{"path": path, "md5": digests[Path(path)]} for path in paths]}
        for name, paths in OUTPUTS.items()
    }
    stages["train"]["params"] = {"params.yaml": {"train": {"epochs": 2}}}
    return stages


@needs_git
class TestGitTags:
    def test_a_clean_tree_has_its_commit(self, repository: Path) -> None:
        assert repository == Path.cwd()
        assert git_tags() == {
            "mlflow.source.git.commit": run_git("rev-parse", "HEAD"),
            "darkroom.git_dirty": "false",
        }

    @pytest.mark.parametrize("name", ["params.yaml", "new.py"])
    def test_a_changed_or_a_new_file_makes_the_tree_dirty(self, repository: Path, name: str) -> None:
        (repository / name).write_text("a: 2\n")
        assert git_tags()["darkroom.git_dirty"] == "true"

    def test_dvc_lock_does_not_make_the_tree_dirty(self, repository: Path) -> None:
        (repository / "dvc.lock").write_text("a: 2\n")
        assert git_tags()["darkroom.git_dirty"] == "false"

    def test_outside_a_repository_there_are_no_tags(self, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(workspace.parent))
        assert git_tags() == {}

    def test_in_a_repository_without_a_commit_there_are_no_tags(
        self, workspace: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(workspace.parent))
        run_git("init", "--quiet")
        assert git_tags() == {}

    def test_without_git_the_lost_commit_is_reported(
        self, repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("PATH", str(repository))
        assert git_tags() == {}
        assert capsys.readouterr().err == (
            "record: Git is not installed, so the run has no commit and cannot be rebuilt; install Git before the next "
            "result\n"
        )

    def test_a_repository_of_another_user_is_an_error_with_git_s_own_command(
        self, repository: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
        monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
        with pytest.raises(StageError) as caught:
            git_tags()
        assert str(caught.value).startswith(f"the repository {repository} belongs to another user, ")
        assert f"`git config --global --add safe.directory {repository}`" in str(caught.value)


class TestArtifacts:
    def test_train_evaluate_and_explain_have_all_outputs_but_the_model(self, stages: Stages) -> None:
        outputs = [*OUTPUTS["train"], *OUTPUTS["evaluate"], *OUTPUTS["explain"]]
        model = {"data/train/model.keras", "data/train/labels.json"}
        shown = {path.as_posix() for path in list_artifacts(stages)}
        assert {path for path in shown if path in outputs} == set(outputs) - model

    def test_data_stages_have_only_readable_outputs(self, stages: Stages) -> None:
        outputs = [*OUTPUTS["train"], *OUTPUTS["evaluate"], *OUTPUTS["explain"]]
        assert {path.as_posix() for path in list_artifacts(stages)} - set(outputs) == {
            "dvc.lock",
            "params.yaml",
            "data/acquire/CREDITS.md",
            "data/augment/preview.png",
            "data/split/duplicates.csv",
            "metrics/split.json",
            "metrics/split/classes.csv",
        }

    def test_a_result_has_its_artifacts(self, stages: Stages) -> None:
        assert read_result(stages).artifacts == list_artifacts(stages)


class TestReading:
    def test_curves_have_a_row_per_epoch(self, stages: Stages) -> None:
        assert stages
        assert read_curves(TRAIN_HISTORY) == [{"loss": 0.5, "val_loss": 0.75}, {"loss": 0.25, "val_loss": 0.125}]

    def test_scores_have_the_names_that_mlflow_shows(self, stages: Stages) -> None:
        assert stages
        assert read_scores() == {
            "test_accuracy": 0.75,
            "test_loss": 0.5,
            "test_precision/cat": 1,
            "test_recall/cat": 0.5,
            "test_f1/cat": 0.625,
            "test_average_precision/cat": 0.875,
            "test_roc_auc/cat": 0.75,
            "test_precision/Bär": 0,
            "test_recall/Bär": 0,
            "test_f1/Bär": 0,
            "clean_accuracy": 0.75,
            "noise_accuracy": 0.5,
            "best_epoch": 2,
            "parameters": 10,
        }

    def test_every_level_of_a_corruption_is_a_point(self, stages: Stages) -> None:
        assert stages
        points = read_levels()
        assert [point for point in points if point[0].endswith(("/noise", "/jpeg"))] == [
            ("accuracy_by_level/noise", 0.75, 0),
            ("gradcam_shift_by_level/noise", 0.0, 0),
            ("accuracy_by_level/noise", 0.5, 16),
            ("gradcam_shift_by_level/noise", 0.25, 16),
            ("accuracy_by_level/jpeg", 0.75, 0),
            ("gradcam_shift_by_level/jpeg", 0.0, 0),
            ("accuracy_by_level/jpeg", 0.25, 95),
            ("gradcam_shift_by_level/jpeg", 0.5, 95),
        ]

    def test_a_skipped_corruption_has_only_the_clean_photos(self, stages: Stages) -> None:
        assert stages
        assert [point for point in read_levels() if point[0].endswith("/blur")] == [
            ("accuracy_by_level/blur", 0.75, 0),
            ("gradcam_shift_by_level/blur", 0.0, 0),
        ]

    def test_a_result_comes_from_the_lock_and_the_outputs(self, stages: Stages) -> None:
        result = read_result(stages)
        assert result.key == result_key(stages)
        assert result.params == {"train.epochs": "2"}
        assert len(result.curves) == 2
        assert result.levels == read_levels()
        assert result.scores["test_accuracy"] == 0.75
        assert result.datasets == {
            "photos": ("data/acquire/photos", "a.dir"),
            "images": ("data/augment/images.npy", "b"),
            "train": ("data/split/train.npy", "train"),
            "validation": ("data/split/validation.npy", "validation"),
            "test": ("data/split/test.npy", "test"),
        }
        assert result.model_digest == file_digest(TRAIN_MODEL)
        digests = {f"dvc.md5.{path}": digest for path, digest in output_digests(stages).items()}
        assert result.tags == digests | {
            "darkroom.device": "Abacus",
            "darkroom.precision": "float32",
            "darkroom.version": __version__,
        }
        assert result.experiment == ""

    def test_a_result_of_an_experiment_has_its_name_and_baseline(
        self, stages: Stages, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("DVC_EXP_NAME", "sunny-cat")
        monkeypatch.setenv("DVC_EXP_BASELINE_REV", "abc")
        result = read_result(stages)
        assert result.experiment == "sunny-cat"
        assert result.tags["dvc.experiment"] == "sunny-cat"
        assert result.tags["dvc.baseline"] == "abc"

    @pytest.mark.parametrize("path", [TRAIN_MODEL, TRAIN_LABELS, TRAIN_HISTORY, EXPLAIN_METRICS, ACQUIRE_CREDITS])
    def test_a_changed_output_is_rejected(self, stages: Stages, path: Path) -> None:
        write_text(path, "changed by hand")
        with pytest.raises(StageError) as caught:
            read_result(stages)
        assert str(caught.value) == (f"{path} differs from dvc.lock, so the result cannot be recorded: run `dvc repro`")

    def test_a_missing_output_is_rejected(self, workspace: Path) -> None:
        assert not (workspace / TRAIN_MODEL).exists()
        with pytest.raises(StageError) as caught:
            check_recorded_output(TRAIN_MODEL, "5" * 32)
        assert str(caught.value) == (
            "data/train/model.keras is missing although dvc.lock lists it, so the result cannot be recorded: "
            "run `dvc repro`"
        )
