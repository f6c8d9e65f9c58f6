"""params.yaml: one model a section, read whole, checked, and refused with every fault at once."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from stages.lib.param_faults import describe_unknown, list_faults
from stages.lib.paths import PARAMS
from stages.lib.stage import StageError

Fraction = Annotated[float, Field(gt=0, lt=1)]
Side = Annotated[int, Field(ge=1, le=4096)]
Degrees = Annotated[float, Field(ge=-360, le=360, allow_inf_nan=False)]
Monitor = Literal["val_loss", "val_accuracy"]
Normalization = Literal[
    "rescale", "samplewise", "featurewise", "zca", "imagenet_tf", "imagenet_torch", "imagenet_caffe"
]
Threads = Annotated[int, Field(ge=1, le=1024)]
Source = Literal["digits", "folder", "mnist", "cifar10", "pexels", "openverse"]
SOURCE_BLOCKS: dict[Source, tuple[str, ...]] = {
    "digits": (),
    "folder": ("layout",),
    "mnist": ("dataset", "download"),
    "cifar10": ("dataset", "download"),
    "pexels": ("pexels", "download"),
    "openverse": ("openverse", "download"),
}
SUBSETS = ("train", "validation", "test")
SEARCHED = ("pexels", "openverse")
AtLimit = Literal["wait", "stop"]
Requests = Annotated[int, Field(ge=1)]
Licence = Literal["cc0", "pdm", "by", "by-sa", "by-nc", "by-nd", "by-nc-sa", "by-nc-nd", "sampling+", "nc-sampling+"]
PEXELS_COLOR = "^(any|red|orange|yellow|green|turquoise|blue|violet|pink|brown|black|gray|white|#[0-9a-fA-F]{6})$"
# At most Pillow's own limit against decompression bombs.
MaximumPixels = Annotated[int, Field(ge=1, le=89_478_485)]


class Section(BaseModel):
    """A section of params.yaml: no key may be missing, none may be added, and no value is converted."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class LayoutParams(Section):
    """How a folder says which class a photo has, for the source folder."""

    label_from: Literal["folder", "file_name", "table"]
    table: Annotated[str, Field(min_length=1)] | None
    subset_folders: dict[str, Annotated[str, Field(min_length=1)]]

    @model_validator(mode="after")
    def name_subsets(self) -> Self:
        unknown = sorted(set(self.subset_folders) - set(SUBSETS))
        if unknown:
            raise ValueError(f"subset_folders: must name {', '.join(SUBSETS)}, got {', '.join(unknown)}")
        return self

    @model_validator(mode="after")
    def name_a_table_where_one_is_read(self) -> Self:
        if (self.label_from == "table") != (self.table is not None):
            raise ValueError(
                f"table must name a CSV file if label_from is table, and be null otherwise, got label_from "
                f"{self.label_from} and table {self.table}"
            )
        return self


class DatasetParams(Section):
    """How much of a published data set is taken, for the sources mnist and cifar10."""

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
    licences: Annotated[list[Licence], Field(min_length=1)]
    hosts: Annotated[list[Annotated[str, Field(pattern=r"^[a-z0-9-]+(\.[a-z0-9-]+)+$")]], Field(min_length=1)]
    page_size: Annotated[int, Field(ge=1, le=50)]
    requests_per_minute: Requests
    requests_per_day: Requests
    at_limit: AtLimit


class DownloadParams(Section):
    """How files are fetched, for all sources that use the network."""

    parallel: Annotated[int, Field(ge=1, le=64)]
    timeout_seconds: Annotated[float, Field(gt=0, le=3600)]
    attempts: Annotated[int, Field(ge=1, le=10)]


class AcquireParams(Section):
    source: Source
    folder: Annotated[str, Field(min_length=1)]
    classes: dict[str, str]
    photos_per_class: Annotated[int, Field(ge=2)] | None
    minimum_side: Annotated[int, Field(ge=1)]
    maximum_pixels: MaximumPixels
    maximum_megabytes: Annotated[float, Field(gt=0, le=1000)]
    permission: str | None
    # Each source has the blocks that it reads, and no others: a value that does nothing would still make a new result.
    layout: LayoutParams | None = None
    dataset: DatasetParams | None = None
    pexels: PexelsParams | None = None
    openverse: OpenverseParams | None = None
    download: DownloadParams | None = None

    @model_validator(mode="after")
    def hold_the_blocks_of_the_source(self) -> Self:
        wanted = SOURCE_BLOCKS[self.source]
        # A data set that is read from a folder is not fetched; its recipe may keep the block all the same.
        needed = set(wanted) - ({"download"} if self.dataset and self.dataset.files == "folder" else set())
        faults = [
            f"{block}: is missing; source {self.source} reads it, see its recipe"
            for block in needed
            if not getattr(self, block)
        ]
        faults += [
            f"{block}: is of no use to source {self.source}; remove it"
            for block in {block for blocks in SOURCE_BLOCKS.values() for block in blocks} - set(wanted)
            if getattr(self, block)
        ]
        if self.source in SEARCHED and not self.classes:
            faults.append(f"classes: must map labels to search words for source {self.source}, got {{}}")
        if self.source in SEARCHED and self.photos_per_class is None:
            faults.append(f"photos_per_class: must be a number for source {self.source}, got null")
        if len(set(self.classes.values())) < len(self.classes):
            faults.append(f"classes: two labels must not name the same, got {self.classes}")
        if faults:
            raise ValueError("\n".join(sorted(faults)))
        return self


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


class ZcaParams(Section):
    """How ZCA whitening is fitted, for the normalization zca."""

    # Below, float32 is too coarse for what the smallest eigenvalues are magnified by.
    epsilon: Annotated[float, Field(ge=1e-6, allow_inf_nan=False)]
    maximum_megabytes: Annotated[float, Field(gt=0, allow_inf_nan=False)]


class AugmentationParams(Section):
    """What happens to the images at random while the network trains."""

    rotation_range: Annotated[float, Field(ge=0, le=180)]
    width_shift_range: Annotated[float, Field(ge=0, le=1)]
    height_shift_range: Annotated[float, Field(ge=0, le=1)]
    shear_range: Annotated[float, Field(ge=0, le=80)]
    zoom_range: Annotated[float, Field(ge=0, lt=1)]
    channel_shift_range: Annotated[float, Field(ge=0, le=255)]
    horizontal_flip: bool
    vertical_flip: bool
    fill_mode: Literal["constant", "nearest", "reflect", "wrap"]


class TrainParams(Section):
    network: Literal["keras_cifar10_cnn"]
    normalization: Normalization
    zca: ZcaParams
    augmentation: AugmentationParams
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
