from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from ruamel.yaml import YAML

from stages.lib.params import SECTIONS, AcquireParams, SplitParams, TrainParams, read_document, read_params
from stages.lib.stage import StageError

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))


def write_params(folder: Path, **sections: Any) -> None:
    YAML(typ="safe").dump(sections, folder / "params.yaml")


def write_recipe(folder: Path, value: str, other_value: str) -> None:
    """Write the digits' recipe, comments and all, with another value."""
    recipe = (ROOT / "recipes/digits.yaml").read_text()
    (folder / "params.yaml").write_text(recipe.replace(value, other_value))


def good_section(name: str) -> dict[str, Any]:
    section: dict[str, Any] = YAML(typ="safe").load(ROOT / "recipes/digits.yaml")[name]
    return section


def faults(workspace: Path, name: str, **changes: Any) -> list[str]:
    """The faults that a good section has after `changes`; a key whose value is ... is left out."""
    section = {key: value for key, value in (good_section(name) | changes).items() if value is not ...}
    write_params(workspace, **{name: section})
    with pytest.raises(StageError) as caught:
        read_params(name, SECTIONS[name])
    heading, *lines = str(caught.value).splitlines()
    assert heading == f"{len(lines)} fault(s) in the params"
    return lines


class TestRecipes:
    def test_params_yaml_is_the_recipe_that_needs_nothing(self) -> None:
        assert (ROOT / "params.yaml").read_bytes() == (ROOT / "recipes/digits.yaml").read_bytes()

    @pytest.mark.parametrize("recipe", RECIPES, ids=[recipe.stem for recipe in RECIPES])
    def test_every_recipe_is_complete_and_valid(self, recipe: Path) -> None:
        assert list(read_document(recipe)) == list(SECTIONS)
        for name, model in SECTIONS.items():
            read_params(name, model, recipe)

    @pytest.mark.parametrize("name", SECTIONS)
    def test_no_value_has_a_default_in_code(self, name: str) -> None:
        assert {key: field.is_required() for key, field in SECTIONS[name].model_fields.items()} == dict.fromkeys(
            good_section(name), True
        )


class TestGoodValues:
    def test_the_values_of_the_file_are_returned(self, workspace: Path) -> None:
        write_params(workspace, split={"validation_fraction": 0.1, "test_fraction": 0.3, "seed": 7})
        assert read_params("split", SplitParams) == SplitParams(validation_fraction=0.1, test_fraction=0.3, seed=7)

    def test_scientific_notation_without_a_dot_is_a_number(self, workspace: Path) -> None:
        write_recipe(workspace, "learning_rate: 0.001", "learning_rate: 2e-5")
        assert read_params("train", TrainParams).learning_rate == 0.00002

    def test_a_word_that_older_yaml_takes_for_false_is_a_label(self, workspace: Path) -> None:
        write_recipe(workspace, "classes: {}", "classes: {no: off}")
        assert read_params("acquire", AcquireParams).classes == {"no": "off"}

    def test_a_whole_number_stands_for_a_fraction_of_degrees(self, workspace: Path) -> None:
        write_params(workspace, augment=good_section("augment") | {"rotation_degrees": [-360, 12.5, 360]})
        assert read_params("augment", SECTIONS["augment"]).rotation_degrees == [-360.0, 12.5, 360.0]

    def test_params_cannot_be_changed(self) -> None:
        params = SplitParams(validation_fraction=0.1, test_fraction=0.3, seed=7)
        with pytest.raises(ValidationError, match="frozen"):
            params.seed = 8


class TestFaults:
    @pytest.mark.parametrize(
        ("name", "changes", "line"),
        [
            ("train", {"epochs": 0}, "train: epochs: must be at least 1, got 0"),
            ("train", {"epochs": 2.5}, "train: epochs: must be a whole number, got 2.5"),
            ("train", {"epochs": 2.0}, "train: epochs: must be a whole number, got 2.0"),
            ("train", {"epochs": "2"}, "train: epochs: must be a whole number, got '2'"),
            ("train", {"epochs": True}, "train: epochs: must be a whole number, got True"),
            ("train", {"epochs": None}, "train: epochs: must be a whole number, got None"),
            ("train", {"epochs": ...}, "train: epochs: is missing; every value must stand in the file"),
            ("train", {"seed": 2**32}, "train: seed: must be less than 4294967296, got 4294967296"),
            ("train", {"threads": 1025}, "train: threads: must be at most 1024, got 1025"),
            ("train", {"learning_rate": 0}, "train: learning_rate: must be greater than 0.0, got 0"),
            ("train", {"learning_rate": "big"}, "train: learning_rate: must be a number, got 'big'"),
            ("train", {"learning_rate": float("inf")}, "train: learning_rate: must be a finite number, got inf"),
            ("train", {"learning_rate": float("nan")}, "train: learning_rate: must be a finite number, got nan"),
            ("train", {"network": "vgg"}, "train: network: must be 'keras_cifar10_cnn', got 'vgg'"),
            ("acquire", {"source": "digit"}, "acquire: source: must be 'digits' or 'folder', got 'digit'"),
            ("acquire", {"folder": 3}, "acquire: folder: must be a text, got 3"),
            ("acquire", {"folder": ""}, "acquire: folder: must have at least 1 item(s), got ''"),
            ("acquire", {"classes": ["cat"]}, "acquire: classes: must be a mapping, got ['cat']"),
            ("acquire", {"classes": {"zero": 0}}, "acquire: classes.zero: must be a text, got 0"),
            ("acquire", {"classes": {"str": 0}}, "acquire: classes.str: must be a text, got 0"),
            ("acquire", {"photos_per_class": 1}, "acquire: photos_per_class: must be at least 2, got 1"),
            ("acquire", {"photos_per_class": "all"}, "acquire: photos_per_class: must be a whole number, got 'all'"),
            ("augment", {"image_size": 16}, "augment: image_size: must be a list, got 16"),
            ("augment", {"image_size": [16]}, "augment: image_size: must have at least 2 item(s), got [16]"),
            ("augment", {"image_size": [1, 2, 3]}, "augment: image_size: must have at most 2 item(s), got [1, 2, 3]"),
            ("augment", {"image_size": [16, 5000]}, "augment: image_size.1: must be at most 4096, got 5000"),
            ("augment", {"horizontal_flip": 1}, "augment: horizontal_flip: must be true or false, got 1"),
            (
                "augment",
                {"rotation_degrees": [0, -361]},
                "augment: rotation_degrees.1: must be at least -360.0, got -361",
            ),
            ("evaluate", {"confidence_level": 95}, "evaluate: confidence_level: must be less than 1.0, got 95"),
            (
                "split",
                {"validation_fraction": 0.4, "test_fraction": 0.6},
                "split: validation_fraction + test_fraction must be less than 1, got 1",
            ),
            ("train", {"epoch": 3}, "train: epoch: is unknown; did you mean epochs?"),
            ("split", {"x": 3}, "split: x: is unknown; known are validation_fraction, test_fraction, seed"),
        ],
    )
    def test_a_fault_is_one_line_with_the_key_what_was_expected_and_what_was_received(
        self, workspace: Path, name: str, changes: dict[str, Any], line: str
    ) -> None:
        assert faults(workspace, name, **changes) == [f"params.yaml: {line}"]

    def test_a_class_that_is_no_text_is_named(self, workspace: Path) -> None:
        (line,) = faults(workspace, "acquire", classes={7: "7"})
        assert line.startswith("params.yaml: acquire: classes.7")
        assert line.endswith("must be a text, got 7")

    def test_all_faults_of_a_section_are_reported_at_once(self, workspace: Path) -> None:
        assert faults(workspace, "train", epochs=..., epoch=3, batch_size=0, learning_rate="big") == [
            "params.yaml: train: batch_size: must be at least 1, got 0",
            "params.yaml: train: epochs: is missing; every value must stand in the file",
            "params.yaml: train: learning_rate: must be a number, got 'big'",
            "params.yaml: train: epoch: is unknown; did you mean epochs?",
        ]

    @pytest.mark.parametrize("value", [None, 5, [1]])
    def test_a_section_that_is_no_mapping_is_refused_with_the_keys_it_needs(self, workspace: Path, value: Any) -> None:
        write_params(workspace, split=value)
        with pytest.raises(StageError) as caught:
            read_params("split", SplitParams)
        assert str(caught.value).splitlines()[1:] == [
            f"params.yaml: split: must hold validation_fraction, test_fraction, seed, got {value!r}"
        ]

    def test_a_section_that_is_missing_is_refused_with_the_keys_it_needs(self, workspace: Path) -> None:
        write_params(workspace, spilt=good_section("split"))
        with pytest.raises(StageError) as caught:
            read_params("split", SplitParams)
        assert str(caught.value).splitlines()[1:] == [
            "params.yaml: spilt: is unknown; did you mean split?",
            "params.yaml: split: must hold validation_fraction, test_fraction, seed, got None",
        ]

    def test_a_section_that_nobody_reads_is_refused(self, workspace: Path) -> None:
        write_params(workspace, split=good_section("split"), paths={"data": "x"})
        with pytest.raises(StageError) as caught:
            read_params("split", SplitParams)
        assert str(caught.value).splitlines()[1:] == [
            "params.yaml: paths: is unknown; known are acquire, augment, split, train, evaluate"
        ]

    def test_faults_of_other_sections_come_to_light_at_once(self, workspace: Path) -> None:
        train = good_section("train") | {"epochs": -1}
        write_params(workspace, split=good_section("split"), train=train)
        with pytest.raises(StageError, match=r"^1 fault.*\nparams.yaml: train: epochs: must be at least 1, got -1$"):
            read_params("split", SplitParams)


class TestFile:
    def test_a_missing_file_is_refused_with_the_way_to_a_recipe(self, workspace: Path) -> None:
        assert not list(workspace.iterdir())
        with pytest.raises(StageError, match="^params.yaml is missing; copy a recipe: `cp recipes/digits.yaml params"):
            read_params("split", SplitParams)

    @pytest.mark.parametrize(
        "content",
        [
            pytest.param(b"split: [1, 2", id="a list without an end"),
            pytest.param(b"split:\n\tseed: 1", id="a tab"),
            pytest.param(b"split: 1\nsplit: 2", id="a key twice"),
            pytest.param(b"split: caf\xe9", id="not UTF-8"),
            pytest.param(b"split: 1\n---\nsplit: 2", id="two documents"),
            pytest.param(b"split: !!python/object:os.system x", id="code"),
            pytest.param(b"split: 2020-13-45", id="a day that no calendar has"),
        ],
    )
    def test_a_file_that_is_no_yaml_is_refused_in_one_line(self, workspace: Path, content: bytes) -> None:
        (workspace / "params.yaml").write_bytes(content)
        with pytest.raises(StageError) as caught:
            read_params("split", SplitParams)
        assert str(caught.value).startswith("params.yaml is not valid YAML: ")
        assert len(str(caught.value).splitlines()) == 1

    @pytest.mark.parametrize(("content", "got"), [("", "None"), ("digits", "'digits'"), ("- 1", "[1]")])
    def test_a_file_without_sections_is_refused(self, workspace: Path, content: str, got: str) -> None:
        (workspace / "params.yaml").write_text(content)
        with pytest.raises(StageError) as caught:
            read_params("split", SplitParams)
        assert str(caught.value) == f"params.yaml: expected the sections {', '.join(SECTIONS)}, got {got}"
