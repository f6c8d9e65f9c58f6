"""The section acquire of params.yaml."""

from collections.abc import Mapping
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import Field, GetPydanticSchema, model_validator
from pydantic_core import core_schema

from darkroom.params.section import Section
from darkroom.photos.options import PIXEL_LIMIT
from darkroom.pipeline.paths import SUBSETS


class SourceSchema(NamedTuple):
    """The blocks of the section that a source reads, and whether it searches for the words in `classes`."""

    blocks: tuple[str, ...] = ()
    is_searched: bool = False


# The functions that open these sources are in SOURCES of darkroom/acquisition/sources/opening.py. Each block is a field
# of AcquireParams.
SOURCE_SCHEMAS: Mapping[str, SourceSchema] = {
    "digits": SourceSchema(),
    "folder": SourceSchema(("layout",)),
    "mnist": SourceSchema(("dataset", "download")),
    "cifar10": SourceSchema(("dataset", "download")),
    "pexels": SourceSchema(("pexels", "download"), is_searched=True),
    "openverse": SourceSchema(("openverse", "download"), is_searched=True),
}
# Like a Literal of these names, which mypy cannot derive from a table.
SourceName = Annotated[str, GetPydanticSchema(lambda *_: core_schema.literal_schema(list(SOURCE_SCHEMAS)))]
AtLimit = Literal["wait", "stop"]
LabelFrom = Literal["folder", "file_name", "table"]
Requests = Annotated[int, Field(ge=1)]
License = Literal["cc0", "pdm", "by", "by-sa", "by-nc", "by-nd", "by-nc-sa", "by-nc-nd", "sampling+", "nc-sampling+"]
PEXELS_COLOR = "^(any|red|orange|yellow|green|turquoise|blue|violet|pink|brown|black|gray|white|#[0-9a-fA-F]{6})$"
MaximumPixels = Annotated[int, Field(ge=1, le=PIXEL_LIMIT)]


class LayoutParams(Section):
    """How the class of a photo is found, for source folder."""

    label_from: LabelFrom
    table: Annotated[str, Field(min_length=1)] | None
    subset_folders: dict[str, Annotated[str, Field(min_length=1)]]

    @model_validator(mode="after")
    def check_subset_names(self) -> Self:
        unknown = sorted(set(self.subset_folders) - set(SUBSETS))
        if unknown:
            raise ValueError(f"subset_folders: keys must be {' or '.join(SUBSETS)}, got {', '.join(unknown)}")
        return self

    @model_validator(mode="after")
    def check_table(self) -> Self:
        if (self.label_from == "table") != (self.table is not None):
            raise ValueError(
                f"table must name a CSV file if label_from is table, and be null otherwise, got label_from "
                f"{self.label_from} and table {self.table}"
            )
        return self


class DatasetParams(Section):
    """Where a published data set is read from, and how much of it, for sources mnist and cifar10."""

    files: Literal["download", "folder"]
    train_photos: Annotated[int, Field(ge=0)] | None
    test_photos: Annotated[int, Field(ge=0)] | None


class PexelsParams(Section):
    orientation: Literal["any", "landscape", "portrait", "square"]
    size: Literal["any", "large", "medium", "small"]
    color: Annotated[str, Field(pattern=PEXELS_COLOR)]
    locale: Annotated[str, Field(pattern=r"^(any|[a-z]{2}-[A-Z]{2})$")]
    photo_size: Literal["original", "large2x", "large", "medium", "small"]
    requests_per_hour: Requests
    requests_per_month: Requests
    at_limit: AtLimit


class OpenverseParams(Section):
    licenses: Annotated[list[License], Field(min_length=1)]
    hosts: Annotated[list[Annotated[str, Field(pattern=r"^[a-z0-9-]+(\.[a-z0-9-]+)+$")]], Field(min_length=1)]
    page_size: Annotated[int, Field(ge=1, le=50)]
    requests_per_minute: Requests
    requests_per_day: Requests
    at_limit: AtLimit


class DownloadParams(Section):
    """How files are downloaded, for all sources that use the network."""

    parallel: Annotated[int, Field(ge=1, le=64)]
    timeout_seconds: Annotated[float, Field(gt=0, le=3600)]
    attempts: Annotated[int, Field(ge=1, le=10)]


class AcquireParams(Section):
    source: SourceName
    folder: Annotated[str, Field(min_length=1)]
    classes: dict[str, str]
    photos_per_class: Annotated[int, Field(ge=3)] | None  # the split needs photos of each label in three subsets
    minimum_side: Annotated[int, Field(ge=1)]
    maximum_pixels: MaximumPixels
    maximum_megabytes: Annotated[float, Field(gt=0, le=1000)]
    permission: str | None
    # Each source has exactly the blocks that it reads: changing an unused value would still make a new result.
    layout: LayoutParams | None = None
    dataset: DatasetParams | None = None
    pexels: PexelsParams | None = None
    openverse: OpenverseParams | None = None
    download: DownloadParams | None = None

    @model_validator(mode="after")
    def check_source(self) -> Self:
        wanted, is_searched = SOURCE_SCHEMAS[self.source]
        # A data set that is read from a folder is not downloaded, but its recipe may keep the block.
        needed = set(wanted) - ({"download"} if self.dataset and self.dataset.files == "folder" else set())
        errors = [
            f"{block}: is missing; source {self.source} requires it, see recipes/base.yaml"
            for block in needed
            if not getattr(self, block)
        ]
        errors += [
            f"{block}: does not apply to source {self.source}; remove it"
            for block in {block for schema in SOURCE_SCHEMAS.values() for block in schema.blocks} - set(wanted)
            if getattr(self, block)
        ]
        if is_searched and not self.classes:
            errors.append(f"classes: must map labels to search terms for source {self.source}, got {{}}")
        if is_searched and self.photos_per_class is None:
            errors.append(f"photos_per_class: must be a number for source {self.source}, got null")
        if len(set(self.classes.values())) < len(self.classes):
            errors.append(f"classes: two labels must not have the same value, got {self.classes}")
        if errors:
            raise ValueError("\n".join(sorted(errors)))
        return self
