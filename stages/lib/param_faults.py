"""What is wrong with values in params.yaml, each fault in one line."""

import difflib
import re
from collections.abc import Iterable, Sequence
from typing import get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails


def list_faults(section: object, model: type[BaseModel]) -> list[str]:
    """Describe what is wrong with a section, a line each."""
    try:
        model.model_validate(section)
    except ValidationError as error:
        return [line for fault in error.errors() for line in describe_fault(fault, model).splitlines()]
    return []


def find_model(keys: Sequence[int | str], model: type[BaseModel]) -> type[BaseModel]:
    """The innermost section on the way of the keys."""
    for key in keys:
        field = model.model_fields.get(str(key))
        types = (field.annotation, *get_args(field.annotation)) if field else ()
        model = next((kind for kind in types if isinstance(kind, type) and issubclass(kind, BaseModel)), model)
    return model


def describe_unknown(key: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(key.rpartition(".")[2], known, n=1)
    return f"{key}: is unknown; " + (f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}")


def describe_fault(fault: ErrorDetails, model: type[BaseModel]) -> str:
    """One line for a fault: the dotted key, what was expected and what was received."""
    key = ".".join(str(part) for part in fault["loc"])
    got = fault["input"]
    context = fault.get("ctx", {})
    match fault["type"]:
        case "missing":
            return f"{key}: is missing; every value must stand in the file"
        case "extra_forbidden":
            return describe_unknown(key, find_model(fault["loc"][:-1], model).model_fields)
        case "model_type":
            fields = find_model(fault["loc"], model).model_fields
            return f"{key}{': ' if key else ''}must hold {', '.join(fields)}, got {got!r}"
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
            near = difflib.get_close_matches(str(got), re.findall("'([^']*)'", expected), n=1)
            if near:
                return f"{key}: must {expected}, got {got!r}; did you mean {near[0]}?"
        case "int_type":
            expected = "be a whole number"
        case "float_type":
            expected = "be a number"
        case "finite_number":
            expected = "be a finite number"
        case "bool_type":
            expected = "be true or false"
        case "string_type":
            expected = "be a text"
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
            expected = fault["msg"]
    return f"{key}: must {expected}, got {got!r}"
