"""What the sections of params.yaml have in common."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(gt=0, lt=1)]
Threads = Annotated[int, Field(ge=1, le=1024)]


class Section(BaseModel):
    """A section of params.yaml: no key may be missing, none may be added, and no value is converted."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
