"""What a network computes in while it is trained. Its weights and its saved file are float32 always."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Literal, NamedTuple

import keras

from darkroom.models.backend import Device, has_shortcuts
from darkroom.params.train import Network, Precision
from darkroom.pipeline.stage import StageError

FLOAT32: Precision = "float32"
# Those of them that `python -m benchmarks.precisions` measures gain nothing from bfloat16 on a processor, or lose:
# between their many small convolutions there is much that TensorFlow has no quick kernels for.
WITHOUT_GAIN = ("compact_cnn", "mobilenet", "efficientnet", "densenet")


class ChosenPrecision(NamedTuple):
    """A precision and why it was chosen, in a few words."""

    name: Precision
    reason: str


def choose_precision(
    asked: Precision | Literal["auto"], network: Network, device: Device, backend: str
) -> ChosenPrecision:
    """Take the precision that the params ask for, or for "auto" what is fast on this device without a risk.

    Args:
        asked: the param.
        network: which is to be trained.
        device: that it is trained on.
        backend: of Keras.

    Raises:
        StageError: the device cannot calculate in it.
    """
    if asked == "auto":
        return choose_automatically(network, device, backend)
    half = half_of(asked)
    if asked != FLOAT32 and half not in device.halves:
        known = ", ".join(["auto", FLOAT32, *(f"mixed_{name}" for name in sorted(device.halves))])
        raise StageError(
            f"train.precision: {asked} needs a device that calculates in {half}, got {device.kind} {device.name}; "
            f"set it to one of {known}"
        )
    return ChosenPrecision(asked, "as asked for")


def choose_automatically(network: Network, device: Device, backend: str) -> ChosenPrecision:
    if device.kind != "cpu":
        fast: tuple[Precision, ...] = ("mixed_bfloat16", "mixed_float16")
        for name in fast:
            if half_of(name) in device.halves:
                return ChosenPrecision(name, f"{device.name} calculates in {half_of(name)}")
        return ChosenPrecision(FLOAT32, f"{device.name} calculates in no half precision")
    if not device.has_matrix_unit:
        return ChosenPrecision(FLOAT32, f"{device.name} has no matrix unit for bfloat16")
    if backend != "tensorflow":
        return ChosenPrecision(FLOAT32, f"{backend} is not known to be faster in bfloat16 on a processor")
    if network.startswith(WITHOUT_GAIN):
        return ChosenPrecision(FLOAT32, f"{network} gains nothing from bfloat16 on a processor")
    return ChosenPrecision("mixed_bfloat16", f"{device.name} has a matrix unit for bfloat16")


def half_of(precision: Precision) -> str:
    return precision.removeprefix("mixed_")


@contextmanager
def computing_in(precision: Precision, layers: Sequence[keras.layers.Layer]) -> Iterator[None]:
    """Let layers compute in `precision`, and as they did before when the block ends."""
    before = [layer.dtype_policy for layer in layers]
    with ExitStack() as stack:
        if has_shortcuts(precision):
            from darkroom.training.bfloat16 import quick_rectifiers

            stack.enter_context(quick_rectifiers(layers))
        try:
            for layer in layers:
                layer.dtype_policy = precision
            yield
        finally:
            for layer, policy in zip(layers, before, strict=True):
                layer.dtype_policy = policy
