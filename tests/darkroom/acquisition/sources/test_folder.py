import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darkroom.acquisition.candidate import Candidate, Listing, PhotoUnavailable
from darkroom.acquisition.sources.folder import list_folder
from darkroom.params.acquire import LabelFrom
from darkroom.pipeline.files import write_bytes
from darkroom.pipeline.stage import StageError
from tests.project import MATERIAL

needs_material = pytest.mark.skipif(not MATERIAL.is_dir(), reason=f"needs the real photos in {MATERIAL}")
LIMIT = 2_000_000
SUBSET_FOLDERS = {"train": "training", "validation": "validation"}


def fill(folder: Path, *files: str) -> Path:
    for file in files:
        write_bytes(folder / file, file.encode())
    return folder


def list_photos(
    folder: Path,
    classes: Mapping[str, str] | None = None,
    label_from: LabelFrom = "folder",
    subset_folders: Mapping[str, str] | None = None,
) -> Listing:
    return list_folder(folder, classes or {}, label_from, None, subset_folders or {})


def names(listing: Listing) -> dict[str, list[str]]:
    return {label: [candidate.photo for candidate in candidates] for label, candidates in listing.candidates.items()}


def counts(listing: Listing) -> dict[str, int]:
    return {label: len(photos) for label, photos in names(listing).items()}


def every(listing: Listing) -> list[Candidate]:
    return [candidate for candidates in listing.candidates.values() for candidate in candidates]


class TestClassFolders:
    def test_every_folder_is_a_class_and_every_file_a_photo(self, drawn_photos: Path) -> None:
        listing = list_photos(drawn_photos)
        assert names(listing) == {
            label: [f"{label}-{number:03d}" for number in range(12)] for label in ("circle", "square", "triangle")
        }
        assert {candidate.source for candidate in every(listing)} == {"folder"}
        assert {candidate.given_subset for candidate in every(listing)} == {""}
        assert all(candidate.label == label for label, some in listing.candidates.items() for candidate in some)
        assert every(listing)[0].read(LIMIT) == (drawn_photos / "circle/000.png").read_bytes()

    def test_classes_choose_folders_give_them_labels_and_set_their_order(self, drawn_photos: Path) -> None:
        listing = list_photos(drawn_photos, {"round": "circle", "pointed": "triangle"})
        assert list(names(listing).items()) == [
            (label, [f"{label}-{number:03d}" for number in range(12)]) for label in ("round", "pointed")
        ]

    def test_a_folder_that_no_class_chooses_may_be_empty(self, drawn_photos: Path) -> None:
        (drawn_photos / "star").mkdir()
        assert list(names(list_photos(drawn_photos, {"square": "square"}))) == ["square"]

    def test_files_that_differ_only_in_their_extensions_keep_them(self, tmp_path: Path) -> None:
        fill(tmp_path, "cat/1.jpg", "cat/1.png", "cat/2.jpg", "cat/3", "cat/4.")
        assert names(list_photos(tmp_path)) == {"cat": ["cat-1.jpg", "cat-1.png", "cat-2", "cat-3", "cat-4."]}

    def test_folders_below_a_class_are_part_of_the_photos_names(self, tmp_path: Path) -> None:
        fill(tmp_path, "cat/b.jpg", "cat/a/b/1.jpg", "cat/a/2.jpg")
        assert names(list_photos(tmp_path)) == {"cat": ["cat-a-2", "cat-a-b-1", "cat-b"]}

    def test_two_files_that_would_be_one_photo_get_different_names(self, tmp_path: Path) -> None:
        fill(tmp_path, "cat/1.jpg", "cat/big/1.jpg", "cat/big-1.jpg", "cat-big/1.jpg", "cat-big/2.jpg")
        listing = list_photos(tmp_path)
        assert names(listing) == {
            "cat": ["cat-1", "cat-big-1.jpg", "cat-big-1.jpg~"],
            "cat-big": ["cat-big-1", "cat-big-2"],
        }
        assert [candidate.read(LIMIT) for candidate in listing.candidates["cat"]] == [
            b"cat/1.jpg",
            b"cat/big/1.jpg",
            b"cat/big-1.jpg",
        ]

    def test_two_classes_that_would_share_a_photo_name_get_different_names(self, tmp_path: Path) -> None:
        fill(tmp_path, "cat/big/1.jpg", "cat-big/1.jpg")
        assert names(list_photos(tmp_path)) == {"cat": ["cat-big-1"], "cat-big": ["cat-big-1~"]}

    def test_the_order_is_that_of_the_paths_as_text(self, tmp_path: Path) -> None:
        fill(tmp_path, "b/2.jpg", "b/10.jpg", "b/1-a.jpg", "b/1/z.jpg", "a/x.jpg")
        assert names(list_photos(tmp_path)) == {"a": ["a-x"], "b": ["b-1-z", "b-1-a", "b-10", "b-2"]}

    @given(
        st.sets(
            st.lists(st.text("ab.-", min_size=1, max_size=4).filter(lambda part: part[0] != "."), min_size=2).map(
                lambda parts: "/".join(parts[:3])
            ),
            min_size=1,
        )
    )
    @settings(deadline=None, max_examples=50)
    def test_no_two_files_are_the_same_photo(self, tmp_path_factory: pytest.TempPathFactory, files: set[str]) -> None:
        # A file's path cannot be another one's folder, too.
        files = {file for file in files if not any(other.startswith(f"{file}/") for other in files)}
        listing = list_photos(fill(tmp_path_factory.mktemp("photos"), *files))
        assert len({candidate.photo for candidate in every(listing)}) == len(files)
        assert {candidate.read(LIMIT).decode() for candidate in every(listing)} == files


class TestFileNames:
    @pytest.mark.parametrize(
        "file",
        [
            "cat.0.jpg",
            "cat_0.jpg",
            "cat-0.jpg",
            "cat 0.jpg",
            "cat (1).jpg",
            "cat(1).jpg",
            "cat0001.jpg",
            "cat_0",
            "cat.black.0.jpg",
            "cat_black.jpg",
        ],
    )
    def test_the_class_is_the_first_part_of_the_name(self, tmp_path: Path, file: str) -> None:
        assert list(names(list_photos(fill(tmp_path, file), label_from="file_name"))) == ["cat"]

    def test_letters_of_any_script_make_a_class(self, tmp_path: Path) -> None:
        fill(tmp_path, "Kätzchen_1.jpg", "猫.1.jpg")
        assert list(names(list_photos(tmp_path, label_from="file_name"))) == ["Kätzchen", "猫"]

    def test_a_name_that_is_only_a_class_counts_where_the_class_is_known(self, tmp_path: Path) -> None:
        fill(tmp_path, "cat.jpg", "cat (1).jpg", "dog.jpg", "README.md")
        listing = list_photos(tmp_path, label_from="file_name")
        assert (names(listing), listing.files_skipped) == ({"cat": ["cat-cat (1)", "cat-cat"]}, 2)
        listing = list_photos(tmp_path, {"feline": "cat", "canine": "dog"}, "file_name")
        assert names(listing) == {"feline": ["feline-cat (1)", "feline-cat"], "canine": ["canine-dog"]}
        assert listing.files_skipped == 1

    def test_files_without_a_class_are_skipped_and_counted(self, tmp_path: Path) -> None:
        fill(tmp_path, "cat.0.jpg", "0001.jpg", "_cat.jpg", "(1) cat.jpg", ".cat.1.jpg")
        listing = list_photos(tmp_path, label_from="file_name")
        assert (names(listing), listing.files_skipped) == ({"cat": ["cat-cat.0"]}, 4)

    def test_folders_change_the_name_but_not_the_class(self, tmp_path: Path) -> None:
        fill(tmp_path, "cat.1.jpg", "old/cat.1.jpg", "old/dog.1.jpg", "cat.2.jpg", "cat.10.jpg")
        assert names(list_photos(tmp_path, label_from="file_name")) == {
            "cat": ["cat-cat.1", "cat-cat.10", "cat-cat.2", "cat-old-cat.1"],
            "dog": ["dog-old-dog.1"],
        }

    def test_a_class_that_is_not_chosen_is_left_out_and_not_counted(self, tmp_path: Path) -> None:
        fill(tmp_path, "cat.1.jpg", "dog.1.jpg")
        listing = list_photos(tmp_path, {"canine": "dog"}, "file_name")
        assert (names(listing), listing.files_skipped) == ({"canine": ["canine-dog.1"]}, 0)

    def test_a_folder_without_class_names_in_file_names_is_refused(self, tmp_path: Path) -> None:
        fill(tmp_path, "0001.jpg", "0002.jpg", "0003.jpg", "0004.jpg", "0005.jpg")
        with pytest.raises(StageError) as caught:
            list_photos(tmp_path, label_from="file_name")
        assert str(caught.value) == (
            f"acquire.layout.label_from: no file name in '{tmp_path}' begins with a class; expected names such as "
            "cat.0.jpg or cat_0.jpg, got 0001.jpg, 0002.jpg, 0003.jpg and 2 more; rename the files, or write a "
            "table of files and labels and set label_from to table"
        )

    def test_a_class_that_no_name_begins_with_is_refused(self, tmp_path: Path) -> None:
        fill(tmp_path, "cat.1.jpg", "dog.1.jpg")
        with pytest.raises(StageError) as caught:
            list_photos(tmp_path, {"cat": "cat", "ferret": "ferret"}, "file_name")
        assert str(caught.value) == (
            f"acquire.classes: '{tmp_path}' has no file name that begins with ferret; it has cat, dog"
        )

    def test_many_classes_are_not_all_named_in_a_message(self, tmp_path: Path) -> None:
        fill(tmp_path, *(f"{chr(97 + number)}_1.jpg" for number in range(24)))
        with pytest.raises(StageError, match=r"it has a, b, .*, s, t and 4 more$"):
            list_photos(tmp_path, {"zebra": "z"}, "file_name")

    def test_a_folder_without_files_is_refused(self, tmp_path: Path) -> None:
        fill(tmp_path, ".DS_Store")
        with pytest.raises(StageError) as caught:
            list_photos(tmp_path, label_from="file_name")
        assert str(caught.value) == f"acquire.folder: '{tmp_path}' has no files; add photos"


class TestSubsetFolders:
    def test_each_has_class_folders_but_not_every_class(self, tmp_path: Path) -> None:
        fill(tmp_path, "training/cat/1.jpg", "training/dog/1.jpg", "validation/cat/1.jpg", "other/x/1.jpg", "a.txt")
        listing = list_photos(tmp_path, subset_folders=dict(reversed(SUBSET_FOLDERS.items())))
        assert [(candidate.photo, candidate.given_subset) for candidate in every(listing)] == [
            ("cat-train-1", "train"),
            ("cat-validation-1", "validation"),
            ("dog-train-1", "train"),
        ]
        assert every(listing)[1].read(LIMIT) == b"validation/cat/1.jpg"

    def test_each_has_files_named_after_their_class(self, tmp_path: Path) -> None:
        fill(tmp_path, "data/a/cat.1.jpg", "data/a/dog.1.jpg", "data/b/cat.1.jpg", "data/b/README.md")
        listing = list_photos(tmp_path, {}, "file_name", {"test": "data/b", "train": "data/a"})
        assert [(candidate.photo, candidate.given_subset) for candidate in every(listing)] == [
            ("cat-train-cat.1", "train"),
            ("cat-test-cat.1", "test"),
            ("dog-train-dog.1", "train"),
        ]
        assert listing.files_skipped == 1

    @pytest.mark.parametrize("name", ["missing", "../photos/training", "/tmp", "labels.txt"])
    def test_a_missing_folder_is_refused(self, tmp_path: Path, name: str) -> None:
        folder = fill(tmp_path / "photos", "training/cat/1.jpg", "validation/cat/1.jpg", "labels.txt")
        with pytest.raises(StageError) as caught:
            list_photos(folder, subset_folders={"train": "training", "test": name})
        assert str(caught.value) == (
            f"acquire.layout.subset_folders: '{folder}' has no folder {name} for test; it has training, validation"
        )

    @pytest.mark.parametrize(
        ("train", "test", "overlap"),
        [
            ("training", "training/", "train, 'training', overlaps that of test, 'training'"),
            ("training", "training/cat", "test, 'training/cat', overlaps that of train, 'training'"),
            (".", "training", "test, 'training', overlaps that of train, '.'"),
        ],
    )
    def test_folders_that_share_photos_are_refused(self, tmp_path: Path, train: str, test: str, overlap: str) -> None:
        fill(tmp_path, "training/cat/1.jpg")
        with pytest.raises(StageError) as caught:
            list_photos(tmp_path, subset_folders={"train": train, "test": test})
        assert str(caught.value) == (
            f"acquire.layout.subset_folders: the folder of {overlap}; expected separate folders"
        )

    def test_a_class_that_is_in_none_is_refused(self, tmp_path: Path) -> None:
        fill(tmp_path, "training/cat/1.jpg", "validation/dog/1.jpg")
        with pytest.raises(StageError) as caught:
            list_photos(tmp_path, {"cat": "cat", "ferret": "ferret"}, subset_folders=SUBSET_FOLDERS)
        assert str(caught.value) == f"acquire.classes: '{tmp_path}' has no folder ferret; it has cat, dog"

    def test_a_class_folder_without_files_is_refused(self, tmp_path: Path) -> None:
        fill(tmp_path, "training/cat/1.jpg", "validation/cat/.DS_Store")
        with pytest.raises(StageError, match=r"class folder '.*/validation/cat' has no files; add photos or"):
            list_photos(tmp_path, subset_folders=SUBSET_FOLDERS)

    def test_one_without_class_folders_is_refused(self, tmp_path: Path) -> None:
        fill(tmp_path, "training/cat/1.jpg", "validation/1.jpg")
        with pytest.raises(StageError, match=r"^acquire.folder: '.*/validation' contains no folders; put the photos"):
            list_photos(tmp_path, subset_folders=SUBSET_FOLDERS)


class TestSkipped:
    def test_hidden_files_system_files_and_files_beside_the_class_folders_are_counted(self, tmp_path: Path) -> None:
        fill(tmp_path, "cat/1.jpg", "cat/.DS_Store", "cat/Thumbs.db", "cat/in/desktop.ini", "cat/.git/2.jpg")
        fill(tmp_path, ".git/config", "readme.txt")
        listing = list_photos(tmp_path)
        assert (names(listing), listing.files_skipped) == ({"cat": ["cat-1"]}, 6)

    def test_a_pipe_and_a_socket_are_never_opened(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        fill(tmp_path, "cat/1.jpg")
        os.mkfifo(tmp_path / "cat/2.jpg")
        (tmp_path / "cat/3.jpg").symlink_to("2.jpg")
        monkeypatch.chdir(tmp_path / "cat")  # a socket's path must be short
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("4.jpg")
            listing = list_photos(tmp_path)
        assert (names(listing), listing.files_skipped) == ({"cat": ["cat-1"]}, 3)

    def test_a_link_to_a_folder_is_a_class_but_is_not_followed_below_one(self, tmp_path: Path) -> None:
        folder = fill(tmp_path / "photos", "cat/1.jpg", "cat/in/2.jpg")
        fill(tmp_path / "elsewhere", "3.jpg")
        (folder / "dog").symlink_to(tmp_path / "elsewhere")
        (folder / "cat/in/again").symlink_to(folder)
        listing = list_photos(folder)
        assert (names(listing), listing.files_skipped) == ({"cat": ["cat-1", "cat-in-2"], "dog": ["dog-3"]}, 1)


@contextmanager
def without_privileges() -> Iterator[None]:
    """Root may read every file; another user may not."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def reason(candidate: Candidate, maximum_bytes: int = LIMIT) -> str:
    with pytest.raises(PhotoUnavailable) as caught:
        candidate.read(maximum_bytes)
    return str(caught.value)


class TestReading:
    def test_a_file_as_large_as_allowed_is_read_and_a_larger_one_is_not(self, tmp_path: Path) -> None:
        write_bytes(tmp_path / "cat/1.jpg", b"12345")
        [candidate] = every(list_photos(tmp_path))
        assert candidate.read(5) == b"12345"
        assert reason(candidate, 4) == "larger than allowed: more than 4 bytes"

    def test_a_huge_file_is_refused_by_its_size(self, tmp_path: Path) -> None:
        fill(tmp_path, "cat/1.jpg")
        os.truncate(tmp_path / "cat/1.jpg", 1 << 40)  # 1 TiB of zeros, which must not be read
        assert reason(every(list_photos(tmp_path))[0]) == "larger than allowed: more than 2000000 bytes"

    def test_an_empty_file_is_read(self, tmp_path: Path) -> None:
        write_bytes(tmp_path / "cat/1.jpg", b"")
        assert every(list_photos(tmp_path))[0].read(LIMIT) == b""

    def test_a_link_to_a_file_outside_is_read(self, tmp_path: Path) -> None:
        fill(tmp_path, "photos/cat/1.jpg", "outside.jpg")
        (tmp_path / "photos/cat/2.jpg").symlink_to(tmp_path / "outside.jpg")
        assert every(list_photos(tmp_path / "photos"))[1].read(LIMIT) == b"outside.jpg"

    def test_broken_links_are_reported(self, tmp_path: Path) -> None:
        fill(tmp_path, "cat/1.jpg")
        (tmp_path / "cat/2.jpg").symlink_to("gone.jpg")
        (tmp_path / "cat/3.jpg").symlink_to("3.jpg")
        assert [reason(candidate) for candidate in every(list_photos(tmp_path))[1:]] == [
            "No such file or directory",
            "Too many levels of symbolic links",
        ]

    def test_a_file_that_changed_after_the_listing_is_reported(self, tmp_path: Path) -> None:
        fill(tmp_path, "cat/1.jpg", "cat/2.jpg", "cat/3.jpg")
        candidates = every(list_photos(tmp_path))
        for number in (1, 2, 3):
            (tmp_path / f"cat/{number}.jpg").unlink()
        (tmp_path / "cat/2.jpg").mkdir()
        os.mkfifo(tmp_path / "cat/3.jpg")
        assert [reason(candidate) for candidate in candidates] == [
            "No such file or directory",
            "not a regular file",
            "not a regular file",
        ]

    def test_an_unreadable_file_is_reported(self, tmp_path: Path) -> None:
        fill(tmp_path, "cat/1.jpg")
        [candidate] = every(list_photos(tmp_path))
        (tmp_path / "cat/1.jpg").chmod(0)
        with without_privileges():
            assert reason(candidate) == "Permission denied"

    @pytest.mark.skipif(os.name == "nt" or os.uname().sysname == "Darwin", reason="names are always Unicode here")
    def test_a_name_that_is_not_unicode_does_not_stop_the_listing(self, tmp_path: Path) -> None:
        (tmp_path / "cat").mkdir()
        Path(os.fsdecode(os.fsencode(tmp_path / "cat") + b"/\xff\xfe.jpg")).write_bytes(b"bytes")
        [candidate] = every(list_photos(tmp_path))
        assert candidate.photo == "cat-\udcff\udcfe"
        assert candidate.read(LIMIT) == b"bytes"


class TestErrors:
    @pytest.mark.parametrize(
        ("label_from", "expected"),
        [
            ("folder", "a folder with a folder per class"),
            ("file_name", "a folder of photos whose names begin with the class"),
            ("table", "a folder with photos and a table of labels"),
        ],
    )
    def test_a_folder_that_does_not_exist_is_refused(
        self, tmp_path: Path, label_from: LabelFrom, expected: str
    ) -> None:
        with pytest.raises(StageError) as caught:
            list_photos(tmp_path / "nowhere", label_from=label_from)
        assert str(caught.value) == f"acquire.folder: expected {expected}, but '{tmp_path}/nowhere' does not exist"

    def test_a_file_is_refused(self, tmp_path: Path) -> None:
        fill(tmp_path, "photos.zip")
        with pytest.raises(StageError, match=r"but '.*/photos.zip' is a file$"):
            list_photos(tmp_path / "photos.zip")

    def test_a_folder_without_folders_is_refused(self, tmp_path: Path) -> None:
        fill(tmp_path, "1.jpg", ".git/config")
        with pytest.raises(StageError) as caught:
            list_photos(tmp_path)
        assert str(caught.value) == (
            f"acquire.folder: '{tmp_path}' contains no folders; put the photos of each class into a folder with the "
            "name of the class"
        )

    def test_a_class_without_a_folder_is_refused(self, drawn_photos: Path) -> None:
        with pytest.raises(StageError) as caught:
            list_photos(drawn_photos, {"round": "circle", "oval": "ellipse", "flat": "line"})
        assert str(caught.value) == (
            f"acquire.classes: '{drawn_photos}' has no folder ellipse, line; it has circle, square, triangle"
        )

    @pytest.mark.parametrize("label_from", ["folder", "file_name", "table"])
    def test_two_labels_for_one_class_are_refused(self, drawn_photos: Path, label_from: LabelFrom) -> None:
        with pytest.raises(StageError) as caught:
            list_photos(drawn_photos, {"round": "circle", "flat": "square", "oval": "circle"}, label_from)
        assert str(caught.value) == "acquire.classes: round and oval are both 'circle'; expected one label for it"

    @pytest.mark.parametrize("left", [(), (".DS_Store", "Thumbs.db")])
    def test_a_class_folder_without_files_is_refused(self, drawn_photos: Path, left: tuple[str, ...]) -> None:
        (drawn_photos / "star").mkdir()
        fill(drawn_photos / "star", *left)
        with pytest.raises(StageError) as caught:
            list_photos(drawn_photos)
        assert str(caught.value) == (
            f"acquire.folder: the class folder '{drawn_photos}/star' has no files; add photos or remove it"
        )

    def test_a_folder_that_may_not_be_listed_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        fill(tmp_path, "cat/1.jpg", "cat/private/2.jpg")
        (tmp_path / "cat/private").chmod(0)
        tmp_path.chmod(0o755)
        monkeypatch.chdir(tmp_path)  # other users may not open the folders above
        with without_privileges(), pytest.raises(StageError) as caught:
            list_photos(Path())
        (tmp_path / "cat/private").chmod(0o755)
        assert str(caught.value) == (
            "the folder 'cat/private' cannot be listed (Permission denied); make it readable or remove it"
        )


@needs_material
class TestRealMaterial:
    def test_guitars(self) -> None:
        listing = list_photos(MATERIAL / "guitars")
        assert len(listing.candidates) == 11
        assert set(counts(listing).values()) == {250}
        assert every(listing)[0].photo == "fender_jaguar-000002"
        assert every(listing)[0].read(LIMIT) == (MATERIAL / "guitars/fender_jaguar/000002.jpg").read_bytes()

    def test_monkeys(self) -> None:
        listing = list_photos(MATERIAL / "monkeys", {}, "folder", SUBSET_FOLDERS)
        assert list(listing.candidates) == [f"n{number}" for number in range(10)]
        subsets = [candidate.given_subset for candidate in every(listing)]
        assert (subsets.count("train"), subsets.count("validation"), len(subsets)) == (1097, 272, 1369)
        assert "n9-train-n9151jpg" in names(listing)["n9"]

    def test_cats_and_dogs(self) -> None:
        listing = list_photos(MATERIAL / "cats-dogs-flat", label_from="file_name")
        assert (counts(listing), listing.files_skipped) == ({"cat": 1001, "dog": 1001}, 0)
        assert names(listing)["dog"][:3] == ["dog-dog.0", "dog-dog.1", "dog-dog.10"]

    def test_cifar10_in_both_layouts_has_the_same_labels(self) -> None:
        folder = MATERIAL / "cifar10-png"
        by_table = list_folder(folder / "image_data_format_1", {}, "table", "trainLabels.csv", {})
        by_folder = list_photos(folder / "image_data_format_2")
        contents = [{(photo.label, photo.read(LIMIT)) for photo in every(some)} for some in (by_table, by_folder)]
        assert contents[0] == contents[1]
        assert len(contents[0]) == 200
        assert by_table.files_skipped == 1  # train/.DS_Store

    def test_bad_inputs_are_listed_and_readable(self, tmp_path: Path) -> None:
        (tmp_path / "bad").symlink_to(MATERIAL / "bad-inputs")
        listing = list_photos(tmp_path)
        files = {file.name for file in (MATERIAL / "bad-inputs").iterdir()} - {".DS_Store", "Thumbs.db"}
        assert len(every(listing)) == len(files) == 43
        assert listing.files_skipped == 2
        assert sorted(candidate.read(LIMIT) for candidate in every(listing)) == sorted(
            (MATERIAL / "bad-inputs" / file).read_bytes() for file in files
        )
