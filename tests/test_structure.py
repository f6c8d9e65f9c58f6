"""The structure that ARCHITECTURE.md describes: small folders by subject, imports of lower layers only, no cycles."""

from tests.structure import LAYER_OF, count_modules, find_package, list_cycles, list_imports, list_modules, list_upward

MOST_MODULES = 16


def test_no_folder_has_too_many_modules() -> None:
    assert {folder: count for folder, count in count_modules().items() if count > MOST_MODULES} == {}


def test_every_package_has_a_layer() -> None:
    assert {find_package(module) for module in list_modules()} == set(LAYER_OF)


def test_imports_only_go_to_lower_layers() -> None:
    assert list_upward(list_imports()) == []


def test_there_are_no_import_cycles() -> None:
    assert list_cycles() == []
