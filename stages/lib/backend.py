"""What only a backend itself can be told: threads and determinism. All else speaks to Keras."""

from importlib.metadata import version

import keras


def make_deterministic(seed: int, threads: int) -> None:
    """Seed every generator and fix how many threads one operation uses; call it before the first operation.

    On a CPU the sums of a convolution are split by thread, so that another number of threads gives other last digits.

    Args:
        seed: 0 to 2**32 - 1.
        threads: processor threads of one operation; the backends jax and torch take what their own settings say.
    """
    keras.utils.set_random_seed(seed)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.experimental.enable_op_determinism()


def describe_backend() -> dict[str, object]:
    """What the last digits of a computation depend on, besides its inputs and its threads."""
    backend = keras.backend.backend()
    return {
        "keras": keras.version(),
        "backend": f"{backend} {version(backend)}",
        "devices": keras.distribution.list_devices(),
        "dtype": keras.config.floatx(),
    }
