"""Backend-specific settings and facts: threads, determinism and devices. All other code uses Keras alone."""

import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import keras

PROCESSOR_FACTS = Path("/proc/cpuinfo")
# The compute capabilities of NVIDIA GPUs from which each half precision is fast.
BFLOAT16_CAPABILITY, FLOAT16_CAPABILITY = (8, 0), (7, 0)
PACKAGES = ("keras", "numpy", "ml-dtypes", "pillow")
# Environment variables by which TensorFlow, XLA, oneDNN and CUDA compute with other last digits.
VARIABLES = (
    "NVIDIA_TF32_OVERRIDE",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "ONEDNN_MAX_CPU_ISA",
    "TF_ENABLE_ONEDNN_OPTS",
    "TF_SET_ONEDNN_FPMATH_MODE",
    "TF_XLA_FLAGS",
    "XLA_FLAGS",
)


class Device(NamedTuple):
    """A device that a backend computes on.

    Fields:
        kind: "cpu", "gpu" or "tpu".
        name: the vendor's name for it.
        number: how many there are; a CPU counts as one, whatever its number of cores.
        half_precisions: those of "bfloat16" and "float16" that it supports in hardware.
        has_matrix_unit: whether a CPU has a matrix unit for bfloat16 (AMX).
    """

    kind: str
    name: str
    number: int
    half_precisions: frozenset[str]
    has_matrix_unit: bool = False


def make_deterministic(seed: int, threads: int) -> None:
    """Seed every random generator and set the number of threads per operation. Call it before the first operation.

    On a CPU the sums of a convolution are split by thread, so the number of threads changes the last digits. JAX uses
    as many threads as there are processors; `darkroom/__init__.py` makes it deterministic on GPUs.

    Args:
        seed: 0 to 2**32 - 1.
        threads: CPU threads of one operation.
    """
    keras.utils.set_random_seed(seed)
    match keras.backend.backend():
        case "tensorflow":
            import tensorflow as tf

            tf.config.threading.set_intra_op_parallelism_threads(threads)
            tf.config.experimental.enable_op_determinism()
        case "torch":
            import torch

            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(True)


def describe_determinism() -> dict[str, object]:
    """The result of `make_deterministic`: threads per operation, and whether operations are reproducible bit by bit.

    TensorFlow and PyTorch raise an error in an operation that has no deterministic implementation.
    """
    match keras.backend.backend():
        case "tensorflow":
            import tensorflow as tf
            from tensorflow.python.framework.config import is_op_determinism_enabled

            threads = tf.config.threading.get_intra_op_parallelism_threads()
            return {"threads": threads, "deterministic": is_op_determinism_enabled()}
        case "torch":
            import torch

            return {"threads": torch.get_num_threads(), "deterministic": torch.are_deterministic_algorithms_enabled()}
    flags = os.environ.get("XLA_FLAGS", "")
    is_deterministic = find_device().kind == "cpu" or "--xla_gpu_deterministic_ops=true" in flags
    return {"threads": os.cpu_count(), "deterministic": is_deterministic}


def has_fast_bfloat16(precision: str) -> bool:
    """Whether the faster layers of `bfloat16.py` apply: in mixed_bfloat16 with TensorFlow on a CPU."""
    if precision != "mixed_bfloat16" or keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    return find_device().kind == "cpu" and not tf.distribute.has_strategy()


def find_device() -> Device:
    """The accelerator that the backend finds, otherwise the CPU."""
    match keras.backend.backend():
        case "tensorflow":
            found = find_tensorflow_gpu()
        case "jax":
            found = find_jax_accelerator()
        case "torch":
            found = find_torch_gpu()
        case _:
            found = None
    return found or read_processor()


def find_tensorflow_gpu() -> Device | None:
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return None
    details = tf.config.experimental.get_device_details(gpus[0])
    return Device(
        "gpu",
        details.get("device_name", "GPU"),
        len(gpus),
        list_half_precisions(details.get("compute_capability", (0, 0))),
    )


def find_jax_accelerator() -> Device | None:
    import jax

    devices = jax.devices()
    match devices[0].platform:
        case "cpu":
            return None
        case "tpu":
            return Device("tpu", devices[0].device_kind, len(devices), frozenset({"bfloat16"}))
    capability = tuple(int(part) for part in str(getattr(devices[0], "compute_capability", "0.0")).split("."))
    return Device("gpu", devices[0].device_kind, len(devices), list_half_precisions(capability))


def find_torch_gpu() -> Device | None:
    import torch

    if not torch.cuda.is_available():
        return None
    return Device(
        "gpu",
        torch.cuda.get_device_name(0),
        torch.cuda.device_count(),
        list_half_precisions(torch.cuda.get_device_capability(0)),
    )


def list_half_precisions(capability: tuple[int, ...]) -> frozenset[str]:
    required = {"bfloat16": BFLOAT16_CAPABILITY, "float16": FLOAT16_CAPABILITY}
    return frozenset(name for name, minimum in required.items() if capability >= minimum)


def read_processor(facts: Path = PROCESSOR_FACTS) -> Device:
    """Read the CPU from /proc/cpuinfo; on other systems than Linux, its name alone, with no half precisions."""
    values: dict[str, str] = {}
    for line in facts.read_text().splitlines() if facts.exists() else []:
        name, _, value = line.partition(":")
        values.setdefault(name.strip(), value.strip())
    abilities = (values.get("flags") or values.get("Features") or "").split()
    half_precisions = {"bfloat16"} if {"amx_bf16", "avx512_bf16", "bf16"} & set(abilities) else set()
    name = values.get("model name") or platform.processor() or platform.machine()
    return Device("cpu", name, 1, frozenset(half_precisions), "amx_bf16" in abilities)


def describe_backend() -> dict[str, object]:
    """Everything that the last digits of a computation depend on, besides its inputs, precision and threads."""
    backend = keras.backend.backend()
    device = find_device()
    return {
        "device": f"{device.kind}: {device.name}" + (f" x {device.number}" if device.number > 1 else ""),
        "backend": f"{backend} {version(backend)}",
        "versions": {name: version(name) for name in PACKAGES} | {"python": platform.python_version()},
        "system": f"{sys.platform} {platform.machine()}",
        "variables": {name: os.environ.get(name) for name in VARIABLES},
    }
