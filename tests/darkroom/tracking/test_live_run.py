import time
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

from darkroom.tracking.client import connect
from darkroom.tracking.live_run import LiveRun
from darkroom.tracking.store import KEY_TAG, Store
from tests.recorded_runs import create_database

pytestmark = pytest.mark.slow

PARAMS = {"train.epochs": "3"}


@pytest.fixture
def store(workspace: Path) -> Store:
    return create_database(workspace)


def start_and_kill(store: Store) -> LiveRun:
    """The run of a training that was killed after two epochs."""
    killed = LiveRun.open(store, PARAMS)
    for epoch in (1, 2):
        killed.log_epoch(epoch, {"loss": 1 / epoch})
    assert killed.lock is not None
    killed.lock.release()  # as the system does when a process is killed
    return killed


def losses(client: MlflowClient, run_id: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in client.get_metric_history(run_id, "loss")]


@pytest.mark.parametrize("closed", [False, True])
def test_a_resumed_training_resumes_its_run(store: Store, closed: bool) -> None:
    killed = start_and_kill(store)
    client, experiment_id = connect(store)
    if closed:  # as the record stage of another result does
        client.set_terminated(killed.run_id, "KILLED")

    with LiveRun.open(store, PARAMS, killed.run_id) as live_run:
        assert live_run.run_id == killed.run_id
        assert client.get_run(killed.run_id).info.status == "RUNNING"
        live_run.log_curves({"loss": [1, 0.5, 0.25]})
        live_run.log_epoch(4, {"loss": 0.125})
        live_run.hand_over("a model")

    assert losses(client, killed.run_id) == [(1, 1), (2, 0.5), (3, 0.25), (4, 0.125)]
    assert len(client.search_runs([experiment_id])) == 1


def delete(client: MlflowClient, run_id: str) -> None:
    client.delete_run(run_id)


def record(client: MlflowClient, run_id: str) -> None:
    client.set_tag(run_id, KEY_TAG, "a key")


def add_param(client: MlflowClient, run_id: str) -> None:
    client.log_param(run_id, "acquire.download.threads", "7")


@pytest.mark.parametrize("change", [delete, record, add_param])
def test_if_a_run_cannot_be_resumed_a_new_one_gets_all_epochs(
    store: Store, change: Callable[[MlflowClient, str], None]
) -> None:
    killed = start_and_kill(store)
    client, _ = connect(store)
    change(client, killed.run_id)

    with LiveRun.open(store, PARAMS, killed.run_id) as live_run:
        live_run.log_curves({"loss": [1, 0.5]})

    assert live_run.run_id != killed.run_id
    assert losses(client, live_run.run_id) == [(1, 1), (2, 0.5)]


def test_a_run_of_another_store_is_not_resumed(store: Store) -> None:
    with LiveRun.open(store, PARAMS, "0" * 32) as live_run:
        assert live_run.run_id not in ("", "0" * 32)


def test_a_run_has_system_metrics(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.2")
    client, _ = connect(store)
    metric = "system/cpu_utilization_percentage"
    deadline = time.monotonic() + 60
    with LiveRun.open(store, PARAMS) as live_run:
        while metric not in client.get_run(live_run.run_id).data.metrics and time.monotonic() < deadline:
            time.sleep(0.2)
    assert 0 <= client.get_run(live_run.run_id).data.metrics[metric] <= 100
