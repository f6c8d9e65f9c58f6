"""Networks of keras.applications as backbones: with weights that others have trained, and a head of one's own.

The backbone's layers become layers of the network itself, in one flat graph behind the normalization, under the names
that keras.applications gives them.
"""

import difflib
import os
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
from keras import applications, layers

from stages.lib.files import file_sha256
from stages.lib.networks.cnn import BATCH_NORMALIZATION_MOMENTUM
from stages.lib.paths import project_root
from stages.lib.stage import StageError, name_some
from stages.lib.train_params import (
    ALL,
    IMAGENET,
    NO_WEIGHTS,
    WIDTHS,
    BackboneParams,
    FrozenLayers,
    Normalization,
)

WEIGHTS_ENDINGS = (".h5", ".keras")
POOLINGS = {
    "average": layers.GlobalAveragePooling2D,
    "max": layers.GlobalMaxPooling2D,
    "flatten": layers.Flatten,
}


class Application(NamedTuple):
    """A model of keras.applications: the pixels that its weights were trained with, and its least image side."""

    model: str
    normalization: Normalization
    smallest_side: int = 32
    has_preprocessing: bool = False


APPLICATIONS: dict[str, Application] = {
    "vgg16": Application("VGG16", "imagenet_caffe"),
    "vgg19": Application("VGG19", "imagenet_caffe"),
    "resnet50": Application("ResNet50", "imagenet_caffe"),
    "resnet101": Application("ResNet101", "imagenet_caffe"),
    "resnet152": Application("ResNet152", "imagenet_caffe"),
    "resnet50_v2": Application("ResNet50V2", "imagenet_tf"),
    "resnet101_v2": Application("ResNet101V2", "imagenet_tf"),
    "resnet152_v2": Application("ResNet152V2", "imagenet_tf"),
    "mobilenet": Application("MobileNet", "imagenet_tf"),
    "mobilenet_v2": Application("MobileNetV2", "imagenet_tf"),
    "mobilenet_v3_small": Application("MobileNetV3Small", "imagenet_tf", has_preprocessing=True),
    "mobilenet_v3_large": Application("MobileNetV3Large", "imagenet_tf", has_preprocessing=True),
    "densenet121": Application("DenseNet121", "imagenet_torch"),
    "densenet169": Application("DenseNet169", "imagenet_torch"),
    "densenet201": Application("DenseNet201", "imagenet_torch"),
    # Inside, the lettered ones would divide by 128, for which imagenet_tf has 127.5.
    "efficientnet_v2_b0": Application("EfficientNetV2B0", "imagenet_torch", has_preprocessing=True),
    "efficientnet_v2_b1": Application("EfficientNetV2B1", "imagenet_torch", has_preprocessing=True),
    "efficientnet_v2_b2": Application("EfficientNetV2B2", "imagenet_torch", has_preprocessing=True),
    "efficientnet_v2_b3": Application("EfficientNetV2B3", "imagenet_torch", has_preprocessing=True),
    "efficientnet_v2_s": Application("EfficientNetV2S", "imagenet_tf", has_preprocessing=True),
    "efficientnet_v2_m": Application("EfficientNetV2M", "imagenet_tf", has_preprocessing=True),
    "efficientnet_v2_l": Application("EfficientNetV2L", "imagenet_tf", has_preprocessing=True),
    "inception_v3": Application("InceptionV3", "imagenet_tf", 75),
    "inception_resnet_v2": Application("InceptionResNetV2", "imagenet_tf", 75),
    "xception": Application("Xception", "imagenet_tf", 71),
}


def check_weights(backbone: BackboneParams, channels: int) -> None:
    """Refuse weights that cannot be used, as far as is known before anything is built.

    Raises:
        StageError: the images are gray for those of ImageNet, or the file is missing or another one.
    """
    if backbone.weights == IMAGENET and channels != 3:
        raise StageError(
            f"train.backbone.weights: imagenet needs images of 3 channels, red, green and blue, got {channels}; "
            "set augment.color to rgb, or weights to none"
        )
    if backbone.weights not in (IMAGENET, NO_WEIGHTS):
        check_weights_file(project_root() / backbone.weights, backbone.weights_sha256)


def attach_backbone(
    name: str, backbone: BackboneParams, pixels: keras.KerasTensor
) -> tuple[list[keras.layers.Layer], keras.KerasTensor]:
    """Put a backbone without its top behind normalized pixels (B, H, W, C).

    With random weights its batch normalization follows the batches sooner than with weights that are there.

    Args:
        name: of the backbone.
        backbone: its `weights` and `alpha`.
        pixels: what it reads.

    Returns:
        its layers, the first one first, without the input layer; and its last feature maps.

    Raises:
        StageError: the weights cannot be fetched or are those of another network.
    """
    model = build_application(name, backbone.alpha, weights=None, input_tensor=pixels)
    own = model.layers[len(keras.Model(model.input, pixels).layers) :]
    if backbone.weights == NO_WEIGHTS:
        for layer in own:
            if isinstance(layer, layers.BatchNormalization):
                layer.momentum = BATCH_NORMALIZATION_MOMENTUM
    else:
        # Built at its own size: the weights do not depend on it, but which file keras.applications asks for does.
        trained = load_application(name, backbone, pixels.shape[-1])
        for layer, other in zip(own, trained.layers[1:], strict=True):
            layer.set_weights(other.get_weights())
    return own, model.output


def build_application(name: str, alpha: float, weights: str | None, **inputs: Any) -> keras.Model:
    application = APPLICATIONS[name]
    settings: dict[str, Any] = {"alpha": alpha} if name in WIDTHS else {}
    if application.has_preprocessing:
        settings["include_preprocessing"] = False  # `train.normalization` does it
    return getattr(applications, application.model)(include_top=False, weights=weights, **settings, **inputs)


def load_application(name: str, backbone: BackboneParams, channels: int) -> keras.Model:
    with warnings.catch_warnings():
        # Of layers that are not in a file: that ends in an error, which is told in one line.
        warnings.simplefilter("ignore", UserWarning)
        if backbone.weights == IMAGENET:
            return fetch_application(name, backbone.alpha)
        file = project_root() / backbone.weights
        try:
            return build_application(name, backbone.alpha, str(file), input_shape=(None, None, channels))
        except (ValueError, OSError, KeyError, zipfile.BadZipFile) as error:
            raise StageError(
                f"train.backbone.weights: {file} does not hold the weights of {name} without its top, at alpha "
                f"{backbone.alpha:g} and for {channels} channel(s) ({shorten(error)}); name a file of that network"
            ) from None


def fetch_application(name: str, alpha: float) -> keras.Model:
    try:
        return build_application(name, alpha, IMAGENET)
    except Exception as error:  # Keras raises nothing more special where a download fails
        folder = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras") / "models"
        raise StageError(
            f"train.backbone.weights imagenet: those of {name} could not be fetched ({shorten(error)}); go "
            f"online once, or put the file into {folder} (instead of a damaged one; the environment variable "
            f"KERAS_HOME names another folder), or set weights to {NO_WEIGHTS} or to a file"
        ) from error


def check_weights_file(file: Path, digest: str | None) -> None:
    """Hold a file against the digest in the params, through which its content is part of the result's key.

    Raises:
        StageError: it is missing or another one.
    """
    if not file.name.endswith(WEIGHTS_ENDINGS):
        raise StageError(
            f"train.backbone.weights: must end in {' or '.join(WEIGHTS_ENDINGS)}, as Keras asks, or be imagenet or "
            f"none, got {file}"
        )
    try:
        found = file_sha256(file)
    except OSError as error:
        raise StageError(
            f"train.backbone.weights: {file} cannot be read ({error.strerror}); expected imagenet, none or a file of "
            "Keras weights, absolute or relative to this project"
        ) from None
    if found != digest:
        raise StageError(
            f"train.backbone.weights_sha256: is {digest}, but {file} has {found}; name another file, or put "
            "its digest there"
        )


def shorten(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


def count_frozen(key: str, frozen: FrozenLayers, names: Sequence[str]) -> int:
    """How many layers of a backbone `frozen` means, of those without the input layer.

    Args:
        key: the param's dotted name, for messages.
        frozen: "all"; a number of its first layers, among which the input layer counts, as in `Model.layers`; or the
            name of the last one.
        names: of its layers, without the input layer.

    Raises:
        StageError: there are fewer, or none of this name.
    """
    if frozen == ALL:
        return len(names)
    if isinstance(frozen, str):
        if frozen not in names:
            near = "".join(f"did you mean {name}? " for name in difflib.get_close_matches(frozen, names, n=1))
            raise StageError(
                f"{key}: the backbone has no layer {frozen}; {near}expected {ALL}, a number of layers, or one of "
                f"{name_some(names, 200)}"
            )
        return names.index(frozen) + 1
    if frozen > len(names) + 1:
        raise StageError(
            f"{key}: the backbone has {len(names) + 1} layers with its input layer; set it to fewer or {ALL}, "
            f"got {frozen}"
        )
    return max(0, frozen - 1)


def freeze(backbone: Sequence[keras.layers.Layer], count: int, frozen_batch_normalization: bool) -> None:
    """Let the first `count` layers keep their weights and the others learn; batch normalization too, if so wanted.

    Frozen, it also goes on with the statistics that it has, instead of those of a batch.
    """
    for number, layer in enumerate(backbone):
        kept = frozen_batch_normalization and isinstance(layer, layers.BatchNormalization)
        layer.trainable = number >= count and not kept


def pool_features(maps: keras.KerasTensor, pooling: str) -> keras.KerasTensor:
    """Lead feature maps (B, H', W', D') to features (B, D)."""
    return POOLINGS[pooling](name="features")(maps)


def make_head(features: keras.KerasTensor, backbone: BackboneParams) -> keras.KerasTensor:
    """Lead features (B, D) through the dense layers of the params, with a dropout behind each, or a dropout alone."""
    values = features
    for number, units in enumerate(backbone.dense_units, 1):
        values = layers.Dense(units, activation=backbone.dense_activation, name=f"head_dense_{number}")(values)
        values = layers.Dropout(backbone.dropout, name=f"head_dropout_{number}")(values)
    return values if backbone.dense_units else layers.Dropout(backbone.dropout, name="head_dropout")(values)
