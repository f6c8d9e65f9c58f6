"""The models of keras.applications and their weights."""

import os
import socket
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import keras
from keras import applications

from darkroom.params.train import IMAGENET, NO_WEIGHTS, WIDTHS, BackboneParams, Normalization
from darkroom.pipeline.files import file_sha256
from darkroom.pipeline.paths import project_root
from darkroom.pipeline.stage import StageError

# A download of Keras has no time limit of its own: without data, it would wait forever.
STALL_SECONDS = 60.0
WEIGHTS_EXTENSIONS = (".h5", ".keras")


class Application(NamedTuple):
    """A model of keras.applications.

    Fields:
        model: its class name.
        normalization: of the pixels that its weights were trained on.
        smallest_side: of an image, in pixels.
        has_preprocessing: whether the model can normalize pixels itself; this is switched off.
    """

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
    # The preprocessing inside EfficientNetV2S, M and L divides by 128; imagenet_tf divides by 127.5.
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
    options: dict[str, Any] = {"alpha": alpha} if name in WIDTHS else {}
    if application.has_preprocessing:
        options["include_preprocessing"] = False  # `train.normalization` does it
    return getattr(applications, application.model)(include_top=False, weights=weights, **options, **inputs)


def check_weights(backbone: BackboneParams, channels: int) -> None:
    """Check the weights before anything is built or downloaded.

    Raises:
        StageError: the images are gray but the weights are those of ImageNet, or the file is missing or has another
            digest.
    """
    if backbone.weights == IMAGENET and channels != 3:
        raise StageError(
            f"train.backbone.weights: imagenet requires RGB images (3 channels), got {channels} channel(s); set "
            "augment.color to rgb, or weights to none"
        )
    if backbone.weights not in (IMAGENET, NO_WEIGHTS):
        check_weights_file(project_root() / backbone.weights, backbone.weights_sha256)


def check_weights_file(file: Path, digest: str | None) -> None:
    """Compare a file with the digest in the params, which makes its content part of the training's fingerprint.

    Raises:
        StageError: the file is missing or has another digest.
    """
    if not file.name.endswith(WEIGHTS_EXTENSIONS):
        raise StageError(
            f"train.backbone.weights: expected imagenet, none or a file with the extension "
            f"{' or '.join(WEIGHTS_EXTENSIONS)}, got {file}"
        )
    try:
        found = file_sha256(file)
    except OSError as error:
        raise StageError(
            f"train.backbone.weights: {file} cannot be read ({error.strerror}); expected imagenet, none or the path "
            "of a Keras weights file, absolute or relative to this project"
        ) from None
    if found != digest:
        raise StageError(
            f"train.backbone.weights_sha256: is {digest}, but {file} has the digest {found}; set weights to another "
            "file, or weights_sha256 to this digest"
        )


def load_application(name: str, backbone: BackboneParams, channels: int) -> keras.Model:
    with warnings.catch_warnings():
        # Keras warns of layers that are missing in a file; the error below reports them in one line.
        warnings.simplefilter("ignore", UserWarning)
        if backbone.weights == IMAGENET:
            return download_application(name, backbone.alpha)
        file = project_root() / backbone.weights
        try:
            return build_application(name, backbone.alpha, str(file), input_shape=(None, None, channels))
        except (ValueError, OSError, KeyError, zipfile.BadZipFile) as error:
            raise StageError(
                f"train.backbone.weights: {file} does not contain the weights of {name} without its top, for alpha "
                f"{backbone.alpha:g} and {channels} channel(s) ({shorten(error)}); use a weights file of that network"
            ) from None


def download_application(name: str, alpha: float) -> keras.Model:
    try:
        with stall_limit(STALL_SECONDS):
            return build_application(name, alpha, IMAGENET)
    except Exception as error:  # Keras raises no more specific exception if a download fails
        folder = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras") / "models"
        raise StageError(
            f"train.backbone.weights: the ImageNet weights of {name} could not be downloaded ({shorten(error)}); "
            f"connect to the internet once, or put the file into {folder} (replacing a corrupt one; the environment "
            f"variable KERAS_HOME sets another folder), or set weights to {NO_WEIGHTS} or to a file"
        ) from error


@contextmanager
def stall_limit(seconds: float) -> Iterator[None]:
    """Limit each connection attempt and each read of sockets that are opened in the block and have no other limit."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def shorten(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
