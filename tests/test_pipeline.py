"""dvc.yaml holds what the stages really do. DVC does not follow imports: what is not listed is not noticed."""

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
# What a stage reads that no stage of ours writes: the user's photos and the environment.
OUTSIDE = {"${acquire.folder}", "requirements.lock"}
CODE_FOLDERS = ("stages/", "darkroom/")
# The package of each stage, which no other stage enters. augment has none: what it needs, others need too.
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
def test_a_stage_lists_the_code_that_it_reaches_and_nothing_else(stage: str) -> None:
    listed = {Path(path) for path in dependencies(stage) if path.startswith(CODE_FOLDERS)}
    reached = reached_modules(Path("stages", f"{stage}.py"))
    assert {module for module in reached if not any(covers(entry, module) for entry in listed)} == set()
    assert {entry for entry in listed if not any(covers(entry, module) for module in reached)} == set()


def test_stages_talk_through_files_alone() -> None:
    for stage in STAGES:
        modules = reached_modules(Path("stages", f"{stage}.py"))
        entered = {module.parts[1] for module in modules if module.parts[0] == "darkroom"}
        assert entered & set(OWN_PACKAGES.values()) <= {OWN_PACKAGES.get(stage)}
        assert {module for module in modules if module.parts[0] == "stages"} == {
            Path("stages/__init__.py"),
            Path("stages", f"{stage}.py"),
        }


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_the_schema_of_its_own_section_alone(stage: str) -> None:
    schemas = {path for path in dependencies(stage) if path.startswith("darkroom/params")}
    own = {"darkroom/params/section.py", f"darkroom/params/{stage}.py"}
    assert schemas == (set() if stage == LAST else own)


def test_dvc_looks_at_no_compiled_code() -> None:
    """Else another version of Python would change the digests of the folders of code, and stages would run again."""
    assert "__pycache__/" in (ROOT / ".dvcignore").read_text().splitlines()


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_lists_exactly_the_sections_that_it_reads(stage: str) -> None:
    assert set(STAGES[stage].get("params", [])) == read_sections(Path("stages", f"{stage}.py"))


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_is_named_alike_everywhere_and_described(stage: str) -> None:
    assert STAGES[stage]["cmd"] == f"python -m stages.{stage}"
    assert len(STAGES[stage]["desc"]) > 20
    assert (ROOT / "tests/stages" / f"test_{stage}.py").is_file()
    if stage != LAST:
        assert SECTIONS[stage].__name__ == f"{stage.title()}Params"


@pytest.mark.parametrize("stage", STAGES)
def test_outputs_stay_under_the_stage_s_name(stage: str) -> None:
    own = (f"data/{stage}/", f"metrics/{stage}/")
    assert [path for path in outputs(stage) if not path.startswith(own) and path != f"metrics/{stage}.json"] == []


@pytest.mark.parametrize("stage", STAGES)
def test_outputs_are_plain_paths_so_that_dvc_caches_them(stage: str) -> None:
    assert all(isinstance(path, str) for path in outputs(stage))


def test_inputs_come_from_earlier_stages_or_from_outside() -> None:
    written: set[str] = set(OUTSIDE)
    for stage in STAGES:
        read = {path for path in dependencies(stage) if not path.startswith(CODE_FOLDERS)}
        # A folder may stand for the outputs of earlier stages that lie in it.
        folders = {path for path in read - written if any(covers(Path(path), Path(file)) for file in written)}
        assert read <= written | folders
        assert "requirements.lock" in read
        written |= set(outputs(stage))


def test_only_the_last_stage_runs_always_and_it_writes_nothing() -> None:
    assert [stage for stage in STAGES if STAGES[stage].get("always_changed")] == [LAST]
    assert list(STAGES)[-1] == LAST
    assert outputs(LAST) == []


def test_every_section_is_read_by_a_stage_and_none_is_read_that_is_not_there() -> None:
    assert set().union(*(read_sections(Path("stages", f"{stage}.py")) for stage in STAGES)) == set(SECTIONS)


def test_every_module_is_reached_by_a_stage_or_a_command() -> None:
    starts = [Path("stages", f"{stage}.py") for stage in STAGES]
    starts.append(Path("commands/__main__.py"))
    starts.append(Path("darkroom/params/sections.py"))  # which `read_params` starts as a process of its own
    reached = set().union(*map(reached_modules, starts))
    here = {path.relative_to(ROOT) for folder in CODE for path in (ROOT / folder).rglob("*.py") if path.stat().st_size}
    assert here == reached


def test_a_logged_model_carries_the_packages_that_it_loads_and_no_others() -> None:
    loaded = {module.parts[1] for module in reached_modules(SERVING_CODE)}
    assert loaded == set(SERVED_CODE)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("argument", ["--nothing", "more"])
@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")  # another test has imported the stage
def test_a_stage_refuses_arguments_that_it_does_not_know(
    stage: str, argument: str, workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [f"stages/{stage}.py", argument])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(f"stages.{stage}", run_name="__main__")
    assert ended.value.code == 2
    assert argument in capsys.readouterr().err
    assert list(workspace.iterdir()) == []


@pytest.mark.parametrize("stage", ["acquire", "augment", "split", "record"])
def test_what_starts_quickly_imports_nothing_heavy(stage: str) -> None:
    """Importing TensorFlow takes ten seconds, MLflow and pandas one to five."""
    heavy = {"import keras", "import mlflow", "from mlflow", "import tensorflow", "import pandas", "from sklearn"}
    lines = {
        line
        for module in reached_modules(Path("stages", f"{stage}.py"), top_level=True)
        for line in (ROOT / module).read_text().splitlines()
        if line.startswith(tuple(heavy))
    }
    assert lines == set()


def test_every_top_level_plot_shows_what_a_stage_writes() -> None:
    written = {path for stage in STAGES for path in outputs(stage)}
    for plot in DVC["plots"]:
        (name, settings), *_ = plot.items() if isinstance(plot, dict) else [(plot, None)]
        files = settings["y"] if settings else [name]
        assert set(files) <= written
