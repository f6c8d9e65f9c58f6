"""The section evaluate of params.yaml."""

from typing import Annotated

from pydantic import Field

from darkroom.params.section import Fraction, Section, Threads


class EvaluateParams(Section):
    batch_size: Annotated[int, Field(ge=1)]
    confidence_level: Fraction
    top_k: Annotated[int, Field(ge=1)]
    calibration_bins: Annotated[int, Field(ge=1, le=100)]
    threads: Threads
