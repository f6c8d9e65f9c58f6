import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from ruamel.yaml import YAML

from darkroom.params.acquire import SOURCE_SCHEMAS, AcquireParams
from darkroom.params.section import ALL_SECTIONS, read_params
from darkroom.params.sections import SECTIONS, list_file_errors
from darkroom.params.split import SplitParams
from darkroom.params.train import TrainParams
from darkroom.pipeline.paths import PARAMS
from darkroom.pipeline.stage import StageError
from tests.project import read_recipe

ROOT = Path(__file__).parents[3]
BLOCKS: dict[str, dict[str, Any]] = {
    "layout": {"label_from": "folder", "table": None, "subset_folders": {}},
    "dataset": {"files": "download", "train_photos": None, "test_photos": None},
    "pexels": {
        "orientation": "any",
        "size": "any",
        "color": "any",
        "locale": "any",
        "photo_size": "medium",
        "requests_per_hour": 200,
        "requests_per_month": 20000,
        "at_limit": "wait",
    },
    "openverse": {
        "licenses": ["cc0", "by"],
        "hosts": ["live.staticflickr.com"],
        "page_size": 20,
        "requests_per_minute": 20,
        "requests_per_day": 200,
        "at_limit": "stop",
    },
    "download": {"parallel": 16, "timeout_seconds": 60, "attempts": 5},
}
DIGITS = read_recipe("digits")
SOURCES = list(SOURCE_SCHEMAS)
SEARCHED = [source for source, schema in SOURCE_SCHEMAS.items() if schema.is_searched]


def write_params(folder: Path, **sections: Any) -> None:
    YAML(typ="safe").dump(sections, folder / "params.yaml")


def write_recipe(folder: Path, value: str, other_value: str) -> None:
    """Write recipe digits with its comments and one changed value."""
    recipe = (ROOT / "params.yaml").read_text()
    (folder / "params.yaml").write_text(recipe.replace(value, other_value))


SPLIT_KEYS = "validation_fraction, test_fraction, seed, given_subsets, creators_together, near_duplicate_similarity"


def valid_section(name: str) -> dict[str, Any]:
    section: dict[str, Any] = DIGITS[name]
    return section


def valid_source(source: str) -> dict[str, Any]:
    """A section acquire with exactly the params that the source reads."""
    section: dict[str, Any] = valid_section("acquire") | {"source": source}
    section |= {block: dict(BLOCKS[block]) for block in SOURCE_SCHEMAS[source].blocks}
    return section | ({"classes": {"cat": "cats", "dog": "dogs"}, "photos_per_class": 9} if source in SEARCHED else {})


def leave_out(values: dict[str, Any]) -> dict[str, Any]:
    """Remove the keys whose value is ..., in inner sections too."""
    return {
        key: leave_out(value) if isinstance(value, dict) else value for key, value in values.items() if value is not ...
    }


def section_errors(workspace: Path, name: str, **changes: Any) -> list[str]:
    """The errors in a valid section after `changes`; a key whose value is ... is removed."""
    return list_errors(workspace, name, valid_section(name) | changes)


def source_errors(workspace: Path, source: str, block: str = "", **changes: Any) -> list[str]:
    """The errors in the valid section of a source after `changes` to it or to one of its blocks."""
    section = valid_source(source)
    return list_errors(workspace, "acquire", section | ({block: section[block] | changes} if block else changes))


def list_errors(workspace: Path, name: str, section: dict[str, Any]) -> list[str]:
    write_params(workspace, **{name: leave_out(section)})
    return list_file_errors(PARAMS, name)


class TestDefaults:
    @pytest.mark.parametrize("name", SECTIONS)
    def test_no_value_has_a_default_in_code(self, name: str) -> None:
        fields = SECTIONS[name].model_fields
        optional = {key for key, field in fields.items() if not field.is_required()}
        # Blocks are optional, because each source has its own; their params have no defaults either.
        assert optional == (set(BLOCKS) if name == "acquire" else set())
        assert set(fields) - optional == set(valid_section(name))

    @pytest.mark.parametrize(
        ("source", "block"), [(source, block) for source in SOURCES for block in SOURCE_SCHEMAS[source].blocks]
    )
    def test_no_value_of_a_block_has_a_default_in_code(self, workspace: Path, source: str, block: str) -> None:
        assert source_errors(workspace, source, block, **dict.fromkeys(BLOCKS[block], ...)) == [
            f"params.yaml: acquire: {block}.{key}: is missing; every param must be in the file" for key in BLOCKS[block]
        ]


class TestValidValues:
    def test_the_values_in_the_file_are_returned(self, workspace: Path) -> None:
        write_params(
            workspace, split=valid_section("split") | {"test_fraction": 0.3, "near_duplicate_similarity": None}
        )
        params = read_params("split", SplitParams)
        assert (params.test_fraction, params.near_duplicate_similarity) == (0.3, None)

    def test_scientific_notation_without_a_dot_is_a_number(self, workspace: Path) -> None:
        write_recipe(workspace, "learning_rate: 0.001", "learning_rate: 2e-5")
        assert read_params("train", TrainParams).learning_rate == 0.00002

    def test_a_word_that_is_false_in_yaml_1_1_is_a_label(self, workspace: Path) -> None:
        write_recipe(workspace, "classes: {}", "classes: {no: off}")
        assert read_params("acquire", AcquireParams).classes == {"no": "off"}

    def test_degrees_may_be_whole_numbers(self, workspace: Path) -> None:
        write_params(workspace, augment=valid_section("augment") | {"rotation_degrees": [-360, 12.5, 360]})
        assert read_params("augment", SECTIONS["augment"]).rotation_degrees == [-360.0, 12.5, 360.0]

    def test_params_cannot_be_changed(self) -> None:
        params = SplitParams(**valid_section("split"))
        with pytest.raises(ValidationError, match="frozen"):
            params.seed = 8


class TestErrors:
    @pytest.mark.parametrize(
        ("name", "changes", "line"),
        [
            ("train", {"epochs": 0}, "train: epochs: must be at least 1, got 0"),
            ("train", {"epochs": 2.5}, "train: epochs: must be a whole number, got 2.5"),
            ("train", {"epochs": 2.0}, "train: epochs: must be a whole number, got 2.0"),
            ("train", {"epochs": "2"}, "train: epochs: must be a whole number, got '2'"),
            ("train", {"epochs": True}, "train: epochs: must be a whole number, got True"),
            ("train", {"epochs": None}, "train: epochs: must be a whole number, got None"),
            ("train", {"epochs": ...}, "train: epochs: is missing; every param must be in the file"),
            ("train", {"seed": 2**32}, "train: seed: must be less than 4294967296, got 4294967296"),
            ("train", {"threads": 1025}, "train: threads: must be at most 1024, got 1025"),
            ("train", {"learning_rate": 0}, "train: learning_rate: must be greater than 0.0, got 0"),
            ("train", {"learning_rate": "big"}, "train: learning_rate: must be a number, got 'big'"),
            ("train", {"learning_rate": float("inf")}, "train: learning_rate: must be a finite number, got inf"),
            ("train", {"learning_rate": float("nan")}, "train: learning_rate: must be a finite number, got nan"),
            (
                "acquire",
                {"source": "digit"},
                "acquire: source: must be 'digits', 'folder', 'mnist', 'cifar10', 'pexels' or 'openverse', got 'digit'"
                "; did you mean digits?",
            ),
            ("acquire", {"minimum_side": 0}, "acquire: minimum_side: must be at least 1, got 0"),
            ("acquire", {"maximum_pixels": 0}, "acquire: maximum_pixels: must be at least 1, got 0"),
            (
                "acquire",
                {"maximum_pixels": 89_478_486},
                "acquire: maximum_pixels: must be at most 89478485, got 89478486",
            ),
            ("acquire", {"maximum_megabytes": 0}, "acquire: maximum_megabytes: must be greater than 0.0, got 0"),
            ("acquire", {"maximum_megabytes": 1001}, "acquire: maximum_megabytes: must be at most 1000.0, got 1001"),
            ("acquire", {"permission": True}, "acquire: permission: must be a string, got True"),
            ("acquire", {"permission": ...}, "acquire: permission: is missing; every param must be in the file"),
            ("acquire", {"folder": None}, "acquire: folder: must be a string, got None"),
            ("acquire", {"classes": None}, "acquire: classes: must be a mapping, got None"),
            ("acquire", {"classes": {"cat": None}}, "acquire: classes.cat: must be a string, got None"),
            (
                "acquire",
                {"classes": {"cat": "cats", "pet": "cats"}},
                "acquire: classes: two labels must not have the same value, got {'cat': 'cats', 'pet': 'cats'}",
            ),
            (
                "acquire",
                {"source": None},
                "acquire: source: must be 'digits', 'folder', 'mnist', 'cifar10', 'pexels' or 'openverse', got None",
            ),
            ("acquire", {"pexel": {}}, "acquire: pexel: is unknown; did you mean pexels?"),
            ("acquire", {"folder": 3}, "acquire: folder: must be a string, got 3"),
            ("acquire", {"folder": ""}, "acquire: folder: must have at least 1 item(s), got ''"),
            ("acquire", {"classes": ["cat"]}, "acquire: classes: must be a mapping, got ['cat']"),
            ("acquire", {"classes": {"zero": 0}}, "acquire: classes.zero: must be a string, got 0"),
            ("acquire", {"classes": {"str": 0}}, "acquire: classes.str: must be a string, got 0"),
            ("acquire", {"photos_per_class": 2}, "acquire: photos_per_class: must be at least 3, got 2"),
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
            ("evaluate", {"top_k": 0}, "evaluate: top_k: must be at least 1, got 0"),
            ("explain", {"examples": 101}, "explain: examples: must be at most 100, got 101"),
            (
                "explain",
                {"filters": valid_section("explain")["filters"] | {"kernel_size": 1}},
                "explain: filters.kernel_size: must be at least 2, got 1",
            ),
            (
                "explain",
                {"robustness": valid_section("explain")["robustness"] | {"jpeg": [50, 0]}},
                "explain: robustness.jpeg.1: must be at least 1, got 0",
            ),
            (
                "explain",
                {"robustness": valid_section("explain")["robustness"] | {"blur": [2, 1, 2]}},
                "explain: robustness.blur: levels must be unique, got [2, 1, 2]",
            ),
            (
                "split",
                {"validation_fraction": 0.4, "test_fraction": 0.6},
                "split: validation_fraction + test_fraction must be less than 1, got 1",
            ),
            (
                "split",
                {"near_duplicate_similarity": 0.5},
                "split: near_duplicate_similarity: must be at least 0.9, got 0.5",
            ),
            (
                "augment",
                {"resampling": "box"},
                "augment: resampling: must be 'nearest', 'bilinear', 'bicubic' or 'lanczos', got 'box'",
            ),
            (
                "augment",
                {"fill_mode": "wrap"},
                "augment: fill_mode: must be 'constant', 'edge' or 'reflect', got 'wrap'",
            ),
            ("train", {"epoch": 3}, "train: epoch: is unknown; did you mean epochs?"),
            ("split", {"x": 3}, f"split: x: is unknown; expected one of {SPLIT_KEYS}"),
        ],
    )
    def test_an_error_is_one_line_with_the_key_the_expected_and_the_received_value(
        self, workspace: Path, name: str, changes: dict[str, Any], line: str
    ) -> None:
        assert section_errors(workspace, name, **changes) == [f"params.yaml: {line}"]

    def test_a_class_that_is_not_a_string_is_an_error(self, workspace: Path) -> None:
        (line,) = section_errors(workspace, "acquire", classes={7: "7"})
        assert line.startswith("params.yaml: acquire: classes.7")
        assert line.endswith("must be a string, got 7")

    def test_all_errors_of_a_section_are_reported_at_once(self, workspace: Path) -> None:
        assert section_errors(workspace, "train", epochs=..., epoch=3, batch_size=0, learning_rate="big") == [
            "params.yaml: train: batch_size: must be at least 1, got 0",
            "params.yaml: train: epochs: is missing; every param must be in the file",
            "params.yaml: train: learning_rate: must be a number, got 'big'",
            "params.yaml: train: epoch: is unknown; did you mean epochs?",
        ]

    def test_each_incompatible_pair_of_values_is_a_separate_error(self, workspace: Path) -> None:
        assert section_errors(workspace, "train", momentum=0.9, nesterov=True) == [
            "params.yaml: train: momentum: must be 0 with optimizer adam, or use sgd or rmsprop, got 0.9",
            "params.yaml: train: nesterov: must be false, or use sgd with momentum, got adam and 0.9",
        ]

    @pytest.mark.parametrize("value", [None, 5, [1]])
    def test_the_error_for_a_section_that_is_not_a_mapping_lists_the_keys(self, workspace: Path, value: Any) -> None:
        write_params(workspace, split=value)
        with pytest.raises(StageError) as caught:
            read_params("split", SplitParams)
        assert str(caught.value).splitlines()[1:] == [
            f"params.yaml: split: must be a mapping with the keys {SPLIT_KEYS}, got {value!r}"
        ]

    def test_the_error_for_a_missing_section_lists_the_keys(self, workspace: Path) -> None:
        write_params(workspace, spilt=valid_section("split"))
        with pytest.raises(StageError) as caught:
            read_params("split", SplitParams)
        assert str(caught.value).splitlines()[1:] == [
            "params.yaml: spilt: is unknown; did you mean split?",
            f"params.yaml: split: must be a mapping with the keys {SPLIT_KEYS}, got None",
        ]

    def test_an_unknown_section_is_an_error(self, workspace: Path) -> None:
        write_params(workspace, split=valid_section("split"), paths={"data": "x"})
        with pytest.raises(StageError) as caught:
            read_params("split", SplitParams)
        assert str(caught.value).splitlines()[1:] == [
            "params.yaml: paths: is unknown; expected one of acquire, augment, split, train, evaluate, explain"
        ]

    @pytest.mark.parametrize("in_another_process", [False, True])
    def test_errors_in_other_sections_are_reported_too(
        self, workspace: Path, monkeypatch: pytest.MonkeyPatch, in_another_process: bool
    ) -> None:
        if in_another_process:
            monkeypatch.delitem(sys.modules, ALL_SECTIONS)
        train = valid_section("train") | {"epochs": -1}
        write_params(workspace, split=valid_section("split"), train=train)
        with pytest.raises(StageError, match=r"^1 error.*\nparams.yaml: train: epochs: must be at least 1, got -1$"):
            read_params("split", SplitParams)


class TestSources:
    @pytest.mark.parametrize("source", SOURCES)
    def test_a_source_has_the_blocks_that_it_reads(self, workspace: Path, source: str) -> None:
        write_params(workspace, acquire=valid_source(source))
        params = read_params("acquire", AcquireParams)
        assert {block for block in BLOCKS if getattr(params, block) is not None} == set(SOURCE_SCHEMAS[source].blocks)

    @pytest.mark.parametrize(
        ("source", "block"), [(source, block) for source in SOURCES for block in SOURCE_SCHEMAS[source].blocks]
    )
    @pytest.mark.parametrize("value", [..., None])
    def test_a_missing_block_is_an_error(self, workspace: Path, source: str, block: str, value: Any) -> None:
        assert source_errors(workspace, source, **{block: value}) == [
            f"params.yaml: acquire: {block}: is missing; source {source} requires it, see recipes/base.yaml"
        ]

    @pytest.mark.parametrize(
        ("source", "block"),
        [(source, block) for source in SOURCES for block in BLOCKS if block not in SOURCE_SCHEMAS[source].blocks],
    )
    def test_a_block_that_the_source_does_not_read_is_an_error(self, workspace: Path, source: str, block: str) -> None:
        assert source_errors(workspace, source, **{block: dict(BLOCKS[block])}) == [
            f"params.yaml: acquire: {block}: does not apply to source {source}; remove it"
        ]

    def test_after_a_change_of_source_all_errors_are_reported_at_once(self, workspace: Path) -> None:
        lines = list_errors(workspace, "acquire", valid_source("folder") | {"source": "pexels"})
        assert [line.removeprefix("params.yaml: acquire: ") for line in lines] == [
            "classes: must map labels to search terms for source pexels, got {}",
            "download: is missing; source pexels requires it, see recipes/base.yaml",
            "layout: does not apply to source pexels; remove it",
            "pexels: is missing; source pexels requires it, see recipes/base.yaml",
            "photos_per_class: must be a number for source pexels, got null",
        ]

    def test_a_data_set_in_a_folder_needs_no_download(self, workspace: Path) -> None:
        source = valid_source("mnist")
        source["dataset"] = source["dataset"] | {"files": "folder"}
        for section in (source, {name: value for name, value in source.items() if name != "download"}):
            write_params(workspace, acquire=section)
            assert read_params("acquire", AcquireParams).dataset is not None

    @pytest.mark.parametrize("source", SEARCHED)
    def test_a_searched_source_needs_search_terms(self, workspace: Path, source: str) -> None:
        assert source_errors(workspace, source, classes={}) == [
            f"params.yaml: acquire: classes: must map labels to search terms for source {source}, got {{}}"
        ]

    @pytest.mark.parametrize("source", SEARCHED)
    def test_a_searched_source_needs_a_number_of_photos(self, workspace: Path, source: str) -> None:
        assert source_errors(workspace, source, photos_per_class=None) == [
            f"params.yaml: acquire: photos_per_class: must be a number for source {source}, got null"
        ]

    @pytest.mark.parametrize(
        ("source", "block", "changes", "line"),
        [
            (
                "folder",
                "layout",
                {"label_from": "name"},
                "label_from: must be 'folder', 'file_name' or 'table', got 'name'; did you mean file_name?",
            ),
            ("folder", "layout", {"table": ""}, "table: must have at least 1 item(s), got ''"),
            ("folder", "layout", {"table": 3}, "table: must be a string, got 3"),
            ("folder", "layout", {"subset_folders": ["train"]}, "subset_folders: must be a mapping, got ['train']"),
            ("folder", "layout", {"subset_folders": {"test": 3}}, "subset_folders.test: must be a string, got 3"),
            (
                "folder",
                "layout",
                {"subset_folders": {"test": ""}},
                "subset_folders.test: must have at least 1 item(s), got ''",
            ),
            ("folder", "layout", {"label": "x"}, "label: is unknown; did you mean label_from?"),
            ("mnist", "dataset", {"files": "web"}, "files: must be 'download' or 'folder', got 'web'"),
            ("mnist", "dataset", {"train_photos": -1}, "train_photos: must be at least 0, got -1"),
            ("cifar10", "dataset", {"test_photos": 2.5}, "test_photos: must be a whole number, got 2.5"),
            (
                "pexels",
                "pexels",
                {"orientation": "tall"},
                "orientation: must be 'any', 'landscape', 'portrait' or 'square', got 'tall'",
            ),
            ("pexels", "pexels", {"size": "vast"}, "size: must be 'any', 'large', 'medium' or 'small', got 'vast'"),
            ("pexels", "pexels", {"locale": "en"}, "locale: must match ^(any|[a-z]{2}-[A-Z]{2})$, got 'en'"),
            ("pexels", "pexels", {"locale": "en-us"}, "locale: must match ^(any|[a-z]{2}-[A-Z]{2})$, got 'en-us'"),
            (
                "pexels",
                "pexels",
                {"photo_size": "tiny"},
                "photo_size: must be 'original', 'large2x', 'large', 'medium' or 'small', got 'tiny'",
            ),
            ("pexels", "pexels", {"requests_per_hour": 0}, "requests_per_hour: must be at least 1, got 0"),
            (
                "pexels",
                "pexels",
                {"requests_per_month": "many"},
                "requests_per_month: must be a whole number, got 'many'",
            ),
            ("pexels", "pexels", {"at_limit": "ignore"}, "at_limit: must be 'wait' or 'stop', got 'ignore'"),
            ("pexels", "pexels", {"colour": "red"}, "colour: is unknown; did you mean color?"),
            ("openverse", "openverse", {"licenses": []}, "licenses: must have at least 1 item(s), got []"),
            ("openverse", "openverse", {"hosts": []}, "hosts: must have at least 1 item(s), got []"),
            ("openverse", "openverse", {"hosts": "a.org"}, "hosts: must be a list, got 'a.org'"),
            ("openverse", "openverse", {"page_size": 51}, "page_size: must be at most 50, got 51"),
            ("openverse", "openverse", {"page_size": 0}, "page_size: must be at least 1, got 0"),
            ("openverse", "openverse", {"requests_per_minute": 0}, "requests_per_minute: must be at least 1, got 0"),
            (
                "openverse",
                "openverse",
                {"requests_per_day": None},
                "requests_per_day: must be a whole number, got None",
            ),
            ("mnist", "download", {"parallel": 0}, "parallel: must be at least 1, got 0"),
            ("mnist", "download", {"parallel": 65}, "parallel: must be at most 64, got 65"),
            ("mnist", "download", {"timeout_seconds": 0}, "timeout_seconds: must be greater than 0.0, got 0"),
            ("mnist", "download", {"timeout_seconds": 3601}, "timeout_seconds: must be at most 3600.0, got 3601"),
            ("mnist", "download", {"attempts": 0}, "attempts: must be at least 1, got 0"),
            ("mnist", "download", {"attempts": 11}, "attempts: must be at most 10, got 11"),
        ],
    )
    def test_an_error_in_a_block_is_one_line_with_the_dotted_key(
        self, workspace: Path, source: str, block: str, changes: dict[str, Any], line: str
    ) -> None:
        assert source_errors(workspace, source, block, **changes) == [f"params.yaml: acquire: {block}.{line}"]

    @pytest.mark.parametrize("block", ["pexels", "download"])
    @pytest.mark.parametrize("value", [5, [1], "any"])
    def test_the_error_for_a_block_that_is_not_a_mapping_lists_the_keys(
        self, workspace: Path, block: str, value: Any
    ) -> None:
        assert source_errors(workspace, "pexels", **{block: value}) == [
            f"params.yaml: acquire: {block}: must be a mapping with the keys {', '.join(BLOCKS[block])}, got {value!r}"
        ]

    @pytest.mark.parametrize("color", ["any", "red", "gray", "#a0B1c2"])
    def test_a_color_is_a_name_that_pexels_knows_or_a_hex_code(self, workspace: Path, color: str) -> None:
        section = valid_source("pexels")
        write_params(workspace, acquire=section | {"pexels": section["pexels"] | {"color": color}})
        params = read_params("acquire", AcquireParams)
        assert params.pexels
        assert params.pexels.color == color

    @pytest.mark.parametrize("color", ["grey", "Red", "#a0b1c", "#a0b1c2d", "a0b1c2", "", "red\n"])
    def test_another_color_is_an_error(self, workspace: Path, color: str) -> None:
        (line,) = source_errors(workspace, "pexels", "pexels", color=color)
        assert line.startswith("params.yaml: acquire: pexels.color: must match ^(any|red|")
        assert line.endswith(f", got {color!r}")

    @pytest.mark.parametrize(
        "host", ["https://a.org", "a.org/", "a.org:443", "A.org", "localhost", "*.a.org", "a..org", "a.org\n", ""]
    )
    def test_a_host_is_a_bare_name(self, workspace: Path, host: str) -> None:
        (line,) = source_errors(workspace, "openverse", "openverse", hosts=["b.org", host])
        assert line.startswith("params.yaml: acquire: openverse.hosts.1: must match ^")
        assert line.endswith(f", got {host!r}")

    def test_the_error_for_an_unknown_license_has_its_index(self, workspace: Path) -> None:
        (line,) = source_errors(workspace, "openverse", "openverse", licenses=["by", "CC0"])
        assert line.startswith("params.yaml: acquire: openverse.licenses.1: must be 'cc0', 'pdm', 'by', ")
        assert line.endswith(", got 'CC0'")


class TestLayout:
    @pytest.mark.parametrize(
        "subset_folders", [{}, {"train": "training"}, {"train": "a", "validation": "b", "test": "c"}]
    )
    @pytest.mark.parametrize(("label_from", "table"), [("folder", None), ("file_name", None), ("table", "labels.csv")])
    def test_valid_layouts_are_accepted(
        self, workspace: Path, label_from: str, table: str | None, subset_folders: dict[str, str]
    ) -> None:
        layout = {"label_from": label_from, "table": table, "subset_folders": subset_folders}
        write_params(workspace, acquire=valid_source("folder") | {"layout": layout})
        params = read_params("acquire", AcquireParams)
        assert params.layout
        assert params.layout.model_dump() == layout

    @pytest.mark.parametrize(("label_from", "table"), [("folder", "a.csv"), ("file_name", "a.csv"), ("table", None)])
    def test_an_unused_or_missing_table_is_an_error(self, workspace: Path, label_from: str, table: str | None) -> None:
        assert source_errors(workspace, "folder", "layout", label_from=label_from, table=table) == [
            "params.yaml: acquire: layout.table must name a CSV file if label_from is table, and be null otherwise, "
            f"got label_from {label_from} and table {table}"
        ]

    def test_unknown_subsets_are_an_error(self, workspace: Path) -> None:
        assert source_errors(workspace, "folder", "layout", subset_folders={"test": "a", "val": "b", "dev": "c"}) == [
            "params.yaml: acquire: layout.subset_folders: keys must be train or validation or test, got dev, val"
        ]


class TestFile:
    def test_the_error_for_a_missing_file_names_the_command_that_writes_one(self, workspace: Path) -> None:
        assert not list(workspace.iterdir())
        with pytest.raises(StageError, match="^params.yaml is missing; write one: `darkroom recipe digits`$"):
            read_params("split", SplitParams)

    @pytest.mark.parametrize(
        "content",
        [
            pytest.param(b"split: [1, 2", id="an unclosed list"),
            pytest.param(b"split:\n\tseed: 1", id="a tab"),
            pytest.param(b"split: 1\nsplit: 2", id="a duplicate key"),
            pytest.param(b"split: caf\xe9", id="not UTF-8"),
            pytest.param(b"split: 1\n---\nsplit: 2", id="two documents"),
            pytest.param(b"split: !!python/object:os.system x", id="code"),
            pytest.param(b"split: 2020-13-45", id="an invalid date"),
        ],
    )
    def test_the_error_for_invalid_yaml_is_one_line(self, workspace: Path, content: bytes) -> None:
        (workspace / "params.yaml").write_bytes(content)
        with pytest.raises(StageError) as caught:
            read_params("split", SplitParams)
        assert str(caught.value).startswith("params.yaml is not valid YAML: ")
        assert len(str(caught.value).splitlines()) == 1

    @pytest.mark.parametrize(
        ("content", "got"),
        [("", "None"), ("digits", "'digits'"), ("- 1", "[1]"), ("x" * 1000, f"'{'x' * 199}...")],
        ids=["empty", "a word", "a list", "a long word"],
    )
    def test_a_file_without_sections_is_an_error(self, workspace: Path, content: str, got: str) -> None:
        (workspace / "params.yaml").write_text(content)
        with pytest.raises(StageError) as caught:
            read_params("split", SplitParams)
        assert (
            str(caught.value) == f"params.yaml: expected a section for each stage, as in recipes/base.yaml, got {got}"
        )
