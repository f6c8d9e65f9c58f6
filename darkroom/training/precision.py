"""The precision that a network computes in during training. Its weights and its saved file are always float32."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Literal, NamedTuple

import keras

from darkroom.models.backend import Device, has_fast_bfloat16
from darkroom.params.train import Network, Precision
from darkroom.pipeline.stage import StageError

FLOAT32: Precision = "float32"
# According to `python -m benchmarks.precisions`, these gain nothing from bfloat16 on a CPU, or get slower: they spend
# much time between their many small convolutions, in operations for which TensorFlow has no fast kernels.
WITHOUT_GAIN = ("compact_cnn", "mobilenet", "efficientnet", "densenet")


class ChosenPrecision(NamedTuple):
    """A precision, and the reason for the choice in a few words."""

    name: Precision
    reason: str


def choose_precision(
    requested: Precision | Literal["auto"], network: Network, device: Device, backend: str
) -> ChosenPrecision:
    """Use the precision of the params; for "auto", the fastest safe one on this device.

    Args:
        requested: the param `train.precision`.
        network: to be trained.
        device: to train on.
        backend: of Keras.

    Raises:
        StageError: the device does not support the precision.
    """
    if requested == "auto":
        return choose_automatically(network, device, backend)
    half_precision = half_precision_name(requested)
    if requested != FLOAT32 and half_precision not in device.half_precisions:
        supported = ", ".join(["auto", FLOAT32, *(f"mixed_{name}" for name in sorted(device.half_precisions))])
        raise StageError(
            f"train.precision: {requested} requires a device that supports {half_precision}, got {device.kind} "
            f"{device.name}; set it to one of {supported}"
        )
    return ChosenPrecision(requested, "set in train.precision")


def choose_automatically(network: Network, device: Device, backend: str) -> ChosenPrecision:
    if device.kind != "cpu":
        fast: tuple[Precision, ...] = ("mixed_bfloat16", "mixed_float16")
        for name in fast:
            if half_precision_name(name) in device.half_precisions:
                return ChosenPrecision(name, f"{device.name} supports {half_precision_name(name)}")
        return ChosenPrecision(FLOAT32, f"{device.name} supports no half precision")
    if not device.has_matrix_unit:
        return ChosenPrecision(FLOAT32, f"{device.name} has no matrix unit for bfloat16")
    if backend != "tensorflow":
        return ChosenPrecision(FLOAT32, f"{backend} is not known to be faster in bfloat16 on a CPU")
    if network.startswith(WITHOUT_GAIN):
        return ChosenPrecision(FLOAT32, f"{network} gains nothing from bfloat16 on a CPU")
    return ChosenPrecision("mixed_bfloat16", f"{device.name} has a matrix unit for bfloat16")


def half_precision_name(precision: Precision) -> str:
    return precision.removeprefix("mixed_")


@contextmanager
def computing_in(precision: Precision, layers: Sequence[keras.layers.Layer]) -> Iterator[None]:
    """Let layers compute in `precision` until the block ends."""
    before = [layer.dtype_policy for layer in layers]
    with ExitStack() as stack:
        if has_fast_bfloat16(precision):
            from darkroom.training.bfloat16 import using_fast_relu

            stack.enter_context(using_fast_relu(layers))
        try:
            for layer in layers:
                layer.dtype_policy = precision
            yield
        finally:
            for layer, policy in zip(layers, before, strict=True):
                layer.dtype_policy = policy
