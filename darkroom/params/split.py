"""The section split of params.yaml."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from darkroom.params.section import Fraction, Section


class SplitParams(Section):
    validation_fraction: Fraction
    test_fraction: Fraction
    seed: Annotated[int, Field(ge=0)]
    given_subsets: bool
    creators_together: bool
    near_duplicate_similarity: Annotated[float, Field(ge=0.9, le=1)] | None

    @model_validator(mode="after")
    def check_fractions(self) -> Self:
        held_out = self.validation_fraction + self.test_fraction
        if held_out >= 1:
            raise ValueError(f"validation_fraction + test_fraction must be less than 1, got {held_out:g}")
        return self
