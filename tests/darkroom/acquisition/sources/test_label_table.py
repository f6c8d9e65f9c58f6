import os
from pathlib import Path

import pytest

from darkroom.acquisition.candidate import Candidate, Listing, PhotoUnavailable
from darkroom.acquisition.sources.folder import list_folder
from darkroom.pipeline.files import write_bytes
from darkroom.pipeline.stage import StageError


def write_files(folder: Path, table: str | bytes, *files: str, name: str = "labels.csv") -> Path:
    """Write files whose content is their path, and a table."""
    for file in files:
        write_bytes(folder / file, file.encode())
    write_bytes(folder / name, table.encode() if isinstance(table, str) else table)
    return folder


def list_photos(folder: Path, table: str | None = "labels.csv", **classes: str) -> Listing:
    return list_folder(folder, classes, "table", table, {})


def read(candidate: Candidate) -> str:
    return candidate.read(1000).decode()


def labelled(folder: Path, table: str = "labels.csv") -> dict[str, list[str]]:
    return {
        label: [read(candidate) for candidate in candidates]
        for label, candidates in list_photos(folder, table).candidates.items()
    }


def refusal(folder: Path, table: str | None = "labels.csv") -> str:
    with pytest.raises(StageError) as caught:
        list_photos(folder, table)
    return str(caught.value)


class TestFormat:
    @pytest.mark.parametrize(
        "table",
        [
            "b.jpg,dog\na.jpg,cat\n",
            "a.jpg;cat\r\nb.jpg;dog\r\n",
            "a.jpg\tcat\nb.jpg\tdog",
            "file,label\na.jpg,cat\nb.jpg,dog\n",
            "id;label\na;cat\nb;dog\n",
            "\ufefffile,label\na.jpg,cat\nb.jpg,dog\n",
            "\ufeffa.jpg,cat\nb.jpg,dog\n",
            '"a.jpg","cat"\n"b.jpg","dog"\n',
            "\n a.jpg , cat \n,\nb.jpg,dog\n\n",
            "./a.jpg,cat\nsub/../b.jpg,dog\n",
            "a.jpg,cat\na.jpg,cat\nb.jpg,dog\na,cat\n",
        ],
        ids=["comma", "semicolon", "tab", "header", "stems", "bom", "bom only", "quotes", "blanks", "dots", "twice"],
    )
    def test_equivalent_tables(self, tmp_path: Path, table: str) -> None:
        write_files(tmp_path, table, "a.jpg", "b.jpg")
        assert labelled(tmp_path) == {"cat": ["a.jpg"], "dog": ["b.jpg"]}

    def test_a_delimiter_may_be_part_of_a_name_or_a_label(self, tmp_path: Path) -> None:
        write_files(tmp_path, "a.jpg;cat, black\nb,c.jpg;dog, brown\n", "a.jpg", "b,c.jpg")
        assert labelled(tmp_path) == {"cat, black": ["a.jpg"], "dog, brown": ["b,c.jpg"]}
        write_files(tmp_path, '"b,c.jpg",dog\na.jpg,cat\n', name="other.csv")
        assert labelled(tmp_path, "other.csv") == {"cat": ["a.jpg"], "dog": ["b,c.jpg"]}

    def test_names_and_labels_may_be_in_any_script(self, tmp_path: Path) -> None:
        write_files(tmp_path, "Kätzchen.jpg,猫\n", "Kätzchen.jpg")
        assert labelled(tmp_path) == {"猫": ["Kätzchen.jpg"]}

    def test_a_first_row_with_a_missing_file_is_not_a_header_if_its_label_is_used(self, tmp_path: Path) -> None:
        write_files(tmp_path, "gone.jpg,cat\na.jpg,cat\n", "a.jpg")
        assert [candidate.photo for candidate in list_photos(tmp_path).candidates["cat"]] == ["cat-a", "cat-gone"]


class TestFiles:
    def test_labels_are_sorted_and_photos_go_by_path(self, tmp_path: Path) -> None:
        write_files(tmp_path, "2.jpg,b\n10.jpg,b\nx/1.jpg,b\n1.jpg,a\n", "1.jpg", "2.jpg", "10.jpg", "x/1.jpg")
        listing = list_photos(tmp_path)
        assert [(label, [photo.photo for photo in photos]) for label, photos in listing.candidates.items()] == [
            ("a", ["a-1"]),
            ("b", ["b-10", "b-2", "b-x-1"]),
        ]

    def test_classes_choose_labels_rename_them_and_set_their_order(self, tmp_path: Path) -> None:
        write_files(tmp_path, "1.jpg,c\n2.jpg,d\n3.jpg,e\n", "1.jpg", "2.jpg", "3.jpg")
        listing = list_photos(tmp_path, dog="d", cat="c")
        assert {label: [photo.photo for photo in photos] for label, photos in listing.candidates.items()} == {
            "dog": ["dog-2"],
            "cat": ["cat-1"],
        }
        assert list(listing.candidates) == ["dog", "cat"]
        assert listing.files_skipped == 0

    def test_a_bare_name_is_found_in_a_folder_below(self, tmp_path: Path) -> None:
        write_files(tmp_path, "1.png,frog\n2,truck\n", "train/1.png", "train/deep/2.png")
        assert labelled(tmp_path) == {"frog": ["train/1.png"], "truck": ["train/deep/2.png"]}
        assert [photo.photo for photo in list_photos(tmp_path).candidates["frog"]] == ["frog-train-1"]

    def test_paths_are_relative_to_the_folder_or_to_the_tables_folder(self, tmp_path: Path) -> None:
        table = "data/a.jpg,cat\nb.jpg,cat\n../c.jpg,cat\nsub/d,cat\n"
        write_files(
            tmp_path, table, "data/a.jpg", "data/b.jpg", "x/b.jpg", "c.jpg", "data/sub/d.jpg", name="data/t.csv"
        )
        assert labelled(tmp_path, "data/t.csv") == {"cat": ["c.jpg", "data/a.jpg", "data/b.jpg", "data/sub/d.jpg"]}

    def test_a_full_name_is_preferred_to_one_without_its_extension(self, tmp_path: Path) -> None:
        write_files(tmp_path, "1.png,cat\n1.png.jpg,dog\n", "1.png", "1.png.jpg")
        assert labelled(tmp_path) == {"cat": ["1.png"], "dog": ["1.png.jpg"]}

    def test_the_dot_of_a_folder_does_not_start_an_extension(self, tmp_path: Path) -> None:
        write_files(tmp_path, "v1,cat\nv1.2/photo,dog\n", "v1.2/photo", "v1.jpg")
        assert labelled(tmp_path) == {"cat": ["v1.jpg"], "dog": ["v1.2/photo"]}

    def test_a_missing_file_becomes_an_unavailable_candidate(self, tmp_path: Path) -> None:
        write_files(tmp_path, "file,label\n1.jpg,cat\ntrain/2.jpg,cat\ntrain/2.jpg,cat\n", "1.jpg")
        present, missing = list_photos(tmp_path).candidates["cat"]
        assert read(present) == "1.jpg"
        assert missing.photo == "cat-train-2"
        with pytest.raises(PhotoUnavailable, match=r"^no such file: named in row 3 of labels.csv$"):
            missing.read(1000)

    def test_files_without_a_row_are_counted_but_not_the_table(self, tmp_path: Path) -> None:
        write_files(tmp_path, "1.jpg,cat\ngone.jpg,cat\n", "1.jpg", "2.jpg", "3.jpg", ".DS_Store")
        assert list_photos(tmp_path).files_skipped == 3

    def test_a_link_out_of_the_folder_is_followed(self, tmp_path: Path) -> None:
        folder = write_files(tmp_path / "photos", "1.jpg,cat\n")
        write_bytes(tmp_path / "outside.jpg", b"outside")
        (folder / "1.jpg").symlink_to(tmp_path / "outside.jpg")
        assert labelled(folder) == {"cat": ["outside"]}


class TestSubsets:
    FILES = ("1.jpg", "2.jpg", "3.jpg", "4.jpg")

    @pytest.mark.parametrize(
        "table",
        [
            "1.jpg,cat,train\n2.jpg,cat,validation\n3.jpg,cat,test\n4.jpg,cat,\n",
            "1.jpg,cat,train\n2.jpg,cat,validation\n3.jpg,cat,test\n4.jpg,cat\n",
            "file,label,breed,Subset\n1.jpg,cat,x,train\n2.jpg,cat,y,validation\n3.jpg,cat,,test\n4.jpg,cat,z,\n",
        ],
        ids=["third column", "short row", "column subset"],
    )
    def test_are_taken_from_the_table(self, tmp_path: Path, table: str) -> None:
        write_files(tmp_path, table, *self.FILES)
        photos = list_photos(tmp_path).candidates["cat"]
        assert [(photo.photo, photo.given_subset) for photo in photos] == [
            ("cat-1", "train"),
            ("cat-2", "validation"),
            ("cat-3", "test"),
            ("cat-4", ""),
        ]

    def test_a_third_column_of_another_name_is_ignored(self, tmp_path: Path) -> None:
        write_files(tmp_path, "file,label,width\n1.jpg,cat,32\n", "1.jpg")
        assert [photo.given_subset for photo in list_photos(tmp_path).candidates["cat"]] == [""]

    def test_an_unknown_one_is_refused(self, tmp_path: Path) -> None:
        write_files(tmp_path, "1.jpg,cat,train\n2.jpg,cat,val\n", *self.FILES)
        assert refusal(tmp_path) == (
            "acquire.layout.table: row 2 of 'labels.csv' gives the subset 'val'; expected train, validation, test or "
            "nothing. If this column is something else, name the columns in a first row"
        )

    def test_subset_folders_are_refused(self, tmp_path: Path) -> None:
        write_files(tmp_path, "1.jpg,cat\n", "1.jpg")
        with pytest.raises(StageError) as caught:
            list_folder(tmp_path, {}, "table", "labels.csv", {"train": "training"})
        assert str(caught.value) == (
            "acquire.layout.subset_folders: expected {} for label_from table, got {'train': 'training'}; use a "
            "third column of the table, `subset`, with train, validation or test"
        )


class TestErrors:
    def test_no_table_is_refused(self, tmp_path: Path) -> None:
        assert refusal(tmp_path, None) == (
            "acquire.layout.table: expected the path of a CSV file for label_from table, got null"
        )

    def test_a_table_that_is_missing_is_refused(self, tmp_path: Path) -> None:
        write_files(tmp_path, "", "1.jpg", "a/other.CSV")
        assert refusal(tmp_path, "label.csv") == (
            f"acquire.layout.table: '{tmp_path}' has no file 'label.csv'; its CSV files: a/other.CSV, labels.csv"
        )

    def test_a_pipe_is_never_opened(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "labels.csv")
        assert refusal(tmp_path) == (
            f"acquire.layout.table: '{tmp_path}' has no file 'labels.csv'; its CSV files: none"
        )

    def test_a_table_outside_is_refused(self, tmp_path: Path) -> None:
        folder = write_files(tmp_path / "photos", "1.jpg,cat\n", "1.jpg")
        outside = write_files(tmp_path, "1.jpg,cat\n") / "labels.csv"
        for table in ("../labels.csv", "x/../../labels.csv", str(outside)):
            assert refusal(folder, table) == (
                f"acquire.layout.table: {table!r} is not in '{folder}'; expected a path below that folder, which DVC "
                "tracks as a whole"
            )

    @pytest.mark.parametrize("table", ["", "\n\n", "file,label\n"])
    def test_a_table_without_rows_is_refused(self, tmp_path: Path, table: str) -> None:
        write_files(tmp_path, table, "1.jpg")
        assert refusal(tmp_path) == (
            "acquire.layout.table: 'labels.csv' has no rows; expected a file and a label in each"
        )

    def test_a_row_of_one_cell_is_refused(self, tmp_path: Path) -> None:
        write_files(tmp_path, "1.jpg,cat\n2.jpg cat\n", "1.jpg", "2.jpg")
        assert refusal(tmp_path) == (
            "acquire.layout.table: row 2 of 'labels.csv' is '2.jpg cat'; expected a file and a label, with a comma, a "
            "semicolon or a tab between them"
        )

    @pytest.mark.parametrize(
        ("row", "lacks", "cells"), [("2.jpg,", "label", "['2.jpg', '']"), (",dog", "file", "['', 'dog']")]
    )
    def test_a_row_without_a_label_or_a_file_is_refused(self, tmp_path: Path, row: str, lacks: str, cells: str) -> None:
        write_files(tmp_path, f"file,label\n1.jpg,cat\n\n{row}\n", "1.jpg", "2.jpg")
        assert refusal(tmp_path) == (
            f"acquire.layout.table: row 4 of 'labels.csv' has no {lacks}; expected both, got {cells}; complete it"
        )

    def test_a_path_that_leaves_the_folder_is_refused(self, tmp_path: Path) -> None:
        write_bytes(tmp_path / "2.jpg", b"outside")
        for path in ("../2.jpg", "x/../../2.jpg", "..", str(tmp_path / "2.jpg")):
            folder = write_files(tmp_path / "photos", f"1.jpg,cat\n{path},cat\n", "1.jpg")
            assert refusal(folder) == (
                f"acquire.layout.table: row 2 of 'labels.csv' names {path!r}, which is outside the folder; expected a "
                "path inside it"
            )

    @pytest.mark.parametrize(
        ("name", "files"), [("1.jpg", ("test/1.jpg", "train/1.jpg")), ("1", ("1.jpg", "1.png")), ("1", ("a/1", "b/1"))]
    )
    def test_a_name_of_several_files_is_refused(self, tmp_path: Path, name: str, files: tuple[str, str]) -> None:
        write_files(tmp_path, f"{name},cat\n", *files)
        assert refusal(tmp_path) == (
            f"acquire.layout.table: row 1 of 'labels.csv' names {name!r}, which may be {files[0]}, {files[1]}; "
            f"expected the path of one file, such as {files[0]!r}"
        )

    @pytest.mark.parametrize(
        ("first", "second", "contents"),
        [
            ("1.jpg,cat", "1,dog", "'cat' and 'dog'"),
            ("1.jpg,cat,train", "1.jpg,cat,test", "'cat train' and 'cat test'"),
        ],
    )
    def test_two_rows_that_disagree_are_refused(self, tmp_path: Path, first: str, second: str, contents: str) -> None:
        write_files(tmp_path, f"{first}\n2.jpg,cat\n{second}\n", "1.jpg", "2.jpg")
        assert refusal(tmp_path) == (
            f"acquire.layout.table: rows 1 and 3 of 'labels.csv' disagree about '1.jpg': {contents}; remove one of them"
        )

    def test_a_class_that_no_row_has_is_refused(self, tmp_path: Path) -> None:
        write_files(tmp_path, "1.jpg,cat\n2.jpg,dog\n", "1.jpg", "2.jpg")
        with pytest.raises(StageError) as caught:
            list_photos(tmp_path, ferret="ferret")
        assert str(caught.value) == (f"acquire.classes: '{tmp_path}/labels.csv' has no label ferret; it has cat, dog")

    @pytest.mark.parametrize("content", ["1.jpg,größe\n".encode("latin-1"), "1.jpg,cat\n".encode("utf-16")])
    def test_a_table_that_is_not_utf8_is_refused(self, tmp_path: Path, content: bytes) -> None:
        write_files(tmp_path, content, "1.jpg")
        message = refusal(tmp_path)
        assert message.startswith(f"acquire.layout.table: '{tmp_path}/labels.csv' is not a CSV file in UTF-8 ('utf-8' ")
        assert message.endswith("; save it as one")

    def test_a_malformed_table_is_refused(self, tmp_path: Path) -> None:
        write_files(tmp_path, '"' + "x" * 200_000, "1.jpg")
        assert refusal(tmp_path) == (
            f"acquire.layout.table: '{tmp_path}/labels.csv' is not a CSV file in UTF-8 (field larger than field limit "
            "(131072)); save it as one"
        )
