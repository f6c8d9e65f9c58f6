"""The section explain of params.yaml."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from darkroom.params.section import Fraction, Padding, Section, Threads

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
    def check_levels(self) -> Self:
        for name, levels in self:
            if isinstance(levels, list) and len(set(levels)) < len(levels):
                raise ValueError(f"{name}: levels must be unique, got {levels}")
        return self


class ExplainParams(Section):
    examples: Annotated[int, Field(ge=1, le=100)]
    filters: FilterParams
    robustness: RobustnessParams
    confidence_level: Fraction
    seed: Annotated[int, Field(ge=0)]
    batch_size: Annotated[int, Field(ge=1)]
    threads: Threads
