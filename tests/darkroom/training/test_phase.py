from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from darkroom.pipeline.stage import StageError
from darkroom.tracking.live_run import LiveRun
from darkroom.training.checkpoint import Checkpoint, Resumption, State
from darkroom.training.phase import EpochCurves, EpochReport, is_out_of_memory
from darkroom.training.training import train_network
from tests.examples import train_params
from tests.trainings import dark_and_bright


def test_without_a_terminal_there_is_one_line_per_epoch(capsys: pytest.CaptureFixture[str]) -> None:
    logs = {"loss": 1.25, "accuracy": 0.5, "val_loss": 2.0, "val_accuracy": 0.25, "learning_rate": 1e-5}
    report = EpochReport(LiveRun(), 7)
    report.on_epoch_begin(2)
    report.on_epoch_end(2, logs)
    values = "loss 1.2500  accuracy 0.5000  val_loss 2.0000  val_accuracy 0.2500  learning_rate 1e-05"
    assert capsys.readouterr().out == f"epoch 3/7  0s  {values}\n"


def test_a_loss_that_is_not_finite_ends_the_training_with_advice() -> None:
    callback = EpochCurves(State().curves)
    logs = {"loss": float("nan"), "accuracy": 0.5, "val_loss": 2.0, "val_accuracy": 0.25, "learning_rate": 1.0}
    with pytest.raises(StageError, match=r"the loss is not finite after epoch 1 .*loss nan.*reduce train\.learn"):
        callback.on_epoch_end(0, logs)


@pytest.mark.slow
def test_a_training_whose_loss_is_not_finite_leaves_no_checkpoint(tmp_path: Path) -> None:
    data = dark_and_bright(tmp_path, 40, held_out=10)
    params = train_params(network="sigmoid_cnn", optimizer="sgd", learning_rate=3e38, momentum=0.9, epochs=4)
    checkpoint = Checkpoint(tmp_path / "state.npz")
    with pytest.raises(StageError, match=r"the loss is not finite after epoch 1 .*reduce train\.learning_rate"):
        train_network(params, data, [], None, Resumption(checkpoint, State()))
    assert checkpoint.read() is None


def test_out_of_memory_errors_of_every_backend_are_recognized() -> None:
    with pytest.raises(MemoryError) as numpy_error:
        np.empty(2**50)
    assert is_out_of_memory(numpy_error.value)
    assert is_out_of_memory(tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor"))
    assert is_out_of_memory(RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 7 bytes."))
    assert is_out_of_memory(
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory")
    )
    assert not is_out_of_memory(ValueError("shapes do not match"))


class AllocateTooMuch(keras.callbacks.Callback):
    def on_train_batch_begin(self, batch: int, logs: dict[str, float] | None = None) -> None:  # noqa: ARG002
        keras.ops.zeros((2**45,))


def test_a_batch_that_does_not_fit_into_memory_is_reported(tmp_path: Path) -> None:
    data = dark_and_bright(tmp_path, 40, held_out=10)
    params = train_params(network="keras_mnist_cnn", batch_size=30)
    with pytest.raises(StageError, match=r"not enough memory for a batch of 30 images; set train\.batch_size to 15"):
        train_network(params, data, [AllocateTooMuch()], None)
