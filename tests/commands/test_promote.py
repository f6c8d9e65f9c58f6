"""Promotions in a real store: which run becomes the champion, the output, and what stays unchanged."""

import re
import shlex
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from commands.promote import main, promotion_by_hand
from darkroom.pipeline.stage import StageError
from darkroom.runs.lookup import find_run
from darkroom.runs.registry import find_aliased, open_registry, register_version, registry_lock
from darkroom.tracking.store import KEY_TAG, Store
from tests.recorded_runs import (
    COLUMNS,
    GOOD,
    POOR,
    add_experiment,
    create_store,
    log_model_of,
    predict,
    record_predictions,
    record_run,
    run_app,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return create_store(tmp_path_factory.mktemp("store"))


@dataclass(frozen=True)
class Promote:
    """The command, for a store with a new experiment."""

    store: Store

    def __call__(self, *arguments: str) -> None:
        assert run_app("promote", *arguments) == 0

    def error(self, *arguments: str) -> str:
        """Run a promotion that fails, and return its error message."""
        return str(run_app("promote", *arguments))

    def record(self, name: str, correct: list[bool], first: int = 0) -> str:
        """Record a run with a model, which tested photos from number `first` on, and return how messages name it."""
        run_id = record_predictions(self.store, name, predict(correct, range(first, first + len(correct))))
        log_model_of(self.store, run_id)
        return f"run {run_id[:8]} ({name})"

    def run_id(self, name: str) -> str:
        client = MlflowClient(self.store.address)
        run_id: str = find_run(client, self.store, name).info.run_id
        return run_id

    @property
    def name(self) -> str:
        """The name of the registered model."""
        return self.store.experiment

    @property
    def champion(self) -> int | None:
        version = find_aliased(MlflowClient(self.store.address), self.store, "champion")
        return None if version is None else int(version.version)


@pytest.fixture
def promote(database: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Promote:
    store = add_experiment(database)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.address)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", store.experiment)
    monkeypatch.delenv("MLFLOW_REGISTRY_URI", raising=False)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    return Promote(store)


def printed(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()


def test_without_a_champion_a_run_becomes_the_first(promote: Promote, capsys: pytest.CaptureFixture[str]) -> None:
    poor = promote.record("poor", POOR)
    promote("poor")
    assert printed(capsys) == [
        f"promote: {poor} is version 1 of {promote.name}, and now its champion (the first one)",
    ]
    assert promote.champion == 1


def test_the_accuracy_of_the_first_champion_is_printed(promote: Promote, capsys: pytest.CaptureFixture[str]) -> None:
    promote.record("poor", POOR)
    MlflowClient(promote.store.address).log_metric(promote.run_id("poor"), "test_accuracy", 0.6932)
    promote("poor")
    assert printed(capsys)[-1].endswith(", and now its champion (the first one, test accuracy 0.693)")


def test_a_better_run_becomes_the_champion(promote: Promote, capsys: pytest.CaptureFixture[str]) -> None:
    poor, good = promote.record("poor", POOR), promote.record("good", GOOD)
    promote("poor")
    printed(capsys)

    promote("good")

    assert printed(capsys) == [
        f"promote: A is {good}, B is {poor}",
        "promote: A and B tested the same 40 photos",
        f"promote: {good} and {poor} are distinguishable: 0.900 against 0.450 of 40 photos, difference +0.450 "
        "(95% interval +0.240 to +0.617), McNemar's test p = 0.00012",
        f"promote: {good} is version 2 of {promote.name}, and now its champion (previously version 1)",
    ]
    assert promote.champion == 2


def test_the_champion_can_be_promoted_again(promote: Promote, capsys: pytest.CaptureFixture[str]) -> None:
    good = promote.record("good", GOOD)
    promote("good")
    printed(capsys)
    for wanted in ("good", "@champion"):
        promote(wanted)
        assert printed(capsys) == [f"promote: {good} is version 1 of {promote.name}, and already its champion"]
    assert promote.champion == 1


def test_a_champion_that_is_another_version_of_the_same_run_stays_the_champion(
    promote: Promote, capsys: pytest.CaptureFixture[str]
) -> None:
    good = promote.record("good", GOOD)
    promote("good")
    client = MlflowClient(promote.store.address)
    by_hand = client.create_model_version(promote.name, (promote.store.root / "copy").as_uri(), promote.run_id("good"))
    client.set_registered_model_alias(promote.name, "champion", by_hand.version)
    printed(capsys)
    promote("good")
    assert printed(capsys) == [f"promote: {good} is version 2 of {promote.name}, and already its champion"]
    assert promote.champion == 2


def test_a_worse_run_is_not_promoted(promote: Promote, capsys: pytest.CaptureFixture[str]) -> None:
    good, poor = promote.record("good", GOOD), promote.record("poor", POOR)
    promote("good")
    printed(capsys)

    error = promote.error("poor")

    assert error.startswith(
        f"promote: {poor} is worse than the champion, {good}; version 1 of {promote.name} stays the champion; to make "
        "version 2 the champion anyway: python -c '"
    )
    assert "\n" not in error
    assert f"{poor} and {good} are distinguishable: 0.450 against 0.900 of 40 photos" in printed(capsys)[-1]
    assert promote.champion == 1


def test_a_run_whose_lead_is_not_significant_is_not_promoted(
    promote: Promote, capsys: pytest.CaptureFixture[str]
) -> None:
    good = promote.record("good", GOOD)
    lucky = promote.record("lucky", [number < 38 for number in range(40)])
    promote("good")
    error = promote.error("lucky")
    assert error.startswith(f"promote: {lucky} is not distinguishable from the champion, {good}; version 1 of ")
    assert " are not distinguishable: 0.950 against 0.900 of 40 photos, difference +0.050" in printed(capsys)[-1]
    assert promote.champion == 1


@pytest.mark.parametrize(
    ("champion", "run", "promoted"),
    [
        (["p(cat)", "p(dog)"], ["p(cat)"], False),
        (["p(cat)"], ["p(cat)", "p(dog)"], True),
        (["p(cat)", "p(dog)"], [], True),
        ([], ["p(cat)"], True),
    ],
    ids=["fewer", "more", "unknown", "the champion's unknown"],
)
def test_a_run_that_lacks_a_label_of_the_champion_is_not_promoted(
    promote: Promote, champion: list[str], run: list[str], promoted: bool
) -> None:
    for name, correct, labels in (("poor", POOR, champion), ("good", GOOD, run)):
        rows = predict(correct, range(40))
        log_model_of(promote.store, record_predictions(promote.store, name, rows, [*COLUMNS[:6], *labels]))
    promote("poor")
    if promoted:
        promote("good")
    else:
        error = promote.error("good")
        assert " (good) lacks labels of the champion, run " in error
        assert (
            f" (poor) (dog), so the photos that both tested were easier for it; version 1 of {promote.name} "
            "stays the champion; to make version 2 the champion anyway: python -c '"
        ) in error
    assert promote.champion == (2 if promoted else 1)


def test_the_confidence_level_decides(promote: Promote) -> None:
    promote.record("poor", POOR)
    promote.record("good", GOOD)
    promote("poor")
    assert " is not distinguishable from the champion" in promote.error("good", "--confidence-level", "0.9999")
    assert promote.champion == 1
    assert promote.error("good", "--confidence-level", "95") == (
        "promote: --confidence-level: expected a number above 0 and below 1, such as 0.95, got 95"
    )
    promote("good", "--confidence-level", "0.999")
    assert promote.champion == 2


def test_the_command_in_the_error_message_sets_the_alias(promote: Promote, capsys: pytest.CaptureFixture[str]) -> None:
    promote.record("good", GOOD)
    promote.record("poor", POOR)
    promote("good")
    command = promote.error("poor").partition(" anyway: ")[2]
    # The shell splits the command into words; running it in this process saves the time to import MLflow again.
    words = subprocess.run(f"printf '%s\\0' {command}", shell=True, capture_output=True, text=True, check=True).stdout
    program, option, code, end = words.split("\0")
    assert (program, option, end) == ("python", "-c", "")
    capsys.readouterr()
    exec(code, {})
    assert capsys.readouterr().out == ""
    assert promote.champion == 2


@pytest.mark.parametrize(
    ("address", "client"),
    [
        ("sqlite:////srv/mlflow.db", 'MlflowClient("sqlite:////srv/mlflow.db")'),
        ("https://someone:secret@mlflow.example.org", "MlflowClient()"),
    ],
    ids=["without a login", "with one"],
)
def test_the_command_has_no_password_and_quotes_any_name(tmp_path: Path, address: str, client: str) -> None:
    version = ModelVersion("""it's "ours" $HOME""", "1", creation_timestamp=0)
    assert shlex.split(promotion_by_hand(Store(address, "darkroom", tmp_path), version)) == [
        "python",
        "-c",
        f"from mlflow import MlflowClient; {client}.set_registered_model_alias("
        """"it's \\"ours\\" $HOME", "champion", "1")""",
    ]


def test_a_run_without_photos_in_common_is_not_promoted(promote: Promote) -> None:
    promote.record("good", GOOD)
    promote.record("elsewhere", GOOD, first=100)
    promote("good")
    error = promote.error("elsewhere")
    assert "and none is in both; use the same photos and labels" in error
    assert "; to make version 2 the champion anyway: python -c '" in error
    assert promote.champion == 1


def test_a_champion_whose_run_was_deleted_gives_a_one_line_error(promote: Promote) -> None:
    promote.record("poor", POOR)
    promote.record("good", GOOD)
    promote("poor")
    client = MlflowClient(promote.store.address)
    run_id = find_aliased(client, promote.store, "champion").run_id
    client.delete_run(run_id)

    error = promote.error("good")

    assert error.startswith(
        f"promote: version 1 of the registered model {promote.name} is of run {run_id}, which was deleted; "
        f"`mlflow runs restore --run-id {run_id}` brings it back; version 1 of {promote.name} stays the champion; to "
        "make version 2 the champion anyway: python -c '"
    )
    assert "\n" not in error
    assert promote.champion == 1


def test_a_champion_without_a_run_gives_a_one_line_error(promote: Promote) -> None:
    promote.record("good", GOOD)
    client = MlflowClient(promote.store.address)
    client.create_registered_model(promote.name)
    client.create_model_version(promote.name, (promote.store.root / "elsewhere").as_uri())
    client.set_registered_model_alias(promote.name, "champion", "1")
    error = promote.error("good")
    assert error.startswith(f"promote: version 1 of the registered model {promote.name} has no run, so its accuracy ")
    assert "; to make version 2 the champion anyway: " in error
    assert "\n" not in error
    assert promote.champion == 1


def test_runs_that_cannot_be_promoted_give_a_one_line_error(promote: Promote, database: Store) -> None:
    record_run(promote.store, {}, "live", {})
    record_run(promote.store, {}, "bare", {KEY_TAG: "bare"})
    elsewhere = record_predictions(database, "elsewhere", predict(GOOD, range(40)))
    messages = {
        "nobody": f"promote: there is no run nobody in the experiment {promote.name} of sqlite:///",
        "@champion": f"promote: no version of the registered model {promote.name} of sqlite:///",
        "live": "promote: run ",
        "bare": "promote: run ",
        elsewhere: f"promote: run {elsewhere[:8]} (elsewhere) belongs to the experiment darkroom, expected a run of "
        f"{promote.name}, whose results are the versions of {promote.name}; set MLFLOW_EXPERIMENT_NAME to the run's "
        "experiment",
    }
    for wanted, start in messages.items():
        error = promote.error(wanted)
        assert error.startswith(start)
        assert "\n" not in error
    assert "has no recorded result" in promote.error("live")
    assert " has no model; record the result in a new store" in promote.error("bare")
    assert promote.champion is None


def test_a_result_that_has_a_version_gets_no_second_one(promote: Promote) -> None:
    runs = [record_predictions(promote.store, name, predict(GOOD, range(40))) for name in ("one", "two")]
    client = open_registry(promote.store)
    for run_id in runs:
        log_model_of(promote.store, run_id)
        register_version(client, promote.store, run_id, "k")
    promote("two")
    assert promote.champion == 2
    assert len(client.search_model_versions(f"name = '{promote.name}'")) == 2


def test_of_two_simultaneous_promotions_the_second_is_compared_with_the_first(
    promote: Promote, capsys: pytest.CaptureFixture[str]
) -> None:
    """While the promotion of the poor run waits for the lock, the good one becomes the champion."""
    good, poor = promote.record("good", GOOD), promote.record("poor", POOR)
    client = open_registry(promote.store)
    with ThreadPoolExecutor(1) as pool, FileLock(registry_lock(replace(promote.store, root=Path.cwd()))):
        waiting = pool.submit(main, "poor", 0.95)
        printed_errors = ""
        deadline = time.monotonic() + 60
        while not printed_errors and time.monotonic() < deadline:
            time.sleep(0.05)
            printed_errors = capsys.readouterr().err
        version = register_version(client, promote.store, promote.run_id("good"), "good")
        client.set_registered_model_alias(promote.name, "champion", version.version)
        assert not waiting.done()
    with pytest.raises(StageError, match=re.escape(f"{poor} is worse than the champion, {good}; version 1 of ")):
        waiting.result()
    assert printed_errors == "promote: waiting for another process that promotes or registers a model\n"
    assert promote.champion == int(version.version)


def test_a_champion_that_another_machine_sets_in_the_meantime_is_not_overwritten(
    promote: Promote, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock only excludes processes of one machine."""
    for name, correct in (("poor", POOR), ("good", GOOD), ("best", [True] * 40)):
        promote.record(name, correct)
    promote("poor")
    client = open_registry(promote.store)
    best = register_version(client, promote.store, promote.run_id("best"), "best")
    fetch: Callable[..., str] = MlflowClient.download_artifacts

    def fetch_late(self: MlflowClient, *arguments: str) -> str:
        client.set_registered_model_alias(promote.name, "champion", best.version)
        return fetch(self, *arguments)

    monkeypatch.setattr(MlflowClient, "download_artifacts", fetch_late)
    assert promote.error("good").endswith(
        f"is version 3 of {promote.name}, but another champion was set in the meantime; run this again"
    )
    assert promote.champion == int(best.version)
