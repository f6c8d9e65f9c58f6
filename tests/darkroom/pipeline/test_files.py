import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darkroom.pipeline.files import (
    read_table,
    whole_file,
    write_bytes,
    write_json,
    write_table,
    write_text,
    written_again,
)
from darkroom.pipeline.stage import StageError

TABLE = Path("data/acquire/table.csv")


def fail_in_the_middle(path: Path) -> None:
    with whole_file(path) as partial:
        partial.write_text("half")
        raise RuntimeError("in the middle")


class TestWholeFile:
    def test_a_block_that_succeeds_leaves_only_the_file(self, workspace: Path) -> None:
        with whole_file(Path("new/folder/file.txt")) as partial:
            partial.write_text("whole")
        assert Path("new/folder/file.txt").read_text() == "whole"
        assert [path.name for path in (workspace / "new/folder").iterdir()] == ["file.txt"]

    def test_a_block_that_fails_leaves_nothing(self, workspace: Path) -> None:
        with pytest.raises(RuntimeError, match="in the middle"):
            fail_in_the_middle(Path("file.txt"))
        assert not list(workspace.iterdir())

    def test_a_block_that_fails_leaves_the_earlier_file_unchanged(self, workspace: Path) -> None:
        write_text(Path("file.txt"), "earlier")
        with pytest.raises(RuntimeError, match="in the middle"):
            fail_in_the_middle(Path("file.txt"))
        assert [(path.name, path.read_text()) for path in workspace.iterdir()] == [("file.txt", "earlier")]

    def test_readers_see_the_earlier_file_until_the_block_ends(self, workspace: Path) -> None:
        write_text(workspace / "file.txt", "earlier")
        with whole_file(workspace / "file.txt") as partial:
            partial.write_text("later")
            assert (workspace / "file.txt").read_text() == "earlier"
        assert (workspace / "file.txt").read_text() == "later"

    def test_a_file_with_the_longest_name_can_be_written(self, workspace: Path) -> None:
        name = "ü" * 100 + ".webp"
        write_bytes(workspace / name, b"photo")
        assert (workspace / name).read_bytes() == b"photo"


class TestJson:
    def test_json_is_indented_and_ends_with_a_newline(self, workspace: Path) -> None:
        write_json(Path("metrics/acquire.json"), {"größe": 0.1, "labels": ["a"]})
        text = (workspace / "metrics/acquire.json").read_bytes().decode("utf-8")
        assert json.loads(text) == {"größe": 0.1, "labels": ["a"]}
        assert '\n  "größe": 0.1,\n' in text
        assert text.endswith("}\n")

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_numbers_that_json_lacks_are_an_error(self, workspace: Path, value: float) -> None:
        with pytest.raises(ValueError, match="not JSON compliant"):
            write_json(Path("metrics.json"), {"loss": value})
        assert not list(workspace.iterdir())


class TestTable:
    def test_a_table_has_a_header_and_a_line_per_row(self, workspace: Path) -> None:
        write_table(TABLE, ("label", "share"), [("cat", 0.1), ('a "big", old dog', 1e-7)])
        assert (workspace / TABLE).read_bytes() == b'label,share\ncat,0.1\n"a ""big"", old dog",1e-07\n'

    @settings(deadline=None, max_examples=100)
    @given(
        st.lists(
            st.tuples(*[st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r"))] * 2), max_size=5
        )
    )
    def test_any_string_is_read_as_written(
        self, tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]
    ) -> None:
        path = tmp_path_factory.getbasetemp() / "any/text.csv"
        write_table(path, ("label", "creator"), rows)
        assert [tuple(row.values()) for row in read_table(path, ("label", "creator"))] == rows

    @pytest.mark.parametrize("text", ["\r", "a\rb", "a\r\nb"])
    def test_carriage_returns_are_read_as_written(self, workspace: Path, text: str) -> None:
        write_table(TABLE, ("label", "creator"), [(text, "x")])
        assert (workspace / TABLE).exists()
        assert read_table(TABLE, ("label", "creator")) == [{"label": text, "creator": "x"}]

    @given(st.floats(allow_nan=False))
    @settings(deadline=None, max_examples=50)
    def test_floats_are_read_exactly(self, tmp_path_factory: pytest.TempPathFactory, number: float) -> None:
        path = tmp_path_factory.getbasetemp() / "any/number.csv"
        write_table(path, ("number",), [(number,)])
        assert float(read_table(path, ("number",))[0]["number"]) == number

    def test_the_error_for_a_missing_table_names_the_stage_that_writes_it(self, workspace: Path) -> None:
        assert not (workspace / TABLE).exists()
        with pytest.raises(StageError) as caught:
            read_table(TABLE, ("label",))
        assert str(caught.value) == (
            "data/acquire/table.csv is missing; `dvc repro --force --single-item acquire` writes it again"
        )

    @pytest.mark.parametrize(
        ("text", "got"), [("photo\n", "photo"), ("label,photo\n", "label, photo"), ("", ""), ("photo,label,x\n", "x")]
    )
    def test_other_columns_are_an_error(self, workspace: Path, text: str, got: str) -> None:
        write_text(workspace / TABLE, text)
        with pytest.raises(StageError) as caught:
            read_table(TABLE, ("photo", "label"))
        assert str(caught.value).startswith("data/acquire/table.csv: expected the columns photo, label, got ")
        assert str(caught.value).endswith(f"{got}; `dvc repro --force --single-item acquire` writes it again")

    def test_without_expected_columns_any_table_is_read(self, workspace: Path) -> None:
        write_text(workspace / TABLE, "photo,x\ncat-1,2\n")
        assert read_table(TABLE) == [{"photo": "cat-1", "x": "2"}]
        write_text(workspace / TABLE, "photo,x\ncat-1\n")
        with pytest.raises(StageError, match="row 1 does not have 2 cells"):
            read_table(TABLE)

    @pytest.mark.parametrize(
        "content",
        [
            pytest.param(b"photo,label\ncat-1\n", id="a cell too few"),
            pytest.param(b"photo,label\ncat-1,cat,x\n", id="a cell too many"),
            pytest.param(b"photo,label\ncaf\xe9-1,caf\xe9\n", id="not UTF-8"),
            pytest.param(b"photo,label\n" + 200_000 * b"x" + b",cat\n", id="a cell without an end"),
        ],
    )
    def test_a_damaged_table_is_an_error(self, workspace: Path, content: bytes) -> None:
        write_bytes(workspace / TABLE, content)
        with pytest.raises(StageError, match=r"^data/acquire/table.csv: .+ `dvc repro --force --single-item acquire`"):
            read_table(TABLE, ("photo", "label"))


@pytest.mark.parametrize(
    ("path", "stage"),
    [
        ("data/augment/images.npy", "augment"),
        ("data/acquire/photos/cat/cat-1.jpg", "acquire"),
        ("metrics/evaluate.json", "evaluate"),
        ("metrics/evaluate/classes.csv", "evaluate"),
    ],
)
def test_the_advice_names_the_stage_that_writes_the_file(path: str, stage: str) -> None:
    assert written_again(Path(path)) == f"`dvc repro --force --single-item {stage}` writes it again"
