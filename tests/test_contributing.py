"""The steps of CONTRIBUTING.md are complete: a network and a source that are added by following them work."""

import json
import re
from pathlib import Path

import pytest

from tests.imports import ROOT
from tests.project import Project, copy_project, executed_stages

pytestmark = pytest.mark.slow

NETWORK = """

def toy_cnn(filters: Sequence[int] = (4,), kernel_size: int = 3) -> Layers:
    return [*make_convolution(filters[0], kernel_size, 1, "same", "relu", False), layers.GlobalAveragePooling2D()]
"""
SOURCE = '''"""Squares of two shades."""

import io

from PIL import Image

from darkroom.acquisition.candidate import Candidate, Listing
from darkroom.acquisition.sources.source import ListedSource


def draw(shade: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (16, 16), shade).save(file, "PNG")
    return file.getvalue()


def list_squares() -> Listing:
    shades = {"dark": range(0, 60, 3), "light": range(190, 250, 3)}
    return Listing(
        {
            label: [
                Candidate(f"{label}-{shade}", label, lambda _maximum_bytes, shade=shade: draw(shade), "squares")
                for shade in values
            ]
            for label, values in shades.items()
        }
    )


SOURCE = ListedSource(
    list_photos=lambda _params, _ledger, _clock: list_squares(),
    notice="Squares are free.",
    credit_line="Squares drawn for this test.",
)
'''


class Copy:
    """A copy of the project, changed by following a section of CONTRIBUTING.md."""

    def __init__(self, project: Project, section: str) -> None:
        self.project = project
        text = (ROOT / "CONTRIBUTING.md").read_text().partition(f"## {section}\n")[2].partition("\n## ")[0]
        self.named = set(re.findall(r"`([\w/.]+)`", text))
        self.touched: set[str] = set()

    def edit(self, file: str, before: str, after: str) -> None:
        self.touched.add(file)
        path = self.project.root / file
        text = path.read_text()
        assert text.count(before) == 1
        path.write_text(text.replace(before, after))

    def append(self, file: str, text: str) -> None:
        self.touched.add(file)
        path = self.project.root / file
        path.write_text((path.read_text() if path.exists() else "") + text)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = copy_project(tmp_path_factory.mktemp("contributing") / "project")
    project.forks = True
    return project


@pytest.fixture(scope="module")
def with_source(project: Project) -> Copy:
    copy = Copy(project, "Add a source of photos")
    copy.append("darkroom/acquisition/sources/flickr.py", SOURCE)
    table = "darkroom/acquisition/sources/opening.py"
    copy.edit(table, '    "digits": digits.SOURCE,\n', '    "digits": digits.SOURCE,\n    "squares": flickr.SOURCE,\n')
    copy.edit(table, "import cifar10, digits, folder", "import cifar10, digits, flickr, folder")
    copy.edit(
        "darkroom/params/acquire.py",
        '    "digits": SourceSchema(),\n',
        '    "digits": SourceSchema(),\n    "squares": SourceSchema(),\n',
    )
    return copy


@pytest.fixture(scope="module")
def with_network(project: Project) -> Copy:
    copy = Copy(project, "Add a network that is trained from scratch")
    copy.append("darkroom/training/networks/cnn.py", NETWORK)
    copy.edit(
        "darkroom/training/networks/__init__.py",
        '    "sigmoid_cnn": FromScratch(cnn.sigmoid_cnn),\n',
        '    "sigmoid_cnn": FromScratch(cnn.sigmoid_cnn),\n    "toy_cnn": FromScratch(cnn.toy_cnn),\n',
    )
    copy.edit("darkroom/params/train.py", '"sigmoid_cnn", "cats_dogs_cnn"', '"sigmoid_cnn", "toy_cnn", "cats_dogs_cnn"')
    return copy


def test_the_steps_name_every_changed_file(with_source: Copy, with_network: Copy) -> None:
    for copy in (with_source, with_network):
        assert {file for file in copy.touched if not {file, f"{Path(file).parent}/"} & copy.named} == set()


def test_the_new_source_and_the_new_network_work(project: Project, with_source: Copy, with_network: Copy) -> None:
    assert with_source.project is with_network.project is project
    settings = {"acquire.source": "squares", "acquire.minimum_side": 1, "train.network": "toy_cnn", "train.epochs": 1}
    changes = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    project.run("python", "-m", "commands", "recipe", "digits", *changes, "--force")
    done = project.dvc("repro", "train")
    assert executed_stages(done) == ["acquire", "augment", "split", "train"]
    assert "acquire: Squares are free." in done.stdout
    assert "Squares drawn for this test." in (project.root / "data/acquire/CREDITS.md").read_text()
    assert json.loads((project.root / "metrics/acquire.json").read_text())["photos_accepted"] == 40
    # 3 x 3 weights and a bias for each of 4 filters, and 4 weights and a bias for each of 2 classes.
    assert json.loads((project.root / "metrics/train.json").read_text())["parameters"] == 4 * (9 + 1) + 2 * (4 + 1)


def test_a_misspelled_network_gets_the_new_one_as_a_suggestion(project: Project, with_network: Copy) -> None:
    assert with_network.touched
    done = project.run("python", "-m", "commands", "recipe", "digits", "--set", "train.network=toy_cn", check=False)
    assert done.returncode == 1
    assert "did you mean toy_cnn?" in done.stderr
