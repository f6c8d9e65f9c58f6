"""The models of keras.applications, and where their weights come from."""

import os
import warnings
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import keras
from keras import applications

from darkroom.params.train import IMAGENET, NO_WEIGHTS, WIDTHS, BackboneParams, Normalization
from darkroom.pipeline.files import file_sha256
from darkroom.pipeline.paths import project_root
from darkroom.pipeline.stage import StageError

WEIGHTS_ENDINGS = (".h5", ".keras")


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


def build_application(name: str, alpha: float, weights: str | None, **inputs: Any) -> keras.Model:
    application = APPLICATIONS[name]
    settings: dict[str, Any] = {"alpha": alpha} if name in WIDTHS else {}
    if application.has_preprocessing:
        settings["include_preprocessing"] = False  # `train.normalization` does it
    return getattr(applications, application.model)(include_top=False, weights=weights, **settings, **inputs)


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


def shorten(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
