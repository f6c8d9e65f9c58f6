"""Distributed training on all GPUs of a host or on several hosts, with the strategies of `tf.distribute`."""

import json
import os
from functools import cache
from typing import Any

import keras

from darkroom.pipeline.stage import StageError


@cache
def find_strategy() -> Any:
    """Choose the strategy for the hosts that `TF_CONFIG` lists, or for all GPUs of this host.

    Call it before the first operation; the hosts wait here for one another.

    Returns:
        a `tf.distribute.Strategy`; None for a single device, and for backends other than TensorFlow.

    Raises:
        StageError: there are several hosts, but the backend is not TensorFlow.
    """
    backend = keras.backend.backend()
    if backend != "tensorflow":
        if count_workers() > 1:
            raise StageError(
                f"TF_CONFIG lists {count_workers()} workers, which requires the backend tensorflow, got {backend}; "
                "unset TF_CONFIG or KERAS_BACKEND"
            )
        return None
    import tensorflow as tf

    if count_workers() > 1:
        return tf.distribute.MultiWorkerMirroredStrategy()
    return tf.distribute.MirroredStrategy() if len(tf.config.list_logical_devices("GPU")) > 1 else None


def count_workers() -> int:
    """The number of processes that train together, from `TF_CONFIG`; 1 without it."""
    return len(read_cluster()[0])


def worker_number() -> int:
    """The number of this process among them. Worker 0 writes the outputs."""
    return read_cluster()[1]


def read_cluster() -> tuple[list[str], int]:
    """Read from `TF_CONFIG` the workers, as host:port, and the index of this one.

    Raises:
        StageError: it is not a JSON object of this form, or has other tasks than workers.
    """
    text = os.environ.get("TF_CONFIG", "")
    try:
        config = json.loads(text or "{}")
        workers, number = config.get("cluster", {}).get("worker", [""]), config.get("task", {}).get("index", 0)
        kinds = {*config.get("cluster", {}), config.get("task", {}).get("type", "worker")}
        is_valid = kinds <= {"worker"} and isinstance(workers, list) and number in range(len(workers))
    except (ValueError, AttributeError, TypeError):
        is_valid = False
    if not is_valid:
        raise StageError(
            'TF_CONFIG: expected {"cluster": {"worker": ["host:port", ...]}, "task": {"type": "worker", "index": 0}} '
            f"with a different index on each host, got {text}"
        )
    return workers, number


def all_agree(strategy: Any, number: int) -> bool:
    """Whether all workers of a strategy call this function with the same number, 0 to 2**24."""
    import tensorflow as tf

    def add_up() -> Any:
        return tf.distribute.get_replica_context().all_reduce("SUM", tf.constant([number, number**2], tf.float64))

    total, squares = strategy.experimental_local_results(strategy.run(add_up))[0].numpy()
    return bool(total**2 == strategy.num_replicas_in_sync * squares)


class WorkerModel(keras.Model):  # type: ignore[misc]
    """A model whose `fit` works on several hosts, unlike that of Keras 3.15.

    With a `MultiWorkerMirroredStrategy`, Keras averages a step's metrics over an axis that scalars do not have, and
    builds the model from a distributed batch, which TensorFlow rejects (tensorflow/tensorflow#72388).
    """

    def train_step(self, data: Any) -> dict[str, Any]:
        return add_axis(super().train_step(data))

    def test_step(self, data: Any) -> dict[str, Any]:
        return add_axis(super().test_step(data))

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        for _, _, batches in iterator or ():
            data_batch = keras.tree.map_structure(
                lambda value: self.distribute_strategy.experimental_local_results(value)[0], next(batches)
            )
            break
        with self.distribute_strategy.scope():
            self._symbolic_build(data_batch=data_batch)


def add_axis(metrics: dict[str, Any]) -> dict[str, Any]:
    return {name: keras.ops.expand_dims(value, 0) for name, value in metrics.items()}
