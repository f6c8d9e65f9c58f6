import dataclasses
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from filelock import FileLock

from darkroom.training.checkpoint import CURVES, Checkpoint, Resumption, State, find_checkpoint
from darkroom.training.training import TrainingResult, train_network
from darkroom.training.training_data import TrainingData
from tests.examples import train_params
from tests.trainings import dark_and_bright, mislabel, model_bytes, needs_bfloat16, small_backbone

pytestmark = pytest.mark.slow

TWO_PHASES = {
    "network": "vgg16",
    "optimizer": "sgd",
    "backbone": {
        "weights": "none",
        "frozen_layers": 0,
        "frozen_batch_normalization": False,
        "fine_tuning": {"epochs": 2},
    },
}
LEARNING = {"network": "keras_cifar10_cnn"}  # its loss falls in each of a few epochs
DROPOUT: dict[str, Any] = LEARNING | {"cnn": {"filters": [4, 4, 8, 8]}}
TRAININGS: dict[str, dict[str, Any]] = {
    "augmentation and dropout": DROPOUT
    | {
        "augmentation": {"rotation_range": 20, "horizontal_flip": True},
    },
    "half precision": LEARNING | {"precision": "mixed_bfloat16"},
    "schedule, mixup and batch normalization": {
        "cnn": {"filters": [8, 8]},
        "optimizer": "sgd",
        "learning_rate": 0.03,
        "momentum": 0.9,
        "schedule": {"name": "plateau", "patience": 1},
        "mixup_alpha": 0.2,
    },
}


class Killed(Exception):
    """Stands for the kill of a training in the middle of an epoch."""


class Kill(keras.callbacks.Callback):
    def __init__(self, epoch: int) -> None:
        super().__init__()
        self.fatal_epoch = epoch

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:  # noqa: ARG002
        self.epoch = epoch

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:  # noqa: ARG002
        if (self.epoch, batch) == (self.fatal_epoch, 1):
            raise Killed


def train(
    changes: dict[str, Any], data: TrainingData, checkpoint: Checkpoint | None = None, kill: int | None = None
) -> TrainingResult:
    params = train_params(**({"epochs": 4, "early_stopping_patience": 2, "batch_size": 8} | changes))
    resumption = Resumption(checkpoint, checkpoint.read() or State()) if checkpoint else None
    return train_network(params, data, [] if kill is None else [Kill(kill)], None, resumption)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=needs_bfloat16) if "half" in name else name for name in TRAININGS]
)
def test_a_training_that_is_killed_twice_resumes_to_the_same_bytes(tmp_path: Path, name: str) -> None:
    data = dark_and_bright(tmp_path, 60, held_out=20)
    has_schedule = "schedule" in TRAININGS[name]
    data = mislabel(data) if has_schedule else data  # so that the rate falls
    clean = train(TRAININGS[name], data)
    assert (len(set(clean.curves["learning_rate"])) > 1) == has_schedule

    checkpoint = Checkpoint(tmp_path / "state.npz")
    for epoch in (1, 2):
        with pytest.raises(Killed):
            train(TRAININGS[name], data, checkpoint, epoch)
    resumed = train(TRAININGS[name], data, checkpoint)

    assert resumed.curves == clean.curves
    assert model_bytes(resumed, tmp_path) == model_bytes(clean, tmp_path)


def test_a_training_that_was_killed_in_its_second_phase_resumes_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it was killed in the first epoch of that phase, it resumes at the end of the first phase."""
    monkeypatch.setattr("keras.applications.VGG16", small_backbone)  # the checkpoints of a VGG16 are large
    data = dark_and_bright(tmp_path, 60, held_out=20, shape=(32, 32, 3))
    changes = TWO_PHASES | {"epochs": 2}
    clean = train(changes, data)
    checkpoint = Checkpoint(tmp_path / "state.npz")
    for kill in (2, 3):
        with pytest.raises(Killed):
            train(changes, data, checkpoint, kill=kill)
    assert "resuming after epoch 2, " in capsys.readouterr().out
    resumed = train(changes, data, checkpoint)
    assert "resuming after epoch 3, " in capsys.readouterr().out
    assert resumed.curves == clean.curves
    assert model_bytes(resumed, tmp_path) == model_bytes(clean, tmp_path)


@pytest.mark.parametrize("stopped", [False, True])
def test_a_training_that_was_killed_after_its_last_epoch_trains_no_further(tmp_path: Path, stopped: bool) -> None:
    data = dark_and_bright(tmp_path, 60, held_out=20)
    data = mislabel(data) if stopped else data
    checkpoint = Checkpoint(tmp_path / "state.npz")
    clean = train(LEARNING, data, checkpoint)
    state = checkpoint.read()
    assert state is not None
    assert state.epochs == len(clean.curves["loss"])
    assert state.is_over == stopped
    resumed = train(LEARNING, data, checkpoint, kill=state.epochs)  # an epoch that is never reached
    assert resumed.curves == clean.curves
    assert model_bytes(resumed, tmp_path) == model_bytes(clean, tmp_path)


def some_state() -> State:
    random = np.random.default_rng(1)
    return State(
        "a run",
        1,
        2,
        {name: [0.1, 1 / 3, 2.5] for name in CURVES},
        False,
        {"wait": 1, "best": 0.1, "best_epoch": 2, "stopped_epoch": 0},
        {"best": None},
        [random.normal(size=(2, 3)).astype(np.float32)],
        [np.array([1, 2], np.uint32), np.array(5, np.int32)],
        [],
        [np.zeros((1, 0), np.float32)],
    )


def test_a_state_is_read_as_it_was_written(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "state.npz")
    assert checkpoint.read() is None
    checkpoint.write(some_state())
    read = checkpoint.read()
    assert read is not None
    for field in dataclasses.fields(State):
        found, written = getattr(read, field.name), getattr(some_state(), field.name)
        np.testing.assert_equal(found, written)
        if written and isinstance(written[0] if isinstance(written, list) else None, np.ndarray):
            assert [value.dtype for value in found] == [value.dtype for value in written]
    checkpoint.remove()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", ["cut", "empty", "changed", "foreign"])
def test_a_corrupt_checkpoint_is_moved_aside_with_a_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    checkpoint = Checkpoint(tmp_path / "state.npz")
    checkpoint.write(some_state())
    content = bytearray(checkpoint.path.read_bytes())
    match damage:
        case "cut":
            content = content[: len(content) // 2]
        case "empty":
            content = bytearray()
        case "changed":
            content[content.index(np.float32(some_state().weights_before[0][0, 0]).tobytes())] ^= 1
        case "foreign":
            np.savez(checkpoint.path, other=np.zeros(3))
            content = bytearray(checkpoint.path.read_bytes())
    checkpoint.path.write_bytes(content)

    assert checkpoint.read() is None
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    assert printed.startswith("train: the checkpoint is corrupt (")
    assert printed.endswith(f") and was moved to {tmp_path / 'state.damaged'}; starting from epoch 1\n")
    assert (tmp_path / "state.damaged").read_bytes() == content
    assert checkpoint.read() is None


def test_only_the_latest_checkpoints_of_other_trainings_are_kept_and_all_in_use(tmp_path: Path) -> None:
    (tmp_path / ".key-0-0.npz.partial").write_text("cut off by a kill")
    used = find_checkpoint(tmp_path, "used", 0)
    with FileLock(used.lock):
        used.write(some_state())
        for number in range(8):
            find_checkpoint(tmp_path, f"key-{number}", 0).write(some_state())
        assert find_checkpoint(tmp_path, "new", 0).read() is None
    remaining = {path.name for path in tmp_path.iterdir() if path.suffix != ".lock"}
    assert remaining == {"used-0.npz", *(f"key-{number}-0.npz" for number in range(3, 8))}
