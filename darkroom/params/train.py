"""The section train of params.yaml."""

import re
from collections.abc import Iterator
from typing import Annotated, Literal, Self, get_args

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from darkroom.params.section import Fraction, Padding, Section, Threads

Monitor = Literal["val_loss", "val_accuracy"]
Normalization = Literal[
    "rescale", "samplewise", "featurewise", "zca", "imagenet_tf", "imagenet_torch", "imagenet_caffe"
]
Output = Literal["softmax", "sigmoid"]
Precision = Literal["float32", "mixed_bfloat16", "mixed_float16"]
Cnn = Literal["compact_cnn", "keras_cifar10_cnn", "keras_mnist_cnn", "sigmoid_cnn", "cats_dogs_cnn"]
Backbone = Literal[
    "vgg16",
    "vgg19",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnet50_v2",
    "resnet101_v2",
    "resnet152_v2",
    "mobilenet",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "mobilenet_v3_large",
    "densenet121",
    "densenet169",
    "densenet201",
    "efficientnet_v2_b0",
    "efficientnet_v2_b1",
    "efficientnet_v2_b2",
    "efficientnet_v2_b3",
    "efficientnet_v2_s",
    "efficientnet_v2_m",
    "efficientnet_v2_l",
    "inception_v3",
    "inception_resnet_v2",
    "xception",
]
Network = Literal[Cnn, Backbone]
FillMode = Literal["constant", "nearest", "reflect", "wrap"]
CNNS: tuple[str, ...] = get_args(Cnn)
BACKBONES: tuple[str, ...] = get_args(Backbone)
# The widths that ImageNet weights were published for; other backbones have one width.
WIDTHS = {
    "mobilenet": (0.25, 0.5, 0.75, 1),
    "mobilenet_v2": (0.35, 0.5, 0.75, 1, 1.3, 1.4),
    "mobilenet_v3_small": (0.75, 1),
    "mobilenet_v3_large": (0.75, 1),
}
ALL = "all"
IMAGENET, NO_WEIGHTS = "imagenet", "none"


def check_frozen_layers(value: object) -> object:
    """Check in one place, so that there is one error instead of one for each accepted type."""
    number = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    if not number and not (isinstance(value, str) and value):
        raise PydanticCustomError("layers", "be all, an integer of at least 0, or the name of a layer")
    return value


def check_sha256(value: object) -> object:
    if value is not None and not (isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value)):
        raise PydanticCustomError("digest", "be 64 hexadecimal digits, as `sha256sum FILE` prints them, or null")
    return value


Filters = Annotated[int, Field(ge=1, le=4096)]
Units = Annotated[int, Field(ge=1, le=65536)]
LearningRate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
FrozenLayers = Annotated[int | str, BeforeValidator(check_frozen_layers)]
Share = Annotated[float, Field(ge=0, lt=1)]  # unlike a Fraction, may be 0


class CnnParams(Section):
    """How a from-scratch network differs from its original; null keeps the original value."""

    filters: Annotated[list[Filters], Field(min_length=1, max_length=16)] | None
    kernel_size: Annotated[int, Field(ge=1, le=15)] | None
    strides: Annotated[int, Field(ge=1, le=8)] | None
    padding: Padding | None
    pool_size: Annotated[int, Field(ge=1, le=8)] | None
    batch_normalization: bool | None


class FineTuningParams(Section):
    """A second training phase, in which other layers of a backbone are frozen."""

    epochs: Annotated[int, Field(ge=0)]
    frozen_layers: FrozenLayers
    learning_rate: LearningRate


class BackboneParams(Section):
    """How a network of keras.applications is used."""

    weights: Annotated[str, Field(min_length=1)]
    weights_sha256: Annotated[str | None, BeforeValidator(check_sha256)]
    alpha: Annotated[float, Field(ge=0.1, le=2)]
    frozen_layers: FrozenLayers
    frozen_batch_normalization: bool
    pooling: Literal["average", "max", "flatten"]
    dense_units: list[Units]
    dense_activation: Literal["relu", "sigmoid", "tanh", "gelu"]
    dropout: Share
    fine_tuning: FineTuningParams

    @model_validator(mode="after")
    def check_weights_digest(self) -> Self:
        is_file = self.weights not in (IMAGENET, NO_WEIGHTS)
        if is_file != (self.weights_sha256 is not None):
            raise ValueError(
                "weights: must be imagenet or none, with weights_sha256 null, or a file, with its digest in "
                "weights_sha256 as `sha256sum FILE` prints it, got "
                f"{self.weights} and {self.weights_sha256 or 'null'}"
            )
        return self


class ScheduleParams(Section):
    """How the learning rate changes during training."""

    name: Literal["constant", "inverse_time", "cosine", "plateau"]
    decay: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    warmup_epochs: Annotated[int, Field(ge=0)]
    factor: Fraction
    patience: Annotated[int, Field(ge=1)]
    minimum: Annotated[float, Field(ge=0, allow_inf_nan=False)]


class ZcaParams(Section):
    """How ZCA whitening is fitted, for normalization zca."""

    # Below 1e-6, float32 is too coarse for the factor that scales the smallest eigenvalues.
    epsilon: Annotated[float, Field(ge=1e-6, allow_inf_nan=False)]
    maximum_megabytes: Annotated[float, Field(gt=0, allow_inf_nan=False)]


class AugmentationParams(Section):
    """Ranges of the random augmentation during training; 0 or false turns an augmentation off.

    Each image gets its own random values, uniformly distributed.

    Fields:
        rotation_range: degrees in either direction, about the center.
        width_shift_range, height_shift_range: fraction of the width or height, in either direction.
        shear_range: degrees in either direction by which vertical lines are slanted, about the center.
        zoom_range: x scales height and width of the visible part by two independent factors from 1 - x to 1 + x, about
            the center; factors above 1 make the content smaller.
        channel_shift_range: x adds an independent value from -x to x to each channel, 0 to 255.
        horizontal_flip, vertical_flip: flips half of the images.
        fill_mode: fills pixels beyond the edges: black ("constant"), the nearest pixel ("nearest"), the mirror image
            ("reflect"), or the image repeated ("wrap").
    """

    rotation_range: Annotated[float, Field(ge=0, le=180)]
    width_shift_range: Annotated[float, Field(ge=0, le=1)]
    height_shift_range: Annotated[float, Field(ge=0, le=1)]
    shear_range: Annotated[float, Field(ge=0, le=80)]
    zoom_range: Annotated[float, Field(ge=0, lt=1)]
    channel_shift_range: Annotated[float, Field(ge=0, le=255)]
    horizontal_flip: bool
    vertical_flip: bool
    fill_mode: FillMode


class TrainParams(Section):
    network: Network
    output: Output
    cnn: CnnParams
    backbone: BackboneParams
    normalization: Literal["network", Normalization]
    zca: ZcaParams
    augmentation: AugmentationParams
    mixup_alpha: Annotated[float, Field(ge=0, le=10)]
    label_smoothing: Share
    class_weights: Literal["equal", "balanced"]
    batch_size: Annotated[int, Field(ge=1)]
    steps_per_epoch: Annotated[int, Field(ge=1)] | None
    epochs: Annotated[int, Field(ge=1)]
    optimizer: Literal["adam", "rmsprop", "adadelta", "sgd"]
    learning_rate: LearningRate
    momentum: Share
    nesterov: bool
    schedule: ScheduleParams
    early_stopping_monitor: Monitor
    early_stopping_patience: Annotated[int, Field(ge=1)]
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    threads: Threads
    precision: Precision | Literal["auto"]

    @model_validator(mode="after")
    def check_combinations(self) -> Self:
        errors = [*self.find_optimizer_errors(), *self.find_schedule_errors(self.learning_rate, self.epochs, "")]
        if self.network in BACKBONES:
            errors += self.find_backbone_errors()
        if errors:
            raise ValueError("\n".join(errors))
        return self

    def find_optimizer_errors(self) -> Iterator[str]:
        if self.momentum and self.optimizer not in ("sgd", "rmsprop"):
            yield f"momentum: must be 0 with optimizer {self.optimizer}, or use sgd or rmsprop, got {self.momentum:g}"
        if self.nesterov and not (self.optimizer == "sgd" and self.momentum):
            yield f"nesterov: must be false, or use sgd with momentum, got {self.optimizer} and {self.momentum:g}"

    def find_schedule_errors(self, rate: float, epochs: int, phase: str) -> Iterator[str]:
        schedule, name = self.schedule, self.schedule.name
        if name in ("cosine", "plateau") and schedule.minimum >= rate:
            yield f"schedule.minimum: must be below {phase}learning_rate, {rate:g}, got {schedule.minimum:g}"
        if name == "cosine" and schedule.warmup_epochs >= epochs:
            yield f"schedule.warmup_epochs: must be fewer than {phase}epochs, {epochs}, got {schedule.warmup_epochs}"
        if not phase and name == "plateau" and schedule.patience >= self.early_stopping_patience:
            yield (
                f"schedule.patience: must be below early_stopping_patience, {self.early_stopping_patience}, or "
                f"training stops before the rate falls, got {schedule.patience}"
            )

    def find_backbone_errors(self) -> Iterator[str]:
        backbone, tuning = self.backbone, self.backbone.fine_tuning
        widths = WIDTHS.get(self.network, (backbone.alpha,))
        if backbone.weights == IMAGENET and backbone.alpha not in widths:
            known = ", ".join(f"{width:g}" for width in widths)
            yield f"backbone.alpha: {self.network} has ImageNet weights for {known}, got {backbone.alpha:g}"
        frozen = {"frozen_layers": backbone.frozen_layers}
        if tuning.epochs:
            frozen["fine_tuning.frozen_layers"] = tuning.frozen_layers
            yield from self.find_schedule_errors(tuning.learning_rate, tuning.epochs, "fine_tuning.")
        if backbone.weights == NO_WEIGHTS and backbone.frozen_batch_normalization:
            yield (
                "backbone.frozen_batch_normalization: must be false with random weights, which have no statistics to "
                "keep, got true"
            )
        if backbone.weights == NO_WEIGHTS:
            for name, layers in frozen.items():
                if layers != 0:
                    yield f"backbone.{name}: must be 0 with random weights, which must be trained, got {layers}"
