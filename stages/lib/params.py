"""params.yaml: one model a section, read whole, checked, and refused with every fault at once."""

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from stages.lib.paths import PARAMS
from stages.lib.stage import StageError

Fraction = Annotated[float, Field(gt=0, lt=1)]
Side = Annotated[int, Field(ge=1, le=4096)]
Degrees = Annotated[float, Field(ge=-360, le=360, allow_inf_nan=False)]
Monitor = Literal["val_loss", "val_accuracy"]
Threads = Annotated[int, Field(ge=1, le=1024)]


class Section(BaseModel):
    """A section of params.yaml: no key may be missing, none may be added, and no value is converted."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class AcquireParams(Section):
    source: Literal["digits", "folder"]
    folder: Annotated[str, Field(min_length=1)]
    classes: dict[str, str]
    photos_per_class: Annotated[int, Field(ge=2)] | None


class AugmentParams(Section):
    image_size: Annotated[list[Side], Field(min_length=2, max_length=2)]
    resize: Literal["stretch", "crop", "pad"]
    color: Literal["rgb", "gray"]
    rotation_degrees: list[Degrees]
    horizontal_flip: bool
    vertical_flip: bool


class SplitParams(Section):
    validation_fraction: Fraction
    test_fraction: Fraction
    seed: Annotated[int, Field(ge=0)]

    @model_validator(mode="after")
    def leave_photos_to_train_on(self) -> Self:
        held_out = self.validation_fraction + self.test_fraction
        if held_out >= 1:
            raise ValueError(f"validation_fraction + test_fraction must be less than 1, got {held_out:g}")
        return self


class TrainParams(Section):
    network: Literal["keras_cifar10_cnn"]
    batch_size: Annotated[int, Field(ge=1)]
    epochs: Annotated[int, Field(ge=1)]
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    early_stopping_monitor: Monitor
    early_stopping_patience: Annotated[int, Field(ge=1)]
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    threads: Threads


class EvaluateParams(Section):
    batch_size: Annotated[int, Field(ge=1)]
    confidence_level: Fraction
    threads: Threads


SECTIONS: dict[str, type[Section]] = {
    "acquire": AcquireParams,
    "augment": AugmentParams,
    "split": SplitParams,
    "train": TrainParams,
    "evaluate": EvaluateParams,
}

AnySection = TypeVar("AnySection", bound=Section)


def read_params(name: str, model: type[AnySection], path: Path = PARAMS) -> AnySection:
    """Read the section `name` of `path` into `model`.

    Raises:
        StageError: the file is missing or no YAML, or it has faults; all of them are named, a line each.
    """
    document = read_document(path)
    faults = [f"{path}: {describe_unknown(str(key), SECTIONS)}" for key in document if key not in SECTIONS]
    # The other sections too: a slip in the last one should not come to light after a long training.
    sections = {key: SECTIONS[key] for key in document if key in SECTIONS} | {name: model}
    for key, section in sections.items():
        faults += [f"{path}: {key}: {fault}" for fault in list_faults(document.get(key), section)]
    if faults:
        raise StageError("\n".join([f"{len(faults)} fault(s) in the params", *faults]))
    return model.model_validate(document[name])


def list_faults(section: object, model: type[Section]) -> list[str]:
    """Describe what is wrong with a section, a line each."""
    try:
        model.model_validate(section)
    except ValidationError as error:
        return [describe_fault(fault, model) for fault in error.errors()]
    return []


def read_document(path: Path) -> dict[str, Any]:
    """Read the whole params file, as YAML 1.2, the way DVC does (`1e-3` is a number)."""
    try:
        document = YAML(typ="safe").load(path)
    except FileNotFoundError:
        raise StageError(f"{path} is missing; copy a recipe: `cp recipes/digits.yaml {path}`") from None
    except (YAMLError, ValueError) as error:
        raise StageError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(document, dict):
        raise StageError(f"{path}: expected the sections {', '.join(SECTIONS)}, got {document!r}")
    return document


def describe_unknown(key: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    return f"{key}: is unknown; " + (f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}")


def describe_fault(fault: ErrorDetails, model: type[Section]) -> str:
    """One line for a fault: the dotted key, what was expected and what was received."""
    key = ".".join(str(part) for part in fault["loc"])
    got = fault["input"]
    context = fault.get("ctx", {})
    match fault["type"]:
        case "missing":
            return f"{key}: is missing; every value must stand in the file"
        case "extra_forbidden":
            return describe_unknown(key, model.model_fields)
        case "model_type":
            return f"must hold {', '.join(model.model_fields)}, got {got!r}"
        case "value_error":
            return str(context["error"])
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
        case "too_long":
            expected = f"have at most {context['max_length']} item(s)"
        case _:
            expected = fault["msg"]
    return f"{key}: must {expected}, got {got!r}"
