"""Read dvc.lock: the inputs and outputs of a result, and the key that identifies it."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from darkroom.pipeline.stage import StageError

RECORD = "record"
# The stages that produce the training data.
DATA_STAGES = ("acquire", "augment", "split")
# The suffix of digests of folders.
FOLDER_SUFFIX = ".dir"
COMPILED = "__pycache__"
Stages = dict[str, dict[str, Any]]


def read_stages(path: Path) -> Stages:
    """Read the stages of `path` except `record`; empty if the file does not exist yet."""
    document = YAML(typ="safe").load(path) if path.exists() else None
    stages: Stages = dict((document or {}).get("stages", {}))
    stages.pop(RECORD, None)
    return stages


def check_finished(stages: Stages, last_stage: str, path: Path) -> None:
    """Raise a StageError if `last_stage` has not run yet, as read from `path`."""
    if last_stage not in stages:
        lacks = f"{path} has no stage {last_stage}" if path.exists() else f"there is no {path} in {Path.cwd()}"
        raise StageError(f"{lacks}, so there is no result yet: run `dvc repro` in the project's folder")


def result_key(stages: Stages) -> str:
    """Compute the SHA-256 of code, params, data and outputs of all stages: equal keys mean the same result."""
    return hashlib.sha256(json.dumps(stages, sort_keys=True).encode()).hexdigest()


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
