"""A copy of this project in another folder, used as users use it: with dvc, git and MLflow's client."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from mlflow import MlflowClient
from mlflow.entities import Run, ViewType
from PIL import Image, ImageDraw
from ruamel.yaml import YAML

from darkroom.params.recipes import write_recipe
from tests.fork_server import start_forks

ROOT = Path(__file__).parent.parent
# Real photos and hostile files, which most machines do not have.
MATERIAL = ROOT.parent / "shared/material"
BAD_INPUTS = MATERIAL / "bad-inputs"
SHAPES = ("circle", "square", "triangle")


def draw_photos(folder: Path, photos_per_class: int = 12, side: int = 24) -> None:
    """Draw circles, squares and triangles of random position, size and shade as PNG files, a folder per shape."""
    random = np.random.default_rng(5)
    for shape in SHAPES:
        (folder / shape).mkdir(parents=True)
        for number in range(photos_per_class):
            image = Image.fromarray(random.integers(0, 60, (side, side, 3), np.uint8))
            left, top = random.integers(1, side // 4, 2)
            right, bottom = side - random.integers(1, side // 4, 2)
            shade = tuple(int(value) for value in random.integers(150, 256, 3))
            draw = ImageDraw.Draw(image)
            match shape:
                case "circle":
                    draw.ellipse((left, top, right, bottom), fill=shade)
                case "square":
                    draw.rectangle((left, top, right, bottom), fill=shade)
                case "triangle":
                    draw.polygon([(left, bottom), (right, bottom), ((left + right) // 2, top)], fill=shade)
            image.save(folder / shape / f"{number:03d}.png")


@dataclass
class Project:
    """`environment` is added to what every command gets.

    With `forks`, stages and common DVC commands run in forks of a process that has imported TensorFlow and DVC.
    """

    root: Path
    environment: dict[str, str] = field(default_factory=dict)
    forks: bool = False

    def run(
        self, *command: str, check: bool = True, timeout_seconds: float = 600, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the project, with this Python's environment first on the PATH."""
        done = subprocess.run(
            command,
            cwd=self.root,
            env=self.command_environment(**environment),
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_seconds,
        )
        assert not check or done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
        return done

    def command_environment(self, **environment: str) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "DVC_"))}
        folders = [*([start_forks()] if self.forks else []), Path(sys.executable).parent, os.environ["PATH"]]
        path = os.pathsep.join(map(str, folders))
        return {**inherited, "PATH": path, "GIT_CONFIG_GLOBAL": os.devnull, **self.environment, **environment}

    def dvc(self, *arguments: str, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
        return self.run("dvc", *arguments, check=check, **environment)

    def git(self, *arguments: str) -> str:
        return self.run("git", "-c", "user.name=Test", "-c", "user.email=test@localhost", *arguments).stdout

    def commit(self, message: str) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", message)

    @property
    def lock(self) -> dict[str, Any]:
        """The stages of dvc.lock without record, whose dependencies say nothing new."""
        stages: dict[str, Any] = YAML(typ="safe").load(self.root / "dvc.lock")["stages"]
        return {name: stage for name, stage in stages.items() if name != "record"}

    def set_params(self, **changes: Any) -> None:
        """Change params; names have "__" for the dot: `train__epochs=3`."""
        yaml = YAML()
        params = yaml.load(self.root / "params.yaml")
        for name, value in changes.items():
            section, key = name.split("__")
            params[section][key] = value
        yaml.dump(params, self.root / "params.yaml")

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(self.environment.get("MLFLOW_TRACKING_URI") or f"sqlite:///{self.root}/mlflow.db")

    def runs(self, view: int = ViewType.ACTIVE_ONLY) -> list[Run]:
        """All runs in the store, the oldest first."""
        client = self.client
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        return list(client.search_runs(experiments, run_view_type=view, order_by=["start_time ASC"]))

    def curve(self, run: Run, metric: str) -> list[tuple[int, float]]:
        return [(point.step, point.value) for point in self.client.get_metric_history(run.info.run_id, metric)]


def write_keras_settings(folder: Path) -> dict[str, str]:
    """The environment of a user whose own Keras settings, in a new folder, differ from those of this project."""
    folder.mkdir()
    settings = {"floatx": "float16", "epsilon": 0.01, "backend": "absent", "image_data_format": "channels_first"}
    (folder / "keras.json").write_text(json.dumps(settings))
    return {"KERAS_HOME": str(folder), "KERAS_MAX_EPOCHS": "1", "KERAS_MAX_STEPS_PER_EPOCH": "1"}


def read_recipe(name: str) -> Any:
    """The params of a recipe as plain values."""
    return YAML(typ="safe").load(write_recipe(name, {}, ROOT / "recipes"))


def write_params(recipe: str, target: Path = Path("params.yaml"), **acquire: Any) -> None:
    """Write a recipe's params to `target`, with changes to the section acquire."""
    params = read_recipe(recipe)
    params["acquire"].update(acquire)
    YAML().dump(params, target)


def executed_stages(done: subprocess.CompletedProcess[str]) -> list[str]:
    """The stages that `dvc repro` ran, as it says itself."""
    return [line.split("'")[1] for line in done.stdout.splitlines() if line.startswith("Running stage")]


def copy_project(target: Path) -> Project:
    """Copy what Git knows of this project, and what is new and not ignored, into a Git repository of its own."""
    known = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(known, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    for file in files:
        if file != "dvc.lock" and (ROOT / file).is_file():
            (target / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / file, target / file)
    write_params("digits", target / "params.yaml")
    project = Project(target)
    project.git("init", "--quiet", "--initial-branch=main")
    project.commit("Copy")
    return project


def copy_built(project: Project, target: Path) -> Project:
    """A copy with all that was built: DVC's cache, the outputs, the MLflow store; it may be changed."""
    shutil.copytree(project.root, target, symlinks=True)
    if (target / "mlflow.db").exists():
        move_store(target / "mlflow.db", project.root, target)
    return Project(target, forks=project.forks)


def move_store(database: Path, old: Path, new: Path) -> None:
    """Let the addresses in a store, which are absolute, lead to the files in another folder."""
    with closing(sqlite3.connect(database)) as connection:
        script = "\n".join(connection.iterdump())
    database.unlink()
    with closing(sqlite3.connect(database)) as connection:
        connection.executescript(script.replace(f"{old}/", f"{new}/"))


def copy_small_project(target: Path) -> Project:
    """A copy with params for a quick run: drawn photos from a folder next to it, small images, few epochs.

    Its network is one whose loss falls from the first epoch on, so that each number of epochs is a result of its own.
    """
    photos = target.with_name(f"{target.name}-photos")
    draw_photos(photos)
    project = copy_project(target)
    project.set_params(
        acquire__source="folder",
        acquire__folder=str(photos),
        acquire__layout={"label_from": "folder", "table": None, "subset_folders": {}},
        augment__rotation_degrees=[],
        train__network="keras_mnist_cnn",
        train__epochs=3,
        train__early_stopping_patience=3,
        train__batch_size=8,
        explain__examples=2,
        explain__robustness={"photos": 4, "scribbles": [20], "noise": [], "blur": [], "rotation": [], "jpeg": []},
    )
    project.commit("Use drawn photos")
    return project
