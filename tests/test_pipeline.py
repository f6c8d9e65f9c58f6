"""dvc.yaml lists what the stages really use. DVC does not follow imports, so it would not notice unlisted code."""

import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from darkroom.params.sections import SECTIONS
from darkroom.recording.logged_model import SERVED_CODE, SERVING_CODE
from tests.imports import CODE, ROOT, reached_modules, read_sections

DVC = YAML(typ="safe").load(ROOT / "dvc.yaml")
STAGES: dict[str, dict[str, Any]] = DVC["stages"]
LAST = "record"
# Inputs that no stage writes: the user's photos and the packages.
EXTERNAL = {"${acquire.folder}", "requirements.lock"}
CODE_FOLDERS = ("stages/", "darkroom/")
# The package of each stage, which no other stage imports. augment has none: all that it needs, others need too.
OWN_PACKAGES = {
    "acquire": "acquisition",
    "split": "splitting",
    "train": "training",
    "evaluate": "evaluation",
    "explain": "explanation",
    "record": "recording",
}


def outputs(stage: str) -> list[str]:
    return [*STAGES[stage].get("outs", []), *STAGES[stage].get("metrics", []), *STAGES[stage].get("plots", [])]


def dependencies(stage: str) -> list[str]:
    deps: list[str] = STAGES[stage]["deps"]
    return deps


def covers(listed: Path, path: Path) -> bool:
    return listed == path or listed in path.parents


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_lists_exactly_the_code_that_it_imports(stage: str) -> None:
    listed = {Path(path) for path in dependencies(stage) if path.startswith(CODE_FOLDERS)}
    # The last stage always runs.
    reached = reached_modules(Path("stages", f"{stage}.py")) if stage != LAST else set()
    assert {module for module in reached if not any(covers(entry, module) for entry in listed)} == set()
    assert {entry for entry in listed if not any(covers(entry, module) for module in reached)} == set()


def test_stages_communicate_only_through_files() -> None:
    for stage in STAGES:
        modules = reached_modules(Path("stages", f"{stage}.py"))
        imported = {module.parts[1] for module in modules if module.parts[0] == "darkroom"}
        assert imported & set(OWN_PACKAGES.values()) <= {OWN_PACKAGES.get(stage)}
        assert {module for module in modules if module.parts[0] == "stages"} == {
            Path("stages/__init__.py"),
            Path("stages", f"{stage}.py"),
        }


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_only_on_the_schema_of_its_own_section(stage: str) -> None:
    schemas = {path for path in dependencies(stage) if path.startswith("darkroom/params")}
    own = {"darkroom/params/section.py", f"darkroom/params/{stage}.py"}
    assert schemas == (set() if stage == LAST else own)


def test_dvc_ignores_compiled_code() -> None:
    """Otherwise another Python version would change the digests of code folders, and stages would run again."""
    assert "__pycache__/" in (ROOT / ".dvcignore").read_text().splitlines()


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_lists_exactly_the_sections_that_it_reads(stage: str) -> None:
    assert set(STAGES[stage].get("params", [])) == read_sections(Path("stages", f"{stage}.py"))


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_has_the_same_name_everywhere_and_a_description(stage: str) -> None:
    assert STAGES[stage]["cmd"] == f"python -m stages.{stage}"
    assert len(STAGES[stage]["desc"]) > 20
    assert (ROOT / "tests/stages" / f"test_{stage}.py").is_file()
    if stage != LAST:
        assert SECTIONS[stage].__name__ == f"{stage.title()}Params"


@pytest.mark.parametrize("stage", STAGES)
def test_outputs_are_in_folders_named_after_the_stage(stage: str) -> None:
    own = (f"data/{stage}/", f"metrics/{stage}/")
    assert [path for path in outputs(stage) if not path.startswith(own) and path != f"metrics/{stage}.json"] == []


@pytest.mark.parametrize("stage", STAGES)
def test_outputs_are_plain_paths_so_that_dvc_caches_them(stage: str) -> None:
    assert all(isinstance(path, str) for path in outputs(stage))


def test_inputs_come_from_earlier_stages_or_are_external() -> None:
    written: set[str] = set(EXTERNAL)
    for stage in STAGES:
        read = {path for path in dependencies(stage) if not path.startswith(CODE_FOLDERS)}
        # A folder may be listed for the outputs of earlier stages in it.
        folders = {path for path in read - written if any(covers(Path(path), Path(file)) for file in written)}
        assert read <= written | folders
        assert ("requirements.lock" in read) == (stage != LAST)
        written |= set(outputs(stage))


def test_only_the_last_stage_always_runs_and_it_writes_no_outputs() -> None:
    assert [stage for stage in STAGES if STAGES[stage].get("always_changed")] == [LAST]
    assert list(STAGES)[-1] == LAST
    assert outputs(LAST) == []


def test_the_stages_read_exactly_the_existing_sections() -> None:
    assert set().union(*(read_sections(Path("stages", f"{stage}.py")) for stage in STAGES)) == set(SECTIONS)


def test_every_module_is_imported_by_a_stage_or_a_command() -> None:
    starts = [Path("stages", f"{stage}.py") for stage in STAGES]
    starts.append(Path("commands/__main__.py"))
    starts.append(Path("darkroom/params/sections.py"))  # which `read_params` runs in a separate process
    reached = set().union(*map(reached_modules, starts))
    present = {
        path.relative_to(ROOT) for folder in CODE for path in (ROOT / folder).rglob("*.py") if path.stat().st_size
    }
    assert present == reached


def test_a_logged_model_contains_exactly_the_packages_that_it_loads() -> None:
    loaded = {module.parts[1] for module in reached_modules(SERVING_CODE)}
    assert loaded == set(SERVED_CODE)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("argument", ["--nothing", "more"])
@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")  # another test may have imported the stage
def test_a_stage_rejects_unknown_arguments(
    stage: str, argument: str, workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [f"stages/{stage}.py", argument])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(f"stages.{stage}", run_name="__main__")
    assert ended.value.code == 2
    assert argument in capsys.readouterr().err
    assert list(workspace.iterdir()) == []


@pytest.mark.parametrize("stage", ["acquire", "augment", "split", "record"])
def test_fast_stages_import_no_slow_packages(stage: str) -> None:
    """Importing TensorFlow takes ten seconds, MLflow and pandas one to five."""
    slow = {"import keras", "import mlflow", "from mlflow", "import tensorflow", "import pandas", "from sklearn"}
    lines = {
        line
        for module in reached_modules(Path("stages", f"{stage}.py"), top_level=True)
        for line in (ROOT / module).read_text().splitlines()
        if line.startswith(tuple(slow))
    }
    assert lines == set()


def test_every_plot_shows_an_output_of_a_stage() -> None:
    written = {path for stage in STAGES for path in outputs(stage)}
    for plot in DVC["plots"]:
        (name, settings), *_ = plot.items() if isinstance(plot, dict) else [(plot, None)]
        files = settings["y"] if settings else [name]
        assert set(files) <= written
