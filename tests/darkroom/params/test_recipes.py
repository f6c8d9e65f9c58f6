import hashlib
import json
import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from darkroom.params.recipes import describe_recipe, list_recipes, write_recipe
from darkroom.params.section import read_document
from darkroom.params.sections import SECTIONS, list_file_errors
from darkroom.pipeline.stage import StageError
from tests.imports import ROOT
from tests.project import read_recipe

FOLDER = ROOT / "recipes"
RECIPES = list_recipes(FOLDER)
# The first digits of the SHA-256 of the values in each file, as JSON. Results depend on them: a change of a value also
# changes its digest here, and is mentioned in the changelog.
DIGESTS = {
    "base": "f0d5a01313294a15",
    "cats_dogs": "90914505d6b8d4d5",
    "cifar10": "11e6b6748c5409e3",
    "cifar10_vgg16": "f697a6b4daa7c1d3",
    "creatures": "97e4433caec14316",
    "creatures_openverse": "ed695e631fbbd544",
    "digits": "36ea47a5c750db1b",
    "guitars": "46867018c322e7f7",
    "guitars_compact": "a6c75c0eded8dd71",
    "guitars_mobilenet": "d16d3fe3f7216287",
    "guitars_six": "08cf7891a8a239b6",
    "mnist": "0f9d6dae50811050",
}


def digest(name: str) -> str:
    values = YAML(typ="safe").load(FOLDER / f"{name}.yaml")
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def test_recipes_have_their_published_values() -> None:
    assert {name: digest(name) for name in ["base", *RECIPES]} == DIGESTS


def test_params_yaml_is_the_recipe_digits() -> None:
    assert (ROOT / "params.yaml").read_text() == write_recipe("digits", {}, FOLDER)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_complete_and_valid_and_has_a_description(name: str, tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text(write_recipe(name, {}, FOLDER))
    assert list(read_document(file)) == list(SECTIONS)
    assert list_file_errors(file, "acquire") == []
    head = file.read_text().partition("\n\n")[0].splitlines()
    assert len(head) == len(describe_recipe(name, FOLDER)) + 1
    assert all(line.startswith("# ") for line in head)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_repeats_no_value_of_the_base(name: str) -> None:
    """Otherwise it would look like a value that is special to this recipe."""
    yaml = YAML(typ="safe")
    base, overlay = yaml.load(FOLDER / "base.yaml"), yaml.load(FOLDER / f"{name}.yaml")
    assert overlay["acquire"].pop("source")  # which every recipe names

    def list_same(values: dict[str, object], others: dict[str, object], prefix: str) -> list[str]:
        same: list[str] = []
        for key, value in values.items():
            other = others[key]
            if isinstance(value, dict) and isinstance(other, dict) and other:
                same += list_same(value, other, f"{prefix}{key}.")
            elif value == other:
                same.append(f"{prefix}{key}")
        return same

    assert list_same(overlay, base, "") == []


class TestWriting:
    def test_a_change_overrides_the_value_of_the_recipe(self) -> None:
        changes = {"train.epochs": 7, "acquire.classes": {"cat": "cats"}, "augment.image_size": [8, 9]}
        params = YAML(typ="safe").load(write_recipe("guitars", changes, FOLDER))
        expected = read_recipe("guitars")
        expected["train"]["epochs"] = 7
        expected["acquire"]["classes"] = {"cat": "cats"}
        expected["augment"]["image_size"] = [8, 9]
        assert params == expected

    def test_an_entry_of_a_mapping_is_set_or_added_and_the_others_are_unchanged(self) -> None:
        changes = {"acquire.classes.sg": "sg", "acquire.classes.flying_v": "gibson_V"}
        params = YAML(typ="safe").load(write_recipe("guitars_six", changes, FOLDER))
        expected = read_recipe("guitars_six")["acquire"]["classes"] | {"sg": "sg", "flying_v": "gibson_V"}
        assert params["acquire"]["classes"] == expected

    def test_another_source_adds_its_blocks_and_removes_others(self) -> None:
        params = YAML(typ="safe").load(write_recipe("guitars", {"acquire.source": "pexels"}, FOLDER))
        assert {"pexels", "download"} <= params["acquire"].keys()
        assert "layout" not in params["acquire"]

    def test_every_value_is_written_with_the_comment_of_its_param(self) -> None:
        text = write_recipe("creatures", {"train.epochs": 12345}, FOLDER)
        (base,) = re.findall(r"^  epochs: 30 +(#.+)$", (FOLDER / "base.yaml").read_text(), re.MULTILINE)
        assert re.findall(r"^  epochs: 12345 +(#.+)$", text, re.MULTILINE) == [base]
        assert "permission: null " in text
        assert "\n\n\n" not in text
        assert text.count("\n\n") == len(SECTIONS)

    @pytest.mark.parametrize(
        ("name", "changes", "message"),
        [
            ("guitar", {}, "there is no recipe 'guitar'; expected one of cats_dogs, "),
            ("base", {}, "there is no recipe 'base'; expected one of "),
            ("../digits", {}, "there is no recipe '../digits'; expected one of "),
            ("digits", {"train.epoch": 3}, "train.epoch: is unknown; did you mean epochs?"),
            ("digits", {"trian.epochs": 3}, "trian: is unknown; did you mean train?"),
            ("digits", {"train.cnn": 3}, "train.cnn: is a section, got 3; set one of its params: filters, kernel_size"),
        ],
    )
    def test_unknown_recipes_and_params_are_an_error(self, name: str, changes: dict[str, object], message: str) -> None:
        with pytest.raises(StageError) as caught:
            write_recipe(name, changes, FOLDER)
        assert str(caught.value).startswith(message)
