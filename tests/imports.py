"""Finds the imports of this project's modules, from their source for the tests of dvc.yaml, or by importing them."""

import ast
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
CODE = ("stages", "commands", "darkroom")
MODULE_PATH = re.compile(r"(stages|commands|darkroom)/[\w/]+\.py")


def reached_modules(module: Path, top_level: bool = False) -> set[Path]:
    """The project's modules that running `module` can load, including itself, relative to the root.

    With `top_level`, only those that importing `module` loads; otherwise imports inside functions count too. Parent
    packages are included, and modules that are named by their path, as MLflow requires it. Empty files are left out,
    because they cannot change a result.
    """
    reached: set[Path] = set()
    waiting = [module, *module_files(".".join(module.with_suffix("").parts))]
    while waiting:
        current = waiting.pop()
        if current not in reached:
            reached.add(current)
            waiting += direct_imports(current, top_level)
    return {path for path in reached if (ROOT / path).stat().st_size}


def direct_imports(module: Path, top_level: bool) -> set[Path]:
    """The project's modules that `module` itself imports; with `top_level`, without imports inside functions."""
    tree = ast.parse((ROOT / module).read_text())
    found: set[Path] = set()
    for node in tree.body if top_level else ast.walk(tree):
        match node:
            case ast.Import(names=names):
                found |= {path for name in names for path in module_files(name.name)}
            case ast.ImportFrom(level=level) if level:
                raise AssertionError(f"{module}: relative imports are not supported here")
            case ast.ImportFrom(module=str(package), names=names):
                found |= {path for name in names for path in module_files(f"{package}.{name.name}")}
                found |= module_files(package)
            case ast.Constant(value=str(value)) if MODULE_PATH.fullmatch(value):
                found.add(Path(value))
    return found


def module_files(dotted: str) -> set[Path]:
    """The files of this project that importing a dotted name loads: the module and its parent packages."""
    parts = dotted.split(".")
    if parts[0] not in CODE:
        return set()
    candidates = [Path(*parts[:depth], "__init__.py") for depth in range(1, len(parts) + 1)]
    candidates.append(Path(*parts).with_suffix(".py"))
    return {path for path in candidates if (ROOT / path).is_file()}


def read_sections(module: Path) -> set[str]:
    """The sections of params.yaml that a stage reads."""
    return {
        node.args[0].value
        for node in ast.walk(ast.parse((ROOT / module).read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "read_params"
        and isinstance(node.args[0], ast.Constant)
    }


def loaded_modules(module: str) -> set[str]:
    """The names of all modules that a new process has loaded after importing this one."""
    script = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())
