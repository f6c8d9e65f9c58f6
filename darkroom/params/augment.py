"""The section augment of params.yaml."""

from typing import Annotated, Literal

from pydantic import Field

from darkroom.params.section import Section

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
