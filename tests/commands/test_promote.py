"""Runs of a real store promoted: which becomes the champion, what the command says, and what it leaves as it is."""

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
from tests.imports import loaded_modules
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
    """The command, beside a store with an experiment of its own."""

    store: Store

    def __call__(self, *arguments: str) -> None:
        assert run_app("promote", *arguments) == 0

    def fault(self, *arguments: str) -> str:
        """What it says when it does not promote."""
        return str(run_app("promote", *arguments))

    def record(self, name: str, right: list[bool], first: int = 0) -> str:
        """Record a run with a model that has these of the photos from `first` on right, and show it."""
        run_id = record_predictions(self.store, name, predict(right, range(first, first + len(right))))
        log_model_of(self.store, run_id)
        return f"run {run_id[:8]} ({name})"

    def run_id(self, name: str) -> str:
        client = MlflowClient(self.store.address)
        run_id: str = find_run(client, self.store, name).info.run_id
        return run_id

    @property
    def name(self) -> str:
        """That of the registered model."""
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


def test_the_first_one_tells_its_accuracy(promote: Promote, capsys: pytest.CaptureFixture[str]) -> None:
    promote.record("poor", POOR)
    MlflowClient(promote.store.address).log_metric(promote.run_id("poor"), "test_accuracy", 0.6932)
    promote("poor")
    assert printed(capsys)[-1].endswith(", and now its champion (the first one; test accuracy 0.693)")


def test_a_better_run_takes_over(promote: Promote, capsys: pytest.CaptureFixture[str]) -> None:
    poor, good = promote.record("poor", POOR), promote.record("good", GOOD)
    promote("poor")
    printed(capsys)

    promote("good")

    assert printed(capsys) == [
        f"promote: A is {good}, B is {poor}",
        "promote: A and B tested the same 40 photos",
        f"promote: {good} and {poor} are distinguishable: 0.900 against 0.450 of 40 photos, difference +0.450 "
        "(95% interval +0.240 to +0.617), McNemar's test p = 0.00012",
        f"promote: {good} is version 2 of {promote.name}, and now its champion (was version 1)",
    ]
    assert promote.champion == 2


def test_the_champion_itself_stays_it(promote: Promote, capsys: pytest.CaptureFixture[str]) -> None:
    good = promote.record("good", GOOD)
    promote("good")
    printed(capsys)
    for wanted in ("good", "@champion"):
        promote(wanted)
        assert printed(capsys) == [f"promote: {good} is version 1 of {promote.name}, and already its champion"]
    assert promote.champion == 1


def test_a_champion_that_is_another_version_of_the_same_run_stays_it(
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


def test_a_worse_run_does_not_take_over(promote: Promote, capsys: pytest.CaptureFixture[str]) -> None:
    good, poor = promote.record("good", GOOD), promote.record("poor", POOR)
    promote("good")
    printed(capsys)

    fault = promote.fault("poor")

    assert fault.startswith(
        f"promote: {poor} is worse than the champion, {good}; version 1 of {promote.name} stays the champion; to make "
        "version 2 the champion all the same: python -c '"
    )
    assert "\n" not in fault
    assert f"{poor} and {good} are distinguishable: 0.450 against 0.900 of 40 photos" in printed(capsys)[-1]
    assert promote.champion == 1


def test_a_run_that_may_only_be_lucky_does_not_take_over(promote: Promote, capsys: pytest.CaptureFixture[str]) -> None:
    good = promote.record("good", GOOD)
    lucky = promote.record("lucky", [number < 38 for number in range(40)])
    promote("good")
    fault = promote.fault("lucky")
    assert fault.startswith(f"promote: {lucky} is not distinguishable from the champion, {good}; version 1 of ")
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
def test_a_run_that_lacks_a_label_of_the_champion_had_an_easier_task(
    promote: Promote, champion: list[str], run: list[str], promoted: bool
) -> None:
    for name, right, labels in (("poor", POOR, champion), ("good", GOOD, run)):
        rows = predict(right, range(40))
        log_model_of(promote.store, record_predictions(promote.store, name, rows, [*COLUMNS[:6], *labels]))
    promote("poor")
    if promoted:
        promote("good")
    else:
        fault = promote.fault("good")
        assert " (good) does not know all labels of the champion, run " in fault
        assert (
            f" (poor): it lacks dog, so the photos that both tested were easier for it; version 1 of {promote.name} "
            "stays the champion; to make version 2 the champion all the same: python -c '"
        ) in fault
    assert promote.champion == (2 if promoted else 1)


def test_the_confidence_level_decides(promote: Promote) -> None:
    promote.record("poor", POOR)
    promote.record("good", GOOD)
    promote("poor")
    assert " is not distinguishable from the champion" in promote.fault("good", "--confidence-level", "0.9999")
    assert promote.champion == 1
    assert promote.fault("good", "--confidence-level", "95") == (
        "promote: --confidence-level: expected a number above 0 and below 1, such as 0.95, got 95"
    )
    promote("good", "--confidence-level", "0.999")
    assert promote.champion == 2


def test_the_command_that_a_refusal_gives_sets_the_alias_by_hand(promote: Promote) -> None:
    promote.record("good", GOOD)
    promote.record("poor", POOR)
    promote("good")
    command = promote.fault("poor").partition(" all the same: ")[2]
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    assert promote.champion == 2


@pytest.mark.parametrize(
    ("address", "client"),
    [
        ("sqlite:////srv/mlflow.db", 'MlflowClient("sqlite:////srv/mlflow.db")'),
        ("https://someone:secret@mlflow.example.org", "MlflowClient()"),
    ],
    ids=["without a login", "with one"],
)
def test_that_command_holds_no_password_and_any_name(tmp_path: Path, address: str, client: str) -> None:
    version = ModelVersion("""it's "ours" $HOME""", "1", creation_timestamp=0)
    assert shlex.split(promotion_by_hand(Store(address, "darkroom", tmp_path), version)) == [
        "python",
        "-c",
        f"from mlflow import MlflowClient; {client}.set_registered_model_alias("
        """"it's \\"ours\\" $HOME", "champion", "1")""",
    ]


def test_runs_without_a_photo_in_common_are_left_to_their_reader(promote: Promote) -> None:
    promote.record("good", GOOD)
    promote.record("elsewhere", GOOD, first=100)
    promote("good")
    fault = promote.fault("elsewhere")
    assert "and none is in both; use the same photos and labels" in fault
    assert "; to make version 2 the champion all the same: python -c '" in fault
    assert promote.champion == 1


def test_a_champion_whose_run_was_deleted_is_told_in_one_line(promote: Promote) -> None:
    promote.record("poor", POOR)
    promote.record("good", GOOD)
    promote("poor")
    client = MlflowClient(promote.store.address)
    run_id = find_aliased(client, promote.store, "champion").run_id
    client.delete_run(run_id)

    fault = promote.fault("good")

    assert fault.startswith(
        f"promote: version 1 of the registered model {promote.name} is of run {run_id}, which was deleted; "
        f"`mlflow runs restore --run-id {run_id}` brings it back; version 1 of {promote.name} stays the champion; to "
        "make version 2 the champion all the same: python -c '"
    )
    assert "\n" not in fault
    assert promote.champion == 1


def test_a_champion_that_has_no_run_is_told_in_one_line(promote: Promote) -> None:
    promote.record("good", GOOD)
    client = MlflowClient(promote.store.address)
    client.create_registered_model(promote.name)
    client.create_model_version(promote.name, (promote.store.root / "elsewhere").as_uri())
    client.set_registered_model_alias(promote.name, "champion", "1")
    fault = promote.fault("good")
    assert fault.startswith(f"promote: version 1 of the registered model {promote.name} has no run, so its accuracy ")
    assert "; to make version 2 the champion all the same: " in fault
    assert "\n" not in fault
    assert promote.champion == 1


def test_what_cannot_be_promoted_is_one_clear_line(promote: Promote, database: Store) -> None:
    record_run(promote.store, {}, "live", {})
    record_run(promote.store, {}, "bare", {KEY_TAG: "bare"})
    elsewhere = record_predictions(database, "elsewhere", predict(GOOD, range(40)))
    said = {
        "nobody": f"promote: there is no run nobody in the experiment {promote.name} of sqlite:///",
        "@champion": f"promote: no version of the registered model {promote.name} of sqlite:///",
        "live": "promote: run ",
        "bare": "promote: run ",
        elsewhere: f"promote: run {elsewhere[:8]} (elsewhere) is of the experiment darkroom, expected one of "
        f"{promote.name}, whose results are the versions of {promote.name}; name the run's own experiment in "
        "MLFLOW_EXPERIMENT_NAME",
    }
    for wanted, start in said.items():
        fault = promote.fault(wanted)
        assert fault.startswith(start)
        assert "\n" not in fault
    assert "has no recorded result" in promote.fault("live")
    assert " has no model; record the result in a new store" in promote.fault("bare")
    assert promote.champion is None


def test_a_result_that_has_a_version_already_keeps_it(promote: Promote) -> None:
    runs = [record_predictions(promote.store, name, predict(GOOD, range(40))) for name in ("one", "two")]
    client = open_registry(promote.store)
    for run_id in runs:
        log_model_of(promote.store, run_id)
        register_version(client, promote.store, run_id, "k")
    promote("two")
    assert promote.champion == 2
    assert len(client.search_model_versions(f"name = '{promote.name}'")) == 2


def test_of_two_at_once_the_later_is_held_against_the_earlier(
    promote: Promote, capsys: pytest.CaptureFixture[str]
) -> None:
    """While the poor run waits for its turn, the good one becomes the champion."""
    good, poor = promote.record("good", GOOD), promote.record("poor", POOR)
    client = open_registry(promote.store)
    with ThreadPoolExecutor(1) as pool, FileLock(registry_lock(replace(promote.store, root=Path.cwd()))):
        waiting = pool.submit(main, "poor", 0.95)
        said = ""
        deadline = time.monotonic() + 60
        while not said and time.monotonic() < deadline:
            time.sleep(0.05)
            said = capsys.readouterr().err
        version = register_version(client, promote.store, promote.run_id("good"), "good")
        client.set_registered_model_alias(promote.name, "champion", version.version)
        assert not waiting.done()
    with pytest.raises(StageError, match=re.escape(f"{poor} is worse than the champion, {good}; version 1 of ")):
        waiting.result()
    assert said == "promote: waiting for another that promotes or registers a model\n"
    assert promote.champion == int(version.version)


def test_a_champion_set_from_elsewhere_meanwhile_is_not_overwritten(
    promote: Promote, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As another machine may do, whose lock is another."""
    for name, right in (("poor", POOR), ("good", GOOD), ("best", [True] * 40)):
        promote.record(name, right)
    promote("poor")
    client = open_registry(promote.store)
    best = register_version(client, promote.store, promote.run_id("best"), "best")
    fetch: Callable[..., str] = MlflowClient.download_artifacts

    def fetch_late(self: MlflowClient, *arguments: str) -> str:
        client.set_registered_model_alias(promote.name, "champion", best.version)
        return fetch(self, *arguments)

    monkeypatch.setattr(MlflowClient, "download_artifacts", fetch_late)
    assert promote.fault("good").endswith(
        f"is version 3 of {promote.name}, but another champion was set meanwhile; run this again"
    )
    assert promote.champion == int(best.version)


def test_neither_keras_nor_scikit_learn_is_imported() -> None:
    """They take seconds."""
    assert {"keras", "tensorflow", "sklearn"}.isdisjoint(loaded_modules("commands.promote"))
