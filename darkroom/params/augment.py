"""The section augment of params.yaml."""

from typing import Annotated

from pydantic import Field

from darkroom.params.section import Section
from darkroom.photos.options import Color, CornerFill, Resampling, Resize

Side = Annotated[int, Field(ge=1, le=4096)]
Degrees = Annotated[float, Field(ge=-360, le=360, allow_inf_nan=False)]


class AugmentParams(Section):
    image_size: Annotated[list[Side], Field(min_length=2, max_length=2)]
    resize: Resize
    resampling: Resampling
    color: Color
    rotation_degrees: list[Degrees]
    fill_mode: CornerFill
    horizontal_flip: bool
    vertical_flip: bool
