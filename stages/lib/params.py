"""params.yaml: one model a section, read whole, checked, and refused with every fault at once."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import Field, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from stages.lib.acquire_params import AcquireParams
from stages.lib.param_faults import describe_unknown, list_faults
from stages.lib.paths import PARAMS
from stages.lib.section import Fraction, Section, Threads
from stages.lib.stage import StageError
from stages.lib.train_params import Padding, TrainParams

Side = Annotated[int, Field(ge=1, le=4096)]
Degrees = Annotated[float, Field(ge=-360, le=360, allow_inf_nan=False)]


class AugmentParams(Section):
    image_size: Annotated[list[Side], Field(min_length=2, max_length=2)]
    resize: Literal["stretch", "crop", "pad"]
    resampling: Literal["nearest", "bilinear", "bicubic", "lanczos"]
    color: Literal["rgb", "gray"]
    rotation_degrees: list[Degrees]
    fill_mode: Literal["constant", "edge", "reflect"]
    horizontal_flip: bool
    vertical_flip: bool


class SplitParams(Section):
    validation_fraction: Fraction
    test_fraction: Fraction
    seed: Annotated[int, Field(ge=0)]
    given_subsets: bool
    creators_together: bool
    near_duplicate_similarity: Annotated[float, Field(ge=0.9, le=1)] | None

    @model_validator(mode="after")
    def leave_photos_to_train_on(self) -> Self:
        held_out = self.validation_fraction + self.test_fraction
        if held_out >= 1:
            raise ValueError(f"validation_fraction + test_fraction must be less than 1, got {held_out:g}")
        return self


class EvaluateParams(Section):
    batch_size: Annotated[int, Field(ge=1)]
    confidence_level: Fraction
    top_k: Annotated[int, Field(ge=1)]
    calibration_bins: Annotated[int, Field(ge=1, le=100)]
    threads: Threads


Percents = list[Annotated[int, Field(ge=1, le=100)]]


class FilterParams(Section):
    kernel_size: Annotated[int, Field(ge=2, le=15)]
    strides: Annotated[int, Field(ge=1, le=8)]
    padding: Padding
    pool_size: Annotated[int, Field(ge=1, le=8)]


class RobustnessParams(Section):
    photos: Annotated[int, Field(ge=1)] | None
    scribbles: Percents
    noise: list[Annotated[int, Field(ge=1, le=255)]]
    blur: Percents
    rotation: list[Annotated[int, Field(ge=1, le=180)]]
    jpeg: list[Annotated[int, Field(ge=1, le=99)]]

    @model_validator(mode="after")
    def name_each_level_once(self) -> Self:
        for name, levels in self:
            if isinstance(levels, list) and len(set(levels)) < len(levels):
                raise ValueError(f"{name}: each level may stand once, got {levels}")
        return self


class ExplainParams(Section):
    examples: Annotated[int, Field(ge=1, le=100)]
    filters: FilterParams
    robustness: RobustnessParams
    confidence_level: Fraction
    seed: Annotated[int, Field(ge=0)]
    batch_size: Annotated[int, Field(ge=1)]
    threads: Threads


SECTIONS: dict[str, type[Section]] = {
    "acquire": AcquireParams,
    "augment": AugmentParams,
    "split": SplitParams,
    "train": TrainParams,
    "evaluate": EvaluateParams,
    "explain": ExplainParams,
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
