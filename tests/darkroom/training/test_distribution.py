import json
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from darkroom.pipeline.stage import StageError
from darkroom.training.distribution import count_workers, find_strategy, worker_number
from darkroom.training.training import check_devices
from tests.examples import train_params
from tests.project import ROOT
from tests.trainings import dark_and_bright, train

pytestmark = pytest.mark.slow

# No subset is a multiple of the batch size.
EXAMPLE: dict[str, int] = {"count": 63, "held_out": 21}
PARAMS: dict[str, Any] = {"network": "sigmoid_cnn", "optimizer": "sgd", "epochs": 3, "batch_size": 8}
# Trains on two devices of one host or on one of two hosts. TensorFlow's devices can be set only once in a process.
TRAINING = f"""
import gc, json, sys
from pathlib import Path
import tensorflow as tf
from darkroom.models.backend import make_deterministic
from darkroom.training.distribution import all_agree, count_workers, find_strategy
from darkroom.training.training import train_network
from tests.examples import train_params
from tests.trainings import dark_and_bright, model_bytes
gc.freeze()  # keep the garbage collector off what was imported
folder, devices = Path(sys.argv[1]), int(sys.argv[2])
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * devices)
make_deterministic(42, 2)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]) if devices > 1 else find_strategy()
data = dark_and_bright(folder, **{EXAMPLE})
trained = train_network(train_params(**{PARAMS}), data, [], None, strategy=strategy)
model_bytes(trained, folder)
agreed = [all_agree(strategy, 5), all_agree(strategy, json.loads(sys.argv[3]))] if count_workers() > 1 else []
(folder / "curves.json").write_text(json.dumps(trained.curves | {{"agreed": agreed}}))
"""


def start_training(folder: Path, devices: int = 1, number: int = 0, cluster: str = "") -> subprocess.Popen[bytes]:
    folder.mkdir()
    environment = {"PATH": str(Path(sys.executable).parent), "HOME": str(folder)}
    if cluster:
        environment["TF_CONFIG"] = cluster
    command = [sys.executable, "-c", TRAINING, str(folder), str(devices), str(number)]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=(folder / "stderr").open("wb"))


def finish(training: subprocess.Popen[bytes], folder: Path) -> dict[str, list[float]]:
    assert training.wait(300) == 0, (folder / "stderr").read_text()
    curves: dict[str, list[float]] = json.loads((folder / "curves.json").read_text())
    return curves


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        with closing(each):
            pass
    return ports


def test_two_devices_or_two_hosts_give_the_result_of_one(tmp_path: Path) -> None:
    hosts = [f"127.0.0.1:{port}" for port in free_ports(2)]
    clusters = [
        json.dumps({"cluster": {"worker": hosts}, "task": {"type": "worker", "index": number}}) for number in (0, 1)
    ]
    folders = [tmp_path / name for name in ("host 0", "host 1", "devices")]
    pair = [start_training(folders[number], number=number, cluster=clusters[number]) for number in (0, 1)]
    results = [finish(training, folder) for training, folder in zip(pair, folders[:2], strict=True)]
    results.append(finish(start_training(folders[2], devices=2), folders[2]))
    alone = train(train_params(**PARAMS), dark_and_bright(tmp_path, **EXAMPLE)).curves

    first, second, mirrored = results
    assert first["agreed"] == second["agreed"] == [True, False]
    assert {name: curve for name, curve in first.items() if name != "agreed"} == {
        name: curve for name, curve in second.items() if name != "agreed"
    }
    for name, curve in alone.items():
        np.testing.assert_allclose(first[name], curve, rtol=1e-3)
        np.testing.assert_allclose(mirrored[name], curve, rtol=1e-3)
    models = [(folder / "model.keras").read_bytes() for folder in folders]
    assert models[0] == models[1] == models[2]


@pytest.mark.parametrize(
    "text",
    [
        "no json",
        "[]",
        '{"cluster": []}',
        '{"cluster": {"worker": "a:5000"}, "task": {"type": "worker", "index": 0}}',
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "evaluator", "index": 0}}',
        '{"cluster": {"ps": ["a:1"], "worker": ["b:1"]}}',
        '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": "0"}}',
        '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 2}}',
    ],
)
def test_an_invalid_list_of_hosts_is_rejected(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(StageError, match=r"TF_CONFIG: expected \{.*worker.*got "):
        worker_number()


def test_hosts_are_counted_and_numbered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TF_CONFIG", raising=False)
    assert (count_workers(), worker_number()) == (1, 0)
    assert find_strategy() is None
    monkeypatch.setenv("TF_CONFIG", '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 1}}')
    assert (count_workers(), worker_number()) == (2, 1)


def test_a_batch_needs_an_image_for_each_device() -> None:
    row_numbers = {"train": np.arange(9), "validation": np.arange(5)}
    check_devices(4, row_numbers, 4)
    for batch_size, devices in ((3, 4), (8, 6)):
        with pytest.raises(StageError, match=rf"train\.batch_size.*must each be at least {devices}, .* got [35]$"):
            check_devices(batch_size, row_numbers, devices)


def test_another_backend_cannot_train_on_several_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_CONFIG", '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 1}}')
    monkeypatch.setattr("keras.backend.backend", lambda: "jax")
    with pytest.raises(StageError, match="lists 2 workers, which requires the backend tensorflow, got jax; unset"):
        find_strategy.__wrapped__()
