"""Recipes: a complete params.yaml is recipes/base.yaml, which has every param, with the values of a small overlay."""

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
WIDEST = 4096  # characters; a comment stays on the line of its param


def list_recipes(folder: Path = RECIPES) -> list[str]:
    """The names of all recipes, sorted."""
    return sorted(file.stem for file in folder.glob("*.yaml") if file.stem != BASE)


def describe_recipe(name: str, folder: Path = RECIPES) -> list[str]:
    """The lines of a recipe's comment at its top: what it is for and what it needs."""
    lines = (folder / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    comment = lines[: next((number for number, line in enumerate(lines) if not line.startswith("#")), len(lines))]
    return [line.removeprefix("#").strip() for line in comment]


def write_recipe(name: str, changes: Mapping[str, Any], folder: Path = RECIPES) -> str:
    """Write a recipe as the text of a complete params file, with the comment of each param.

    Args:
        name: a recipe's.
        changes: values by dotted name that take the place of the recipe's own, such as {"train.epochs": 5}.
        folder: where the recipes are.

    Raises:
        StageError: there is no such recipe or no such param, a whole section is to be replaced by a value, or the
            source of the recipe does not read the param.
    """
    known = list_recipes(folder)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        guess = f"; did you mean {near[0]}?" if near else ""
        raise StageError(f"there is no recipe {name!r}, known are {', '.join(known)}{guess}")
    document = load(folder / f"{BASE}.yaml")
    apply(document, load(folder / f"{name}.yaml"), ())
    for dotted, value in changes.items():
        set_value(document, dotted, value)
    keep_blocks_of_source(document["acquire"], changes)

    text = io.StringIO()
    make_yaml().dump(document, text)
    origin = f"Written by `darkroom recipe {name}`. Change any value here; none has a default in code."
    head = "".join(f"# {line}\n" for line in [*describe_recipe(name, folder), origin])
    return head + separate_sections(text.getvalue())


class Representer(RoundTripRepresenter):
    """Writes null, where YAML would leave the value out."""

    def represent_none(self, _value: None) -> ScalarNode:
        scalar: ScalarNode = self.represent_scalar("tag:yaml.org,2002:null", "null")
        return scalar


Representer.add_representer(type(None), Representer.represent_none)


def make_yaml() -> YAML:
    yaml = YAML()  # round trip: comments stay
    yaml.Representer = Representer
    yaml.width = WIDEST
    yaml.preserve_quotes = True
    return yaml


def load(file: Path) -> CommentedMap:
    try:
        document = make_yaml().load(file)
    except (YAMLError, ValueError) as error:
        raise StageError(f"{file} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(document, CommentedMap):
        raise StageError(f"{file}: expected params in sections, got {document!r}")
    return document


def apply(params: CommentedMap, changes: Mapping[str, Any], keys: Sequence[str]) -> None:
    """Put values into `params`, which stand under the given keys of the document; sections inside are merged.

    Raises:
        StageError: there is no such param, or a section gets a value.
    """
    for key, value in changes.items():
        dotted = ".".join([*keys, key])
        if key not in params:
            raise StageError(describe_unknown(dotted, params))
        if find_section([*keys, key]) is None:
            params[key] = value
        elif isinstance(value, Mapping):
            apply(params[key], value, [*keys, key])
        else:
            raise StageError(f"{dotted}: is a section, got {value!r}; set one of {', '.join(params[key])} in it")


def set_value(params: CommentedMap, dotted: str, value: object) -> None:
    """Set one value by its dotted name; below a mapping that is a value, such as acquire.classes, one of its entries.

    Raises:
        StageError: there is no such param, or a section gets a value.
    """
    *parents, last = dotted.split(".")
    keys: list[str] = []
    for parent in parents:
        if parent not in params:
            raise StageError(describe_unknown(".".join([*keys, parent]), params))
        keys.append(parent)
        if not isinstance(params[parent], CommentedMap):
            raise StageError(f"{dotted}: {'.'.join(keys)} has no params in it, its value is {params[parent]!r}")
        params = params[parent]
    if keys and find_section(keys) is None:
        params[last] = value  # an entry of a mapping, which may be a new one
    else:
        apply(params, {last: value}, keys)


def find_section(keys: Sequence[str]) -> type[BaseModel] | None:
    """The model of the section under these keys; None where there is a value, which may be a mapping too."""
    section: type[BaseModel] | None = SECTIONS.get(keys[0])
    for key in keys[1:]:
        section = find_inner(section, key) if section else None
    return section


def keep_blocks_of_source(acquire: CommentedMap, changes: Iterable[str]) -> None:
    """Remove the blocks that the source does not read; those of an unknown source stay, for the schema to refuse.

    Raises:
        StageError: one of them is among the changes, given by their dotted names.
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
    """Put one empty line before each section: those that YAML keeps hang on values that may be gone."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return "".join(f"{line}\n" if line[0] == " " else f"\n{line}\n" for line in lines)
