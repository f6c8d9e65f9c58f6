"""dvc.lock: what a result was made of, and the key that is the same for the same result."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from darkroom.pipeline.stage import StageError

RECORD = "record"
# What comes before a training, and makes what it trains on.
DATA_STAGES = ("acquire", "augment", "split")
# How digests of folders end, as against those of files.
FOLDER_SUFFIX = ".dir"
COMPILED = "__pycache__"
Stages = dict[str, dict[str, Any]]


def read_stages(path: Path) -> Stages:
    """Read the stages of `path`, all but `record`; none if there is no such file yet."""
    document = YAML(typ="safe").load(path) if path.exists() else None
    stages: Stages = dict((document or {}).get("stages", {}))
    stages.pop(RECORD, None)
    return stages


def check_finished(stages: Stages, last_stage: str, path: Path) -> None:
    """Refuse stages of `path` that do not reach `last_stage`.

    Raises:
        StageError: it has not run yet.
    """
    if last_stage not in stages:
        lacks = f"{path} has no stage {last_stage}" if path.exists() else f"there is no {path} in {Path.cwd()}"
        raise StageError(f"{lacks}, so there is no such result: run `dvc repro` in the project's folder")


def result_key(stages: Stages) -> str:
    """The sha256 over code, params, data and outputs of all stages: the same key is the same result."""
    return hashlib.sha256(json.dumps(stages, sort_keys=True).encode()).hexdigest()


def output_digests(stages: Stages) -> dict[str, str]:
    """DVC's MD5 digest of every output, by path; that of a folder ends in ".dir"."""
    return {out["path"]: out["md5"] for stage in stages.values() for out in stage.get("outs", [])}


def recorded_params(stages: Stages) -> dict[str, str]:
    """The params of all stages under their dotted names, as DVC shows them."""
    sections: dict[str, Any] = {}
    for stage in stages.values():
        for params in stage.get("params", {}).values():
            sections |= params
    return flatten_params(sections)


def flatten_params(params: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Join nested names with dots, and write each value as text; an empty mapping stays a value."""
    flat: dict[str, str] = {}
    for name, value in params.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten_params(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = str(value)
    return flat


def folder_digest(folder: Path) -> str:
    """The digest that DVC gives a folder of code: the MD5 of a list of its files with their own digests, and ".dir".

    Compiled code does not count, as .dvcignore has it. Source: `dvc_data.hashfile.tree.Tree`.
    """
    files = [path for path in folder.rglob("*") if path.is_file() and COMPILED not in path.parts]
    entries = [{"md5": file_digest(path), "relpath": path.relative_to(folder).as_posix()} for path in files]
    entries.sort(key=lambda entry: entry["relpath"])
    return f"{hashlib.md5(json.dumps(entries, sort_keys=True).encode()).hexdigest()}{FOLDER_SUFFIX}"


def file_digest(path: Path) -> str:
    """The MD5 digest of a file, which is the name that DVC knows its content by."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()
