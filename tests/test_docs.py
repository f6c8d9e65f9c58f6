"""The documentation is correct: commands, links and file trees of the pages, and a comment for every param."""

import importlib.util
import json
import re
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from dvc.cli import parse_args
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap

from commands.command_line import APP
from darkroom.params.recipes import list_recipes
from tests.figures import FIGURES, FOLDER, LARGEST_FILE, SOURCES, digest_sources
from tests.imports import CODE, ROOT
from tests.test_words import find_dialect

MANUAL = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("docs/*.md"))
PAGES = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md", *MANUAL)
README_LINES = 160
BLOCK = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
# Modules that several commands share.
UNNAMED = {"__init__.py", "__main__.py", "extras.py", "inflation_runs.py", "text_table.py"}
TARGETS = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def commands(page: str) -> list[list[str]]:
    """The words of each command in the console blocks of a page, without comments."""
    blocks = re.findall(r"```console\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    lines = [line.removeprefix("$ ") for block in blocks for line in block.splitlines() if line.startswith("$ ")]
    return [shlex.split(line, comments=True) for line in lines]


ALL_COMMANDS = [command for page in PAGES for command in commands(page)]


def test_the_first_commands_of_the_readme_are_the_two_of_make() -> None:
    assert commands("README.md")[:2] == [["make", "run"], ["make", "test"]]


@pytest.mark.parametrize("command", [words for words in ALL_COMMANDS if words[0] == "make"], ids=" ".join)
def test_make_has_the_target(command: list[str]) -> None:
    assert set(command[1:]) <= TARGETS


@pytest.mark.parametrize("command", [words for words in ALL_COMMANDS if words[0] == "dvc"], ids=" ".join)
def test_dvc_accepts_the_command(command: list[str]) -> None:
    parse_args(command[1:])


@pytest.mark.parametrize("command", [words for words in ALL_COMMANDS if words[:2] == ["python", "-m"]], ids=" ".join)
def test_python_finds_the_module(command: list[str]) -> None:
    found = subprocess.run(
        [sys.executable, "-c", f"import importlib.util as u, sys; sys.exit(u.find_spec({command[2]!r}) is None)"],
        cwd=ROOT,
        check=False,
    )
    assert found.returncode == 0


@pytest.mark.parametrize("command", [words for words in ALL_COMMANDS if words[0] == "darkroom"], ids=" ".join)
def test_darkroom_accepts_the_command(command: list[str]) -> None:
    group = typer.main.get_group(APP)
    if command[1].startswith("-"):
        assert command[1] in {name for option in group.get_params(typer.Context(group)) for name in option.opts}
        return
    name, _, arguments = group.resolve_command(typer.Context(group), command[1:])
    assert name is not None
    group.commands[name].make_context(name, list(arguments))


@pytest.mark.parametrize("command", [words for words in ALL_COMMANDS if words[0] in ("cp", "source")], ids=" ".join)
def test_the_file_of_the_command_exists(command: list[str]) -> None:
    assert (ROOT / command[1]).exists() or command[1].startswith(".venv/")


def test_there_are_no_other_commands() -> None:
    # An environment variable may precede a command.
    first = {next(word for word in words if "=" not in word) for words in ALL_COMMANDS}
    assert first <= {"make", "dvc", "darkroom", "python", "cp", "source", "git", "mlflow"}


def test_the_tree_of_the_readme_names_existing_files_and_all_folders() -> None:
    tree = (ROOT / "README.md").read_text().split("## What is where")[1].split("```")[1]
    named = {line.split()[0] for line in tree.splitlines()[1:]}
    assert {name for name in named if not (ROOT / name).exists()} == set()
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    folders = {f"{file.split('/')[0]}/" for file in tracked.splitlines() if "/" in file and not file.startswith(".")}
    assert folders <= named


def test_the_tree_of_the_architecture_names_every_stage_command_and_package() -> None:
    tree = (ROOT / "ARCHITECTURE.md").read_text().split("```")[1]
    for folder in CODE:
        for path in sorted((ROOT / folder).iterdir()):
            if any(path.rglob("*.py")):
                assert f"  {path.name}/ " in tree
            elif path.suffix == ".py" and path.name not in UNNAMED:
                assert path.name in tree


def prose(page: str) -> str:
    """The text of a page without its code blocks."""
    return BLOCK.sub("", (ROOT / page).read_text())


def list_anchors(page: str) -> set[str]:
    """The anchors of the headings of a page that GitHub and MkDocs agree on."""
    headings = [heading.lower() for heading in re.findall(r"^#+ (.+)", prose(page), re.MULTILINE)]
    github = [re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in headings]
    mkdocs = [re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip()) for heading in headings]
    return {
        anchor for anchor, other in zip(github, mkdocs, strict=True) if anchor == other and github.count(anchor) == 1
    }


def list_links(page: str) -> list[tuple[str, str]]:
    """The links of a page to files of the project: path from the root, and anchor or ""."""
    folder = (ROOT / page).parent
    links = []
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", prose(page)):
        path, _, anchor = link.partition("#")
        target = (folder / path).resolve() if path else ROOT / page
        links.append((target.relative_to(ROOT).as_posix(), anchor))
    return links


@pytest.mark.parametrize("page", PAGES)
def test_links_and_named_files_exist(page: str) -> None:
    links = list_links(page)
    named = re.findall(
        r"`((?:tests|recipes|stages|commands|darkroom|benchmarks|docs)/[\w/.]+)`", (ROOT / page).read_text()
    )
    assert [path for path in (*(path for path, _ in links), *named) if not (ROOT / path).exists()] == []
    assert [f"{path}#{anchor}" for path, anchor in links if anchor and anchor not in list_anchors(path)] == []


@pytest.mark.parametrize("page", [*MANUAL, "benchmarks/README.md"])
def test_the_readme_links_to_every_page(page: str) -> None:
    assert page in {path for path, _ in list_links("README.md")}


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= README_LINES


@pytest.mark.parametrize("page", PAGES)
def test_pages_use_the_terms_of_the_field(page: str) -> None:
    assert find_dialect(re.sub(r"`[^`]*`", "", prose(page))) == []


@pytest.mark.parametrize("recipe", list_recipes(ROOT / "recipes"))
def test_every_recipe_is_in_the_manual(recipe: str) -> None:
    assert f"`{recipe}`" in (ROOT / "docs/recipes.md").read_text()


def read_param_tables() -> Iterator[tuple[str, str]]:
    """Each param in a table of params of the manual, and its default as the table writes it."""
    for page in MANUAL:
        for table in re.findall(r"^\| param \|.*\n\|---.*\n((?:\|.*\n)+)", (ROOT / page).read_text(), re.MULTILINE):
            for row in table.splitlines():
                names, _, default, *_ = row.removeprefix("| ").split(" | ")
                yield from ((name, default.strip("`")) for name in re.findall(r"`([^`]+)`", names))


def read_defaults() -> dict[str, object]:
    """Each param of recipes/base.yaml and its value."""

    def walk(params: dict[str, object], prefix: str) -> Iterator[tuple[str, object]]:
        for key, value in params.items():
            if isinstance(value, dict) and value:
                yield from walk(value, f"{prefix}{key}.")
            else:
                yield f"{prefix}{key}", value

    return dict(walk(YAML(typ="safe").load(ROOT / "recipes/base.yaml"), ""))


def test_every_param_is_in_one_table_with_its_default() -> None:
    described = list(read_param_tables())
    assert Counter(name for name, _ in described) == Counter(list(read_defaults()))
    assert {name: YAML(typ="safe").load(default) for name, default in described} == read_defaults()


def test_every_figure_is_drawn_and_shown() -> None:
    assert {path.stem for path in FOLDER.glob("*.png")} == set(FIGURES)
    assert max(path.stat().st_size for path in FOLDER.glob("*.png")) < LARGEST_FILE
    shown = {Path(path) for page in PAGES for path, _ in list_links(page)}
    assert {path for path in FOLDER.glob("*.png") if path.relative_to(ROOT) not in shown} == set()


@pytest.mark.parametrize("name", FIGURES)
def test_the_figure_is_up_to_date(name: str) -> None:
    drawn = json.loads(SOURCES.read_text())
    changed = ", ".join(FIGURES[name].sources)
    assert drawn.get(name) == digest_sources(FIGURES[name]), f"out of date ({changed}): run make figures"


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="mkdocs is not installed")
def test_the_site_is_built_without_warnings_and_loads_nothing_from_other_hosts(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    for page in tmp_path.rglob("*.html"):
        assert re.findall(r"<(?:script|link|img)\b[^>]*(?:https?:)?//[^>]*", page.read_text()) == []


def explained_params(recipe: Path) -> Iterator[tuple[str, str]]:
    """The dotted name of each param and the comment on its line, without blocks of params."""
    text = recipe.read_text().splitlines()

    def walk(params: CommentedMap, prefix: str) -> Iterator[tuple[str, str]]:
        for key, value in params.items():
            if isinstance(value, CommentedMap) and key != "classes":
                yield from walk(value, f"{prefix}{key}.")
            else:
                yield f"{prefix}{key}", text[params.lc.key(key)[0]].partition("#")[2].strip()

    yield from walk(YAML().load(recipe), "")


def test_every_param_is_explained() -> None:
    explained = dict(explained_params(ROOT / "recipes/base.yaml"))
    assert [name for name, comment in explained.items() if len(comment) < 8] == []


def test_make_help_explains_every_target() -> None:
    shown = subprocess.run(
        ["make", "--no-print-directory", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert {line.split()[1] for line in shown.splitlines()} == TARGETS
    assert all(len(line.split()) > 4 for line in shown.splitlines())


def test_lock_files_have_versions_and_hashes_but_no_urls() -> None:
    for name in ("requirements.lock", *(f"requirements-{group}.lock" for group in ("extras", "dev", "installer"))):
        text = (ROOT / name).read_text()
        assert "--hash=sha256:" in text
        assert not re.search(r"https?://|file:|--index|--find-links", text)
        for requirement in re.findall(r"^[a-z].*", text, re.MULTILINE):
            assert "==" in requirement
