"""How this project's code is built: modules per folder, and which package imports which.

Run as  python -m tests.structure
"""

from collections import Counter
from pathlib import Path

from tests.imports import CODE, ROOT, direct_imports

# From the bottom to the top: what stands in one line may import what stands in the lines before it.
FLOORS = (
    ("darkroom",),
    ("darkroom/pipeline",),
    ("darkroom/contact_sheet", "darkroom/photos", "darkroom/tracking"),
    ("darkroom/params",),
    ("darkroom/models", "darkroom/serving"),
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
FLOOR_OF = {package: floor for floor, packages in enumerate(FLOORS) for package in packages}

Arrow = tuple[str, str]


def list_modules() -> list[Path]:
    """All modules with code in them, relative to the root."""
    files = (path for folder in CODE for path in (ROOT / folder).rglob("*.py"))
    return sorted(path.relative_to(ROOT) for path in files if path.stat().st_size)


def find_package(module: Path) -> str:
    """The package of a module, as FLOORS names it: stages, commands, or what lies in darkroom/."""
    name = module.parent if module.name == "__init__.py" else module.with_suffix("")
    return "/".join(name.parts[:2] if name.parts[0] == "darkroom" else name.parts[:1])


def list_arrows() -> dict[Arrow, list[tuple[Path, Path]]]:
    """For each package and another that it imports, the pairs of modules that do; imports in functions count too."""
    arrows: dict[Arrow, list[tuple[Path, Path]]] = {}
    for module in list_modules():
        for imported in sorted(direct_imports(module, top_level=False)):
            arrow = find_package(module), find_package(imported)
            # Python loads the packages that an imported module lies in before it; darkroom is one of all others.
            if arrow[0] != arrow[1] and imported != Path("darkroom/__init__.py"):
                arrows.setdefault(arrow, []).append((module, imported))
    return arrows


def list_upward(arrows: dict[Arrow, list[tuple[Path, Path]]]) -> list[tuple[Path, Path]]:
    """The imports that do not go down to a lower floor."""
    return [
        pair for (source, target), pairs in arrows.items() if FLOOR_OF[target] >= FLOOR_OF[source] for pair in pairs
    ]


def list_circles() -> list[list[Path]]:
    """Modules that import themselves, directly or not: each circle once."""
    imports: dict[Path, list[Path]] = {}
    for module in list_modules():
        # Python loads the packages that a module lies in before it; that is no import of theirs.
        around = {package / "__init__.py" for package in module.parents}
        imports[module] = sorted(direct_imports(module, top_level=False) - around)
    circles: dict[frozenset[Path], list[Path]] = {}
    done: set[Path] = set()

    def follow(module: Path, way: list[Path]) -> None:
        if module in way:
            circle = way[way.index(module) :]
            circles.setdefault(frozenset(circle), circle)
        elif module not in done:
            for imported in imports.get(module, []):
                follow(imported, [*way, module])
            done.add(module)

    for module in imports:
        follow(module, [])
    return list(circles.values())


def count_modules() -> Counter[str]:
    """How many modules lie in each folder itself, without those in folders below it."""
    return Counter(module.parent.as_posix() for module in list_modules())


if __name__ == "__main__":
    for folder, count in sorted(count_modules().items()):
        print(f"{count:4}  {folder}")
    arrows = list_arrows()
    for source, target in sorted(arrows):
        print(f"      {source} -> {target}")
    print(
        f"{len(list_modules())} modules, {len(arrows)} arrows between {len(FLOOR_OF)} packages, "
        f"{len(list_upward(arrows))} upward imports, {len(list_circles())} circles"
    )
