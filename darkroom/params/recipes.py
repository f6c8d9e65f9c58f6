"""Recipes: recipes/base.yaml has every param; a recipe overrides some. Merged, they make a complete params.yaml."""

import difflib
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import ScalarNode
from ruamel.yaml.representer import RoundTripRepresenter

from darkroom.params.acquire import SOURCE_SCHEMAS
from darkroom.params.section import describe_unknown, find_inner
from darkroom.params.sections import SECTIONS
from darkroom.pipeline.stage import StageError

RECIPES = Path("recipes")
BASE = "base"
LINE_WIDTH = 4096  # characters, so that each comment stays on the line of its param


def list_recipes(folder: Path = RECIPES) -> list[str]:
    """The names of all recipes, sorted."""
    return sorted(file.stem for file in folder.glob("*.yaml") if file.stem != BASE)


def describe_recipe(name: str, folder: Path = RECIPES) -> list[str]:
    """The lines of the comment at the top of a recipe: what it is for and what it needs."""
    lines = (folder / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    comment = lines[: next((number for number, line in enumerate(lines) if not line.startswith("#")), len(lines))]
    return [line.removeprefix("#").strip() for line in comment]


def write_recipe(name: str, changes: Mapping[str, Any], folder: Path = RECIPES) -> str:
    """Write a recipe as the text of a complete params file, with the comment of each param.

    Args:
        name: the name of the recipe.
        changes: values by dotted name that override those of the recipe, such as {"train.epochs": 5}.
        folder: the folder of the recipes.

    Raises:
        StageError: the recipe or a param does not exist, a change sets a whole section to a value, or the source of
            the recipe does not read the param.
    """
    known = list_recipes(folder)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        guess = f"; did you mean {near[0]}?" if near else ""
        raise StageError(f"there is no recipe {name!r}; expected one of {', '.join(known)}{guess}")
    document = load_recipe(folder / f"{BASE}.yaml")
    apply_changes(document, load_recipe(folder / f"{name}.yaml"), ())
    for dotted, value in changes.items():
        set_value(document, dotted, value)
    keep_blocks_of_source(document["acquire"], changes)

    text = io.StringIO()
    make_yaml().dump(document, text)
    origin = f"Written by `darkroom recipe {name}`. Change any value here; there are no defaults in the code."
    head = "".join(f"# {line}\n" for line in [*describe_recipe(name, folder), origin])
    return head + separate_sections(text.getvalue())


class Representer(RoundTripRepresenter):
    """Writes None as null, where ruamel.yaml would leave the value out."""

    def represent_none(self, _value: None) -> ScalarNode:
        scalar: ScalarNode = self.represent_scalar("tag:yaml.org,2002:null", "null")
        return scalar


Representer.add_representer(type(None), Representer.represent_none)


def make_yaml() -> YAML:
    yaml = YAML()  # round trip, which keeps comments
    yaml.Representer = Representer
    yaml.width = LINE_WIDTH
    yaml.preserve_quotes = True
    return yaml


def load_recipe(file: Path) -> CommentedMap:
    try:
        document = make_yaml().load(file)
    except (YAMLError, ValueError) as error:
        raise StageError(f"{file} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(document, CommentedMap):
        raise StageError(f"{file}: expected sections with params, got {document!r}")
    return document


def apply_changes(params: CommentedMap, changes: Mapping[str, Any], keys: Sequence[str]) -> None:
    """Set values in `params`, the section under the given keys of the document; inner sections are merged.

    Raises:
        StageError: a param does not exist, or a section is set to a value.
    """
    for key, value in changes.items():
        dotted = ".".join([*keys, key])
        if key not in params:
            raise StageError(describe_unknown(dotted, params))
        if find_section([*keys, key]) is None:
            params[key] = value
        elif isinstance(value, Mapping):
            apply_changes(params[key], value, [*keys, key])
        else:
            raise StageError(f"{dotted}: is a section, got {value!r}; set one of its params: {', '.join(params[key])}")


def set_value(params: CommentedMap, dotted: str, value: object) -> None:
    """Set one value by its dotted name, which may also name an entry of a mapping such as acquire.classes.

    Raises:
        StageError: the param does not exist, or a section is set to a value.
    """
    *parents, last = dotted.split(".")
    keys: list[str] = []
    for parent in parents:
        if parent not in params:
            raise StageError(describe_unknown(".".join([*keys, parent]), params))
        keys.append(parent)
        if not isinstance(params[parent], CommentedMap):
            raise StageError(f"{dotted}: {'.'.join(keys)} is not a section, its value is {params[parent]!r}")
        params = params[parent]
    if keys and find_section(keys) is None:
        params[last] = value  # a new or existing entry of a mapping
    else:
        apply_changes(params, {last: value}, keys)


def find_section(keys: Sequence[str]) -> type[BaseModel] | None:
    """The schema of the section under these keys; None if there is a value, which may be a mapping."""
    section: type[BaseModel] | None = SECTIONS.get(keys[0])
    for key in keys[1:]:
        section = find_inner(section, key) if section else None
    return section


def keep_blocks_of_source(acquire: CommentedMap, changes: Iterable[str]) -> None:
    """Remove the blocks that the source does not read. All stay if the source is unknown, which the schema rejects.

    Raises:
        StageError: `changes`, which are dotted names, include a param of a removed block.
    """
    source = acquire["source"]
    schema = SOURCE_SCHEMAS.get(source) if isinstance(source, str) else None
    if schema is None:
        return
    unread = {block for other in SOURCE_SCHEMAS.values() for block in other.blocks} - set(schema.blocks)
    for name in changes:
        section, _, rest = name.partition(".")
        if section == "acquire" and rest.partition(".")[0] in unread:
            blocks = ", ".join(schema.blocks) or "no blocks"
            raise StageError(f"{name}: does not apply to source {source}, which reads {blocks}")
    for block in unread:
        acquire.pop(block, None)


def separate_sections(text: str) -> str:
    """Put one empty line before each section; ruamel.yaml ties empty lines to values, which may have been removed."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return "".join(f"{line}\n" if line[0] == " " else f"\n{line}\n" for line in lines)
