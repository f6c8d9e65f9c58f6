"""Results of a recipe, as a row of the table in docs/recipes.md.

Runs the stages of a recipe, optionally with changed params, in a copy of the project, on the photos in
../shared/material if they exist, otherwise on the recipe's own source. Prints network, parameters, test accuracy with
its interval, CPU time of the train stage, model size, and the training and validation accuracy of the last epoch.

Run as  python -m benchmarks.recipes RECIPE [SECTION.KEY=VALUE ...]
        python -m benchmarks.recipes guitars_mobilenet train.backbone.fine_tuning.epochs=0
"""

import csv
import json
import os
import resource
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from darkroom.params.recipes import list_recipes, write_recipe
from darkroom.pipeline.stage import StageError
from tests.project import ROOT, Project, copy_project

MATERIAL = ROOT.parent / "shared/material"
# Local copies of the recipes' photos.
GUITARS = {"acquire.folder": MATERIAL / "guitars"}
SOURCES: Mapping[str, Mapping[str, Any]] = {
    "guitars": GUITARS,
    "guitars_compact": GUITARS,
    "guitars_mobilenet": GUITARS,
    "guitars_six": GUITARS,
    "cats_dogs": {"acquire.folder": MATERIAL / "cats-dogs-flat"},
    "mnist": {"acquire.folder": MATERIAL / "mnist", "acquire.dataset.files": "folder"},
}
# No run is recorded: nothing listens at this address, which fails at once.
ENVIRONMENT = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
if MATERIAL.is_dir():
    ENVIRONMENT["KERAS_HOME"] = str(MATERIAL / "keras-home")


def prepare_project(folder: Path, recipe: str, changes: Mapping[str, Any]) -> Project:
    """Copy the project with the recipe's params and the changes, and run the stages before train."""
    project = copy_project(folder)
    here = {key: value for key, value in SOURCES.get(recipe, {}).items() if MATERIAL.is_dir()}
    values = {name: str(value) if isinstance(value, Path) else value for name, value in (here | dict(changes)).items()}
    try:
        params = write_recipe(recipe, values, ROOT / "recipes")
    except StageError as error:
        sys.exit(str(error))
    (project.root / "params.yaml").write_text(params)
    for name in ENVIRONMENT.keys() - os.environ.keys():
        project.environment[name] = ENVIRONMENT[name]
    for stage in ("acquire", "augment", "split"):
        print(run_stage(project, stage), flush=True)
    return project


def run_stage(project: Project, stage: str) -> str:
    """Run a stage; return its closing line."""
    return project.run("python", "-m", f"stages.{stage}", timeout_seconds=4 * 3600).stdout.splitlines()[-1]


def describe_training(project: Project) -> str:
    """Train and evaluate; return the result as a row of a table."""
    started = cpu_seconds()
    print(run_stage(project, "train"), flush=True)
    minutes = (cpu_seconds() - started) / 60
    print(run_stage(project, "evaluate"), flush=True)
    trained, tested = (
        json.loads((project.root / f"metrics/{stage}.json").read_bytes()) for stage in ("train", "evaluate")
    )
    with (project.root / "data/train/history.csv").open(newline="") as file:
        last = list(csv.DictReader(file))[-1]
    megabytes = (project.root / "data/train/model.keras").stat().st_size / 1e6
    network = YAML(typ="safe").load(project.root / "params.yaml")["train"]["network"]
    return (
        f"| {network} | {trained['parameters']:,} ({trained['trainable_parameters']:,} trainable) "
        f"| {tested['accuracy']:.3f} ({tested['accuracy_low']:.3f} to {tested['accuracy_high']:.3f}) "
        f"| {minutes:,.1f} min, {trained['epochs_run']} epochs | {megabytes:.1f} MB "
        f"| {float(last['accuracy']):.3f} | {float(last['val_accuracy']):.3f} |"
    )


def cpu_seconds() -> float:
    """CPU seconds of all finished child processes; other programs hardly affect them, unlike wall-clock time."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def read_changes(arguments: Sequence[str]) -> dict[str, Any]:
    changes = {}
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if not equals:
            sys.exit(f"expected SECTION.KEY=VALUE, got {argument}")
        changes[name] = YAML(typ="safe").load(value)
    return changes


def main() -> None:
    recipe, *arguments = sys.argv[1:] or [""]
    recipes = list_recipes(ROOT / "recipes")
    if recipe not in recipes:
        sys.exit(f"expected RECIPE [SECTION.KEY=VALUE ...], with a recipe of {', '.join(recipes)}, got {recipe!r}")
    with tempfile.TemporaryDirectory() as folder:
        row = describe_training(prepare_project(Path(folder, "project"), recipe, read_changes(arguments)))
    print("| network | parameters | test accuracy (95%) | CPU time | model size | accuracy | val_accuracy |")
    print("|---|---|---|---|---|---|---|")
    print(row)


if __name__ == "__main__":
    main()
