"""What only a backend itself can be told or asked: threads, determinism, and what it computes on. All else speaks to
Keras."""

import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import keras

PROCESSOR_FACTS = Path("/proc/cpuinfo")
# What a compute capability of an NVIDIA GPU begins to calculate quickly.
BFLOAT16_CAPABILITY, FLOAT16_CAPABILITY = (8, 0), (7, 0)
PACKAGES = ("keras", "numpy", "ml-dtypes", "pillow")


class Device(NamedTuple):
    """What a backend computes on.

    Fields:
        kind: "cpu", "gpu" or "tpu".
        name: as its maker calls it.
        number: of them; a CPU counts as one, however many cores it has.
        halves: which of "bfloat16" and "float16" it calculates in by itself.
        has_matrix_unit: whether a processor has one for bfloat16 (AMX).
    """

    kind: str
    name: str
    number: int
    halves: frozenset[str]
    has_matrix_unit: bool = False


def make_deterministic(seed: int, threads: int) -> None:
    """Seed every generator and fix how many threads one operation uses; call it before the first operation.

    On a CPU the sums of a convolution are split by thread, so that another number of threads gives other last digits.
    JAX takes as many threads as there are processors; what makes it deterministic on a GPU is set in `stages`.

    Args:
        seed: 0 to 2**32 - 1.
        threads: processor threads of one operation.
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
    """What `make_deterministic` has reached: the threads of an operation, and whether each gives the same bits again.

    TensorFlow and PyTorch end with an error in an operation that would not.
    """
    match keras.backend.backend():
        case "tensorflow":
            import tensorflow as tf
            from tensorflow.python.framework.config import is_op_determinism_enabled

            threads = tf.config.threading.get_intra_op_parallelism_threads()
            return {"threads": threads, "same_bits": is_op_determinism_enabled()}
        case "torch":
            import torch

            return {"threads": torch.get_num_threads(), "same_bits": torch.are_deterministic_algorithms_enabled()}
    same = find_device().kind == "cpu" or "--xla_gpu_deterministic_ops=true" in os.environ.get("XLA_FLAGS", "")
    return {"threads": os.cpu_count(), "same_bits": same}


def has_shortcuts(precision: str) -> bool:
    """Whether `bfloat16.py` has faster ways for a network that computes in `precision`: on TensorFlow's processors."""
    if precision != "mixed_bfloat16" or keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    return find_device().kind == "cpu" and not tf.distribute.has_strategy()


def find_device() -> Device:
    """The accelerator that the backend found, else the processor."""
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
        name_halves(details.get("compute_capability", (0, 0))),
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
    return Device("gpu", devices[0].device_kind, len(devices), name_halves(capability))


def find_torch_gpu() -> Device | None:
    import torch

    if not torch.cuda.is_available():
        return None
    return Device(
        "gpu",
        torch.cuda.get_device_name(0),
        torch.cuda.device_count(),
        name_halves(torch.cuda.get_device_capability(0)),
    )


def name_halves(capability: tuple[int, ...]) -> frozenset[str]:
    halves = {"bfloat16": BFLOAT16_CAPABILITY, "float16": FLOAT16_CAPABILITY}
    return frozenset(name for name, least in halves.items() if capability >= least)


def read_processor(facts: Path = PROCESSOR_FACTS) -> Device:
    """What Linux tells of the processor; elsewhere its name alone, as if it could not calculate in halves."""
    values: dict[str, str] = {}
    for line in facts.read_text().splitlines() if facts.exists() else []:
        name, _, value = line.partition(":")
        values.setdefault(name.strip(), value.strip())
    abilities = (values.get("flags") or values.get("Features") or "").split()
    halves = {"bfloat16"} if {"amx_bf16", "avx512_bf16", "bf16"} & set(abilities) else set()
    name = values.get("model name") or platform.processor() or platform.machine()
    return Device("cpu", name, 1, frozenset(halves), "amx_bf16" in abilities)


def describe_backend() -> dict[str, object]:
    """What the last digits of a computation depend on, besides its inputs, its precision and its threads."""
    backend = keras.backend.backend()
    device = find_device()
    return {
        "device": f"{device.kind}: {device.name}" + (f" x {device.number}" if device.number > 1 else ""),
        "backend": f"{backend} {version(backend)}",
        "versions": {name: version(name) for name in PACKAGES} | {"python": platform.python_version()},
        "system": f"{sys.platform} {platform.machine()}",
    }
