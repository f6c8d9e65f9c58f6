import copy
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from darkroom.pipeline.paths import DVC_LOCK
from darkroom.pipeline.stage import StageError
from darkroom.tracking.lockfile import (
    Stages,
    check_finished,
    earlier_keys,
    file_digest,
    flatten_params,
    folder_digest,
    output_digests,
    read_stages,
    recorded_params,
    result_key,
)
from tests.imports import ROOT

STAGES: Stages = {
    "augment": {
        "cmd": "python -m stages.augment",
        "deps": [{"path": "data/acquire/photos", "hash": "md5", "md5": "1.dir", "size": 10, "nfiles": 2}],
        "params": {"params.yaml": {"augment": {"image_size": [16, 16], "color": "gray"}}},
        "outs": [{"path": "data/augment/images.npy", "hash": "md5", "md5": "2", "size": 20}],
    },
    "train": {
        "cmd": "python -m stages.train",
        "deps": [{"path": "data/augment/images.npy", "hash": "md5", "md5": "2", "size": 20}],
        "params": {"params.yaml": {"train": {"epochs": 3, "schedule": {"warmup": 1, "steps": {}}}}},
        "outs": [
            {"path": "data/train/model.keras", "hash": "md5", "md5": "3", "size": 30},
            {"path": "metrics/train.json", "hash": "md5", "md5": "4", "size": 40},
        ],
    },
    "evaluate": {"cmd": "python -m stages.evaluate"},
}


def leaves(node: Any, path: tuple = ()) -> list[tuple]:
    """The path to each value of nested mappings and lists."""
    match node:
        case dict():
            return [leaf for key, child in node.items() for leaf in leaves(child, (*path, key))]
        case list():
            return [leaf for number, child in enumerate(node) for leaf in leaves(child, (*path, number))]
        case _:
            return [path]


def reordered(node: Any) -> Any:
    match node:
        case dict():
            return {key: reordered(child) for key, child in reversed(node.items())}
        case list():
            return [reordered(child) for child in node]
        case _:
            return node


class TestKey:
    @pytest.mark.parametrize("path", leaves(STAGES), ids=lambda path: ".".join(map(str, path)))
    def test_every_value_changes_the_key(self, path: tuple) -> None:
        changed = copy.deepcopy(STAGES)
        node: Any = changed
        for part in path[:-1]:
            node = node[part]
        node[path[-1]] = "changed"
        assert result_key(changed) != result_key(STAGES)

    @pytest.mark.parametrize("name", STAGES)
    def test_removing_a_stage_changes_the_key(self, name: str) -> None:
        assert result_key({other: stage for other, stage in STAGES.items() if other != name}) != result_key(STAGES)

    def test_the_order_of_names_does_not_change_the_key(self) -> None:
        assert reordered(STAGES) == STAGES
        assert list(reordered(STAGES)) != list(STAGES)
        assert result_key(reordered(STAGES)) == result_key(STAGES)

    @pytest.mark.parametrize("path", [("train", "deps", 0), ("train", "outs", 1)], ids=["dependency", "output"])
    def test_an_executable_file_does_not_change_the_key_and_the_earlier_key_is_known(self, path: tuple) -> None:
        changed = copy.deepcopy(STAGES)
        stage, kind, number = path
        changed[stage][kind][number]["isexec"] = True
        assert result_key(changed) == result_key(STAGES)
        (earlier,) = earlier_keys(changed)
        assert earlier == hashlib.sha256(json.dumps(changed, sort_keys=True).encode()).hexdigest()
        assert earlier_keys(STAGES) == ()
        assert changed[stage][kind][number]["isexec"]

    def test_the_key_of_a_result_without_executable_files_is_that_of_earlier_versions(self) -> None:
        assert result_key(STAGES) == hashlib.sha256(json.dumps(STAGES, sort_keys=True).encode()).hexdigest()

    def test_the_key_is_a_sha256(self) -> None:
        assert len(bytes.fromhex(result_key(STAGES))) == 32

    def test_writing_and_reading_a_file_does_not_change_the_key(self, workspace: Path) -> None:
        YAML(typ="safe").dump({"schema": "2.0", "stages": STAGES}, workspace / DVC_LOCK)
        assert result_key(read_stages(DVC_LOCK)) == result_key(STAGES)


class TestReading:
    def test_all_stages_but_record_are_read(self, workspace: Path) -> None:
        YAML(typ="safe").dump({"schema": "2.0", "stages": STAGES | {"record": {"cmd": "x"}}}, workspace / DVC_LOCK)
        assert read_stages(DVC_LOCK) == STAGES

    @pytest.mark.parametrize(
        "content",
        [
            pytest.param(None, id="no file"),
            pytest.param("", id="an empty file"),
            pytest.param("schema: '2.0'\n", id="no stages"),
            pytest.param("schema: '2.0'\nstages:\n", id="stages that are empty"),
            pytest.param("schema: '2.0'\nstages:\n  train: {cmd: x}\n", id="other stages"),
        ],
    )
    def test_a_lock_without_the_last_stage_is_rejected(self, workspace: Path, content: str | None) -> None:
        if content is not None:
            (workspace / DVC_LOCK).write_text(content)
        with pytest.raises(StageError) as caught:
            check_finished(read_stages(DVC_LOCK), "explain", DVC_LOCK)
        lacks = f"there is no dvc.lock in {workspace}" if content is None else "dvc.lock has no stage explain"
        assert str(caught.value) == f"{lacks}, so there is no result yet: run `dvc repro` in the project's folder"

    @pytest.mark.parametrize(
        ("content", "got"),
        [
            ("- a list\n", "other content"),
            ("acquire: {cmd: x}\n", "other content"),
            ("schema: '1.0'\nstages: {}\n", "the schema 1.0"),
            ("schema: '2.0'\nstages: [train]\n", "other content"),
            ("schema: '2.0'\nstages: {train: nothing}\n", "other content"),
            ("schema: '2.0'\nstages: {train: {outs: [{path: x}]}}\n", "other content"),
        ],
    )
    def test_a_file_of_another_form_is_rejected(self, workspace: Path, content: str, got: str) -> None:
        (workspace / DVC_LOCK).write_text(content)
        said = rf"^dvc\.lock: expected the lock file of DVC with the schema 2\.0, got {got}; restore it with `git "
        with pytest.raises(StageError, match=said):
            read_stages(DVC_LOCK)


class TestDigests:
    def test_outputs_are_listed_by_path(self) -> None:
        assert output_digests(STAGES) == {
            "data/augment/images.npy": "2",
            "data/train/model.keras": "3",
            "metrics/train.json": "4",
        }

    @pytest.mark.parametrize("content", [b"", b"pixels", bytes(3_000_000)], ids=["empty", "short", "long"])
    def test_a_file_has_the_digest_that_dvc_gives_it(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "file").write_bytes(content)
        assert file_digest(tmp_path / "file") == hashlib.md5(content).hexdigest()


class TestParams:
    def test_params_of_all_stages_have_dotted_names(self) -> None:
        assert recorded_params(STAGES) == {
            "augment.image_size": "[16, 16]",
            "augment.color": "gray",
            "train.epochs": "3",
            "train.schedule.warmup": "1",
            "train.schedule.steps": "{}",
        }

    @pytest.mark.parametrize(
        ("value", "text"),
        [(0.001, "0.001"), (1e-7, "1e-07"), (None, "None"), (True, "True"), ([], "[]"), ({}, "{}"), ("", "")],
    )
    def test_a_value_is_written_as_python_writes_it(self, value: Any, text: str) -> None:
        assert flatten_params({"train": {"value": value}}) == {"train.value": text}

    @given(
        st.recursive(
            st.integers(),
            lambda children: st.dictionaries(st.text("abc", min_size=1), children, min_size=1, max_size=3),
            max_leaves=8,
        )
    )
    @settings(deadline=None, max_examples=50)
    def test_no_value_is_lost(self, params: Any) -> None:
        expected = {".".join(path): value for path, value in zip(leaves({"all": params}), values(params), strict=True)}
        assert flatten_params({"all": params}) == {name: str(value) for name, value in expected.items()}


def values(node: Any) -> list[Any]:
    return [value for child in node.values() for value in values(child)] if isinstance(node, dict) else [node]


def test_the_digest_of_a_folder_is_dvc_s(tmp_path: Path) -> None:
    for number, name in enumerate(["one.py", "one/two.py", "one-two.py", "É.py", "one/__pycache__/two.pyc"]):
        (tmp_path / "code" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "code" / name).write_text(f"{number}")
    (tmp_path / "dvc.yaml").write_text("stages: {one: {cmd: echo, deps: [code]}}")
    shutil.copy(ROOT / ".dvcignore", tmp_path)
    for command in ("init --quiet --no-scm", "repro --quiet"):
        subprocess.run([sys.executable, "-m", "dvc", *command.split()], cwd=tmp_path, check=True)
    (dep,) = read_stages(tmp_path / "dvc.lock")["one"]["deps"]
    assert dep["md5"] == folder_digest(tmp_path / "code")
