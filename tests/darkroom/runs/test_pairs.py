from pathlib import Path

import pytest

from darkroom.pipeline.files import write_table
from darkroom.pipeline.stage import StageError
from darkroom.runs.pairs import RunPredictions, pair_photos, read_run_predictions
from darkroom.scores.predictions import list_columns

COLUMNS = list_columns(["cat", "dog"])


def predictions(run: str, *rows: str) -> RunPredictions:
    """Predictions from rows of photo, label, predicted label and, optionally, sha256 and group."""
    names = ("photo", "label", "predicted", "sha256", "group")
    return RunPredictions(run, [dict(zip(names, row.split(), strict=False)) for row in rows], ["cat", "dog"])


class TestReading:
    def test_rows_and_labels(self, tmp_path: Path) -> None:
        write_table(tmp_path / "p.csv", COLUMNS, [["cat-1", "s1", "g1", "cat", "dog", 0.75, 0.25, 0.75]])
        read = read_run_predictions(tmp_path / "p.csv", "run 1")
        assert (read.run, read.labels, read.has_digests) == ("run 1", ["cat", "dog"], True)
        assert read.rows == [
            dict(zip(COLUMNS, ["cat-1", "s1", "g1", "cat", "dog", "0.75", "0.25", "0.75"], strict=True))
        ]

    def test_a_table_of_an_earlier_version_has_no_digests(self, tmp_path: Path) -> None:
        write_table(tmp_path / "p.csv", ("photo", "label", "predicted", "p(p(x))"), [["1", "cat", "cat", 1]])
        read = read_run_predictions(tmp_path / "p.csv", "run 1")
        assert not read.has_digests
        assert read.labels == ["p(x)"]

    @pytest.mark.parametrize(
        ("content", "found"),
        [
            (b"", "0 rows with none"),
            (b"photo,label,predicted\n", "0 rows with photo, label, predicted"),
            (b"photo,label\n1,cat\n", "1 rows with photo, label"),
            (b"photo,label,predicted\n1,cat\n", "1 rows with photo, label, predicted"),
            (b"photo,label,predicted\n1,cat,cat,cat\n", "1 rows with photo, label, predicted"),
            (b"\xff\xfe", "0 rows with none"),
        ],
        ids=["empty", "no rows", "no column", "short row", "long row", "no text"],
    )
    def test_an_invalid_table_is_rejected(self, tmp_path: Path, content: bytes, found: str) -> None:
        (tmp_path / "p.csv").write_bytes(content)
        with pytest.raises(StageError, match=f"^the predictions of run 1 cannot be read: .* got {found};"):
            read_run_predictions(tmp_path / "p.csv", "run 1")


class TestPairs:
    def test_photos_are_matched_by_digest(self) -> None:
        pairs = pair_photos(
            predictions(
                "A", "cat-1 cat cat s1 g1", "cat-2 cat dog s2 g2", "dog-1 dog dog s3 g3", "dog-2 dog cat s4 g4"
            ),
            predictions(
                "B", "dog-1 dog cat s9 h1", "renamed cat dog s1 h2", "dog-2 dog dog s4 h3", "cat-5 cat cat s5 h4"
            ),
        )
        assert pairs.labels.tolist() == ["cat", "dog"]
        assert pairs.first.tolist() == [True, False]
        assert pairs.second.tolist() == [False, True]
        assert pairs.label_conflicts == 0

    def test_photos_with_the_same_digest_are_matched_by_name(self) -> None:
        pairs = pair_photos(
            predictions("A", "cat-1 cat cat s1 s1", "cat-2 cat dog s1 s1", "cat-3 cat cat s3 s3"),
            predictions("B", "cat-2 cat cat s1 s1", "cat-3 cat dog s3 s3"),
        )
        assert pairs.first.tolist() == [False, True]
        assert pairs.second.tolist() == [True, False]

    @pytest.mark.parametrize("earlier", ["A", "B"])
    def test_photos_are_matched_by_name_if_a_run_has_no_digests(self, earlier: str) -> None:
        rows = ["cat-1 cat cat s1 g", "cat-2 cat dog s2 g", "dog-1 dog dog s3 h"]
        short = [" ".join(row.split()[:3]) for row in rows]
        pairs = pair_photos(
            predictions("A", *(short if earlier == "A" else rows)),
            predictions("B", *(rows if earlier == "A" else short)),
        )
        assert pairs.first.tolist() == pairs.second.tolist() == [True, False, True]
        assert pairs.groups[0] == pairs.groups[1] != pairs.groups[2]

    def test_groups_of_both_runs_are_merged(self) -> None:
        pairs = pair_photos(
            predictions("A", "1 cat cat s1 g1", "2 cat cat s2 g1", "3 cat cat s3 g3", "4 cat cat s4 g4"),
            predictions("B", "1 cat cat s1 h1", "2 cat cat s2 h2", "3 cat cat s3 h2", "4 cat cat s4 h4"),
        )
        assert pairs.groups[0] == pairs.groups[1] == pairs.groups[2] != pairs.groups[3]

    def test_without_groups_each_photo_is_its_own_group(self) -> None:
        earlier = predictions("A", "1 cat cat", "2 cat cat")
        assert len(set(pair_photos(earlier, earlier).groups)) == 2

    def test_photos_with_different_labels_are_left_out(self) -> None:
        pairs = pair_photos(
            predictions("A", "cat-1 cat cat s1 g1", "cat-2 cat cat s2 g2"),
            predictions("B", "cat-1 cat cat s1 g1", "dog-2 dog dog s2 g2"),
        )
        assert pairs.labels.tolist() == ["cat"]
        assert pairs.label_conflicts == 1

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            ("cat-1 cat cat s9 g1", "^A tested 1 photos, B 1, and none is in both; use the same photos and labels"),
            (
                "dog-1 dog dog s1 g1",
                "^A tested 1 photos, B 1, and the 1 that both tested have different labels; use the same",
            ),
        ],
        ids=["other content", "other label"],
    )
    def test_nothing_in_common_is_an_error(self, row: str, message: str) -> None:
        with pytest.raises(StageError, match=message):
            pair_photos(predictions("A", "cat-1 cat cat s1 g1"), predictions("B", row))
