"""The code is built as ARCHITECTURE.md says: small folders by subject, imports that go down, no circles."""

from tests.structure import FLOOR_OF, count_modules, find_package, list_arrows, list_circles, list_modules, list_upward

MOST_MODULES = 16


def test_no_folder_holds_too_many_modules() -> None:
    assert {folder: count for folder, count in count_modules().items() if count > MOST_MODULES} == {}


def test_every_package_has_its_floor() -> None:
    assert {find_package(module) for module in list_modules()} == set(FLOOR_OF)


def test_no_import_goes_up() -> None:
    assert list_upward(list_arrows()) == []


def test_no_module_imports_itself_by_a_detour() -> None:
    assert list_circles() == []
