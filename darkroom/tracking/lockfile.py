"""Read dvc.lock: the inputs and outputs of a result, and the key that identifies it."""

import copy
import hashlib
import json
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from darkroom.pipeline.stage import StageError
from darkroom.pipeline.yaml_file import load_yaml

RECORD = "record"
SCHEMA = "2.0"
# The lists of files of a stage, and DVC's mark of an executable file in them.
ENTRIES, EXECUTABLE = ("deps", "outs"), "isexec"
# The stages that produce the training data.
DATA_STAGES = ("acquire", "augment", "split")
# The suffix of digests of folders.
FOLDER_SUFFIX = ".dir"
COMPILED = "__pycache__"
Stages = dict[str, dict[str, Any]]


def read_stages(path: Path) -> Stages:
    """Read the stages of `path` except `record`; empty if the file does not exist yet.

    Raises:
        StageError: it is not a lock file of DVC.
    """
    document = load_yaml(path) if path.exists() else None
    if document is None:
        return {}
    schema = document.get("schema") if isinstance(document, dict) else None
    stages = (document.get("stages") or {}) if schema == SCHEMA else None
    if not isinstance(stages, dict) or not all(map(is_locked_stage, stages.values())):
        got = f"the schema {schema}" if schema not in (SCHEMA, None) else "other content"
        raise StageError(
            f"{path}: expected the lock file of DVC with the schema {SCHEMA}, got {got}; restore it with `git checkout "
            f"{path}`, or remove it and run `dvc repro`, which takes known results from DVC's cache"
        )
    return {name: stage for name, stage in stages.items() if name != RECORD}


def is_locked_stage(stage: object) -> bool:
    """Whether an entry has the form of a stage in dvc.lock, as far as it is read here."""
    return isinstance(stage, dict) and all(
        isinstance(entry, dict) and isinstance(entry.get("path"), str) and isinstance(entry.get("md5"), str)
        for kind in ENTRIES
        for entry in stage.get(kind) or []
    )


def check_finished(stages: Stages, last_stage: str, path: Path) -> None:
    """Raise a StageError if `last_stage` has not run yet, as read from `path`."""
    if last_stage not in stages:
        lacks = f"{path} has no stage {last_stage}" if path.exists() else f"there is no {path} in {Path.cwd()}"
        raise StageError(f"{lacks}, so there is no result yet: run `dvc repro` in the project's folder")


def result_key(stages: Stages) -> str:
    """Compute the SHA-256 of code, params, data and outputs of all stages: equal keys mean the same result.

    The executable bit of a file, which DVC writes into dvc.lock, is not part of the result.
    """
    return digest_stages(without_executable_bits(stages))


def earlier_keys(stages: Stages) -> tuple[str, ...]:
    """The keys that earlier versions gave this result: with the executable bits, if there are any."""
    key = digest_stages(stages)
    return () if key == result_key(stages) else (key,)


def digest_stages(stages: Stages) -> str:
    return hashlib.sha256(json.dumps(stages, sort_keys=True).encode()).hexdigest()


def without_executable_bits(stages: Stages) -> Stages:
    kept = copy.deepcopy(stages)
    for stage in kept.values():
        for entry in chain.from_iterable(stage.get(kind) or [] for kind in ENTRIES):
            entry.pop(EXECUTABLE, None)
    return kept


def output_digests(stages: Stages) -> dict[str, str]:
    """Return DVC's MD5 digest of every output by path; those of folders end in ".dir"."""
    return {out["path"]: out["md5"] for stage in stages.values() for out in stage.get("outs", [])}


def recorded_params(stages: Stages) -> dict[str, str]:
    """Return the params of all stages by dotted name, as DVC shows them."""
    sections: dict[str, Any] = {}
    for stage in stages.values():
        for params in stage.get("params", {}).values():
            sections |= params
    return flatten_params(sections)


def flatten_params(params: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Join nested names with dots, and convert each value to a string; an empty mapping counts as a value."""
    flat: dict[str, str] = {}
    for name, value in params.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten_params(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = str(value)
    return flat


def folder_digest(folder: Path) -> str:
    """Compute DVC's digest of a folder of code: the MD5 of the list of its files and their digests, plus ".dir".

    Compiled code is excluded, as in .dvcignore. Source: `dvc_data.hashfile.tree.Tree`.
    """
    files = [path for path in folder.rglob("*") if path.is_file() and COMPILED not in path.parts]
    entries = [{"md5": file_digest(path), "relpath": path.relative_to(folder).as_posix()} for path in files]
    entries.sort(key=lambda entry: entry["relpath"])
    return f"{hashlib.md5(json.dumps(entries, sort_keys=True).encode()).hexdigest()}{FOLDER_SUFFIX}"


def file_digest(path: Path) -> str:
    """Compute the MD5 digest of a file, by which DVC identifies its content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()
