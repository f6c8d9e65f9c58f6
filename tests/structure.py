"""The structure of this project's code: modules per folder, and imports between packages.

Run as  python -m tests.structure
"""

from collections import Counter
from pathlib import Path

from tests.imports import CODE, ROOT, direct_imports

# From bottom to top: the packages of a layer may import those of the layers before it.
LAYERS = (
    ("darkroom",),
    ("darkroom/pipeline", "darkroom/version"),
    ("darkroom/contact_sheet", "darkroom/photos", "darkroom/tracking"),
    ("darkroom/params",),
    ("darkroom/models",),
    ("darkroom/serving",),
    ("darkroom/scores",),
    ("darkroom/runs",),
    (
        "darkroom/acquisition",
        "darkroom/splitting",
        "darkroom/training",
        "darkroom/evaluation",
        "darkroom/explanation",
        "darkroom/recording",
    ),
    ("stages", "commands"),
)
LAYER_OF = {package: layer for layer, packages in enumerate(LAYERS) for package in packages}

PackagePair = tuple[str, str]  # a package, and another one that it imports


def list_modules() -> list[Path]:
    """All modules that are not empty, relative to the root."""
    files = (path for folder in CODE for path in (ROOT / folder).rglob("*.py"))
    return sorted(path.relative_to(ROOT) for path in files if path.stat().st_size)


def find_package(module: Path) -> str:
    """The package of a module, as named in LAYERS: stages, commands, or a package or module in darkroom/."""
    name = module.parent if module.name == "__init__.py" else module.with_suffix("")
    return "/".join(name.parts[:2] if name.parts[0] == "darkroom" else name.parts[:1])


def list_imports() -> dict[PackagePair, list[tuple[Path, Path]]]:
    """For each package and another one that it imports, the pairs of modules; imports in functions count too."""
    imports: dict[PackagePair, list[tuple[Path, Path]]] = {}
    for module in list_modules():
        for imported in sorted(direct_imports(module, top_level=False)):
            packages = find_package(module), find_package(imported)
            # Python loads the parent packages of a module first; darkroom is a parent of all others.
            if packages[0] != packages[1] and imported != Path("darkroom/__init__.py"):
                imports.setdefault(packages, []).append((module, imported))
    return imports


def list_upward(imports: dict[PackagePair, list[tuple[Path, Path]]]) -> list[tuple[Path, Path]]:
    """The imports that do not go to a lower layer."""
    return [
        pair for (source, target), pairs in imports.items() if LAYER_OF[target] >= LAYER_OF[source] for pair in pairs
    ]


def list_cycles() -> list[list[Path]]:
    """Import cycles: modules that import themselves, directly or indirectly, each cycle once."""
    imports: dict[Path, list[Path]] = {}
    for module in list_modules():
        # Python loads the parent packages of a module first; these are not imports of the module.
        parents = {package / "__init__.py" for package in module.parents}
        imports[module] = sorted(direct_imports(module, top_level=False) - parents)
    cycles: dict[frozenset[Path], list[Path]] = {}
    done: set[Path] = set()

    def follow(module: Path, path: list[Path]) -> None:
        if module in path:
            cycle = path[path.index(module) :]
            cycles.setdefault(frozenset(cycle), cycle)
        elif module not in done:
            for imported in imports.get(module, []):
                follow(imported, [*path, module])
            done.add(module)

    for module in imports:
        follow(module, [])
    return list(cycles.values())


def count_modules() -> Counter[str]:
    """The number of modules in each folder, without those in folders below it."""
    return Counter(module.parent.as_posix() for module in list_modules())


if __name__ == "__main__":
    for folder, count in sorted(count_modules().items()):
        print(f"{count:4}  {folder}")
    imports = list_imports()
    for source, target in sorted(imports):
        print(f"      {source} -> {target}")
    print(
        f"{len(list_modules())} modules, {len(imports)} imports between {len(LAYER_OF)} packages, "
        f"{len(list_upward(imports))} upward imports, {len(list_cycles())} cycles"
    )
