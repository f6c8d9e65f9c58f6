"""Read and check a section of params.yaml; all errors are reported at once."""

import difflib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from darkroom.pipeline.paths import PARAMS
from darkroom.pipeline.stage import StageError
from darkroom.pipeline.yaml_file import load_yaml

Fraction = Annotated[float, Field(gt=0, lt=1)]
Threads = Annotated[int, Field(ge=1, le=1024)]
Padding = Literal["valid", "same"]
ALL_SECTIONS = "darkroom.params.sections"
PROJECT = Path(__file__).parents[2]
SHOWN_CHARACTERS = 200  # of a value, in messages


class Section(BaseModel):
    """A section of params.yaml. All keys are required, unknown keys are errors, and values are not converted."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


AnySection = TypeVar("AnySection", bound=Section)


def read_params(name: str, model: type[AnySection], path: Path = PARAMS) -> AnySection:
    """Read the section `name` of `path` into `model`, and check all other sections too.

    Raises:
        StageError: the file is missing, is not valid YAML, or has errors; the message lists all errors, a line each.
    """
    document = read_document(path)
    # Otherwise a mistake in the last section would only show after a long training.
    errors = check_whole_file(path, name)
    if errors:
        raise StageError("\n".join([f"{len(errors)} error(s) in the params", *errors]))
    return model.model_validate(document[name])


def check_whole_file(path: Path, required: str) -> list[str]:
    """List the errors in all sections of `path`, a line each; the section `required` must be there.

    Stages check in a separate process. A stage that imported the schemas of all sections would depend on them, and DVC
    would run it again after every change of one, although the other schemas never change its outputs. Where they are
    imported already, as in tests and benchmarks, no process is started.
    """
    if ALL_SECTIONS in sys.modules:
        errors_here: list[str] = sys.modules[ALL_SECTIONS].list_file_errors(path, required)
        return errors_here
    search_path = os.pathsep.join([str(PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-m", ALL_SECTIONS, str(path), required],
        env=os.environ | {"PYTHONPATH": search_path},
        stdout=subprocess.PIPE,  # an error in a schema shows its traceback
        text=True,
        check=True,
    )
    errors: list[str] = json.loads(done.stdout)
    return errors


def read_document(path: Path) -> dict[str, Any]:
    """Read the whole params file."""
    try:
        document = load_yaml(path)
    except FileNotFoundError:
        raise StageError(f"{path} is missing; write one: `darkroom recipe digits`") from None
    if not isinstance(document, dict):
        raise StageError(f"{path}: expected a section for each stage, as in recipes/base.yaml, got {show(document)}")
    return document


def list_section_errors(section: object, model: type[BaseModel]) -> list[str]:
    """List the errors in a section, a line each."""
    try:
        model.model_validate(section)
    except ValidationError as error:
        return [line for found in error.errors() for line in describe_error(found, model).splitlines()]
    return []


def find_model(keys: Sequence[int | str], model: type[BaseModel]) -> type[BaseModel]:
    """The innermost section on the path of the keys."""
    for key in keys:
        model = find_inner(model, str(key)) or model
    return model


def find_inner(model: type[BaseModel], key: str) -> type[BaseModel] | None:
    """The section that a field holds; None if it holds a value or does not exist."""
    field = model.model_fields.get(key)
    types = (field.annotation, *get_args(field.annotation)) if field else ()
    return next((kind for kind in types if isinstance(kind, type) and issubclass(kind, BaseModel)), None)


def show(value: object) -> str:
    """A value in a message of one line."""
    text = repr(value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."


def describe_unknown(key: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(key.rpartition(".")[2], known, n=1)
    return f"{key}: is unknown; " + (f"did you mean {near[0]}?" if near else f"expected one of {', '.join(known)}")


def describe_error(error: ErrorDetails, model: type[BaseModel]) -> str:
    """Describe an error in one line: the dotted key, what was expected and what was received."""
    key = ".".join(str(part) for part in error["loc"])
    got = show(error["input"])
    context = error.get("ctx", {})
    match error["type"]:
        case "missing":
            return f"{key}: is missing; every param must be in the file"
        case "extra_forbidden":
            return describe_unknown(key, find_model(error["loc"][:-1], model).model_fields)
        case "model_type":
            fields = find_model(error["loc"], model).model_fields
            return f"{key}{': ' if key else ''}must be a mapping with the keys {', '.join(fields)}, got {got}"
        case "value_error":
            return f"{key}{'.' if key else ''}{context['error']}"
        case "greater_than_equal":
            expected = f"be at least {context['ge']}"
        case "greater_than":
            expected = f"be greater than {context['gt']}"
        case "less_than_equal":
            expected = f"be at most {context['le']}"
        case "less_than":
            expected = f"be less than {context['lt']}"
        case "literal_error":
            expected = f"be {context['expected']}"
            near = difflib.get_close_matches(str(error["input"]), re.findall("'([^']*)'", expected), n=1)
            if near:
                return f"{key}: must {expected}, got {got}; did you mean {near[0]}?"
        case "int_type":
            expected = "be a whole number"
        case "float_type":
            expected = "be a number"
        case "finite_number":
            expected = "be a finite number"
        case "bool_type":
            expected = "be true or false"
        case "string_type":
            expected = "be a string"
        case "list_type":
            expected = "be a list"
        case "dict_type":
            expected = "be a mapping"
        case "too_short" | "string_too_short":
            expected = f"have at least {context.get('min_length')} item(s)"
        case "string_pattern_mismatch":
            expected = f"match {context['pattern']}"
        case "too_long":
            expected = f"have at most {context['max_length']} item(s)"
        case _:
            expected = error["msg"]
    return f"{key}: must {expected}, got {got}"
