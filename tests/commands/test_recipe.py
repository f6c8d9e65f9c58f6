from pathlib import Path

import pytest
from ruamel.yaml import YAML

from darkroom.params.recipes import write_recipe
from darkroom.pipeline.paths import PARAMS
from tests.imports import ROOT
from tests.project import Project, read_recipe
from tests.recorded_runs import run_app

pytestmark = pytest.mark.usefixtures("project")


@pytest.fixture
def project(workspace: Path) -> Project:
    """A Git repository with the recipes and no params.yaml."""
    (workspace / "recipes").symlink_to(ROOT / "recipes")
    (workspace / ".gitignore").write_text("recipes\n")
    project = Project(workspace)
    project.git("init", "--quiet")
    project.commit("Begin")
    return project


def recipe(*arguments: str) -> int | str:
    return run_app("recipe", *arguments)


def values() -> object:
    return YAML(typ="safe").load(PARAMS)


def test_without_a_name_all_recipes_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert recipe() == 0
    lines = capsys.readouterr().out.splitlines()
    assert "digits               Classify ten handwritten digits" in lines
    assert len(lines) == len(list((ROOT / "recipes").glob("*.yaml"))) - 1
    assert not PARAMS.exists()


def test_it_writes_a_complete_file_and_prints_what_changed(capsys: pytest.CaptureFixture[str]) -> None:
    assert recipe("digits") == 0
    assert PARAMS.read_text() == write_recipe("digits", {})
    capsys.readouterr()
    assert recipe("mnist", "--set", "train.epochs=3", "--set", "augment.rotation_degrees=[5]") == 0
    expected = read_recipe("mnist")
    expected["train"]["epochs"], expected["augment"]["rotation_degrees"] = 3, [5]
    assert values() == expected
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("Classify the digits of MNIST")
    assert {
        "train.epochs: 30 -> 3",
        "augment.rotation_degrees: [-12, 12] -> [5]",
        "split.near_duplicate_similarity: 0.99 -> null",
        "acquire.dataset.files: (none) -> download",
    } <= set(lines)
    assert lines[-1] == f"recipe: mnist -> params.yaml, values changed: {len(lines) - 3}; run `dvc repro` to use it"


class TestOverwriting:
    def test_uncommitted_changes_are_not_overwritten(self) -> None:
        assert recipe("digits") == 0
        PARAMS.write_text(PARAMS.read_text().replace("epochs: 30 ", "epochs: 31 "))
        mine = PARAMS.read_text()
        assert str(recipe("mnist")).startswith("recipe: params.yaml has uncommitted changes; commit them first")
        assert PARAMS.read_text() == mine
        assert recipe("mnist", "--force") == 0
        assert values() == read_recipe("mnist")

    def test_a_new_comment_is_a_change(self) -> None:
        assert recipe("digits") == 0
        PARAMS.write_text(f"# Mine.\n{PARAMS.read_text()}")
        assert recipe("mnist") != 0

    def test_committed_params_may_be_overwritten(self, project: Project) -> None:
        assert recipe("digits", "--set", "train.epochs=31") == 0
        assert recipe("mnist") != 0
        project.commit("Use 31 epochs")
        assert recipe("mnist") == 0

    def test_without_git_an_unchanged_recipe_may_be_overwritten(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", "")
        assert recipe("digits") == 0
        assert recipe("mnist") == 0
        assert recipe("mnist", "--set", "train.epochs=31") == 0
        assert recipe("mnist", "--set", "train.epochs=31") == 0  # writing the same values again changes nothing
        assert recipe("mnist") != 0

    def test_an_invalid_file_is_not_overwritten(self) -> None:
        PARAMS.write_bytes(b"train: [caf\xe9\n")
        assert recipe("digits") != 0
        assert recipe("digits", "--force") == 0
        assert values() == read_recipe("digits")


class TestMistakes:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["guitar"], "there is no recipe 'guitar'; expected one of cats_dogs, cifar10, "),
            (["digits", "--set", "train.epochs"], "--set train.epochs: expected PARAM=VALUE, such as"),
            (["digits", "--set", "=3"], "--set =3: expected PARAM=VALUE, such as"),
            (["digits", "--set", "train.epochs=[1"], "--set train.epochs=[1: expected YAML after the =, got '[1'"),
            (["digits", "--set", "train.epoch=3"], "train.epoch: is unknown; did you mean epochs?"),
            (
                ["digits", "--set", "acquire.layout.table=a.csv"],
                "acquire.layout.table: does not apply to source digits, which reads no blocks",
            ),
            (["digits", "--set", "train.epochs.more=3"], "train.epochs.more: train.epochs is not a section, its"),
            (
                ["digits", "--set", "acquire.source=[1]"],
                "digits with these values is not valid; nothing was written. Errors:",
            ),
            (["digits", "--set", "train=3"], "train: is a section, got 3; set one of its params: network, "),
            (
                ["digits", "--set", "train.epochs=many"],
                "digits with these values is not valid; nothing was written. Errors:\n"
                "train: epochs: must be a whole number",
            ),
        ],
    )
    def test_each_gives_a_clear_message_and_nothing_is_written(self, arguments: list[str], message: str) -> None:
        assert str(recipe(*arguments)).startswith(f"recipe: {message}")
        assert not PARAMS.exists()

    def test_a_folder_without_recipes_is_rejected(self, workspace: Path) -> None:
        (workspace / "recipes").unlink()
        assert recipe("digits") == f"recipe: there are no recipes in {workspace}; run this in the project's folder"
