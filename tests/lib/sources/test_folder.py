from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.lib.files import write_bytes
from stages.lib.sources.folder import list_folder
from stages.lib.stage import StageError


def fill(folder: Path, *files: str) -> Path:
    for file in files:
        write_bytes(folder / file, file.encode())
    return folder


def test_every_folder_is_a_class_and_every_file_a_photo(drawn_photos: Path) -> None:
    candidates = list(list_folder(drawn_photos, {}))
    assert [(candidate.photo, candidate.label) for candidate in candidates] == [
        (f"{label}-{number:03d}", label) for label in ("circle", "square", "triangle") for number in range(12)
    ]
    assert {candidate.source for candidate in candidates} == {"folder"}
    assert candidates[0].read() == (drawn_photos / "circle/000.png").read_bytes()


def test_classes_choose_folders_and_give_them_labels(drawn_photos: Path) -> None:
    candidates = list(list_folder(drawn_photos, {"round": "circle", "pointed": "triangle"}))
    assert {(candidate.label, candidate.photo) for candidate in candidates} == {
        (label, f"{label}-{number:03d}") for label in ("round", "pointed") for number in range(12)
    }


def test_one_folder_may_be_left_out_of_the_classes(drawn_photos: Path) -> None:
    assert {candidate.label for candidate in list_folder(drawn_photos, {"square": "square"})} == {"square"}


def test_files_that_differ_in_their_endings_only_keep_them(tmp_path: Path) -> None:
    fill(tmp_path, "cat/1.jpg", "cat/1.png", "cat/2.jpg")
    assert [candidate.photo for candidate in list_folder(tmp_path, {})] == ["cat-1.jpg", "cat-1.png", "cat-2"]


def test_folders_below_a_class_are_part_of_it(tmp_path: Path) -> None:
    fill(tmp_path, "cat/1.jpg", "cat/inner/1.jpg", "cat/inner-1.jpg")
    photos = [candidate.photo for candidate in list_folder(tmp_path, {})]
    assert sorted(photos) == ["cat-1", "cat-inner-1.jpg", "cat-inner-1.jpg"]


def test_what_is_hidden_and_what_systems_leave_behind_is_passed_over(tmp_path: Path) -> None:
    fill(tmp_path, "cat/1.jpg", "cat/.DS_Store", "cat/Thumbs.db", "cat/.git/2.jpg", ".git/config", "readme.txt")
    assert [candidate.photo for candidate in list_folder(tmp_path, {})] == ["cat-1"]


def test_the_order_is_that_of_the_names(tmp_path: Path) -> None:
    fill(tmp_path, "b/2.jpg", "b/10.jpg", "a/x.jpg")
    assert [candidate.photo for candidate in list_folder(tmp_path, {})] == ["a-x", "b-10", "b-2"]


@given(st.sets(st.text("a.", min_size=1, max_size=6).filter(lambda name: not name.startswith(".")), min_size=1))
@settings(deadline=None, max_examples=50)
def test_no_two_files_of_a_class_are_the_same_photo(tmp_path_factory: pytest.TempPathFactory, names: set[str]) -> None:
    folder = fill(tmp_path_factory.mktemp("photos"), *(f"cat/{name}" for name in names))
    photos = [candidate.photo for candidate in list_folder(folder, {})]
    assert len(photos) == len(set(photos)) == len(names)


def test_an_ending_inside_a_name_does_not_make_two_photos_one(tmp_path: Path) -> None:
    fill(tmp_path, "cat/1.jpg", "cat/1.png", "cat/1.jpg.png")
    photos = [candidate.photo for candidate in list_folder(tmp_path, {})]
    assert len(photos) == len(set(photos)) == 3


class TestFaults:
    def test_a_folder_that_does_not_exist_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(StageError) as caught:
            list(list_folder(tmp_path / "nowhere", {}))
        assert str(caught.value) == (
            f"acquire.folder: expected a folder with a folder per class, but '{tmp_path}/nowhere' does not exist"
        )

    def test_a_file_is_refused(self, tmp_path: Path) -> None:
        fill(tmp_path, "photos.zip")
        with pytest.raises(StageError, match=r"but '.*/photos.zip' is a file$"):
            list(list_folder(tmp_path / "photos.zip", {}))

    def test_a_folder_without_folders_is_refused(self, tmp_path: Path) -> None:
        fill(tmp_path, "1.jpg", ".git/config")
        with pytest.raises(StageError) as caught:
            list(list_folder(tmp_path, {}))
        assert str(caught.value) == (
            f"acquire.folder: '{tmp_path}' has no folders in it; put the photos of each class into a folder of the "
            "class's name"
        )

    def test_a_class_without_a_folder_is_refused(self, drawn_photos: Path) -> None:
        with pytest.raises(StageError) as caught:
            list(list_folder(drawn_photos, {"round": "circle", "oval": "ellipse", "flat": "line"}))
        assert str(caught.value) == (
            f"acquire.classes: '{drawn_photos}' has no folder ellipse, line; it has circle, square, triangle"
        )

    def test_a_class_folder_without_files_is_refused(self, drawn_photos: Path) -> None:
        (drawn_photos / "star").mkdir()
        with pytest.raises(StageError) as caught:
            list(list_folder(drawn_photos, {}))
        assert str(caught.value) == (
            f"acquire.folder: the class folder '{drawn_photos}/star' has no files; add photos or remove it"
        )
