from pathlib import Path

import numpy as np
import pytest

from darkroom.pipeline.files import read_table
from darkroom.pipeline.paths import EVALUATE_PREDICTIONS
from darkroom.pipeline.stage import StageError
from darkroom.scores.predictions import (
    NAMES,
    list_columns,
    list_labels,
    read_predicted,
    read_predictions,
    write_predictions,
)
from tests.examples import photo_row

LABELS = ["cat", "Katze, groß", 'the "big" one']
PHOTOS = [photo_row("p1"), photo_row("p2"), photo_row("p3, 日本", sha256="abc")]
CLASS_IDS = np.array([0, 0, 2])
PROBABILITIES = np.array([[0.9, 0.1, 0], [0.3, 0.6, 0.1], [1 / 3, 1e-9, 2 / 3]], np.float32)


@pytest.fixture
def written(workspace: Path) -> Path:
    write_predictions(PHOTOS, ["g1", "g1", "g2"], CLASS_IDS, PROBABILITIES, LABELS)
    return workspace / EVALUATE_PREDICTIONS


def test_every_photo_has_a_row_with_all_probabilities_in_their_shortest_form(written: Path) -> None:
    lines = written.read_text(encoding="utf-8").splitlines()
    assert lines[0] == ('photo,sha256,group,label,predicted,probability,p(cat),"p(Katze, groß)","p(the ""big"" one)"')
    assert lines[1] == "p1,sha256 of p1,g1,cat,cat,0.9,0.9,0.1,0.0"
    assert lines[2] == 'p2,sha256 of p2,g1,cat,"Katze, groß",0.6,0.3,0.6,0.1'
    assert len(lines) == 4


@pytest.mark.usefixtures("written")
def test_the_probabilities_are_read_back_exactly() -> None:
    rows = read_table(EVALUATE_PREDICTIONS, list_columns(LABELS))
    read = np.array([[row[f"p({label})"] for label in LABELS] for row in rows], np.float32)
    np.testing.assert_array_equal(read, PROBABILITIES)


def test_the_table_can_be_read_without_knowing_its_labels(written: Path) -> None:
    table = read_predictions(written)
    assert table.labels == LABELS
    assert table.rows == read_table(EVALUATE_PREDICTIONS, list_columns(LABELS))
    assert [tuple(row)[: len(NAMES)] for row in table.rows] == [NAMES] * len(PHOTOS)


@pytest.mark.parametrize("labels", [[], ["cat"], ["p(x)", "(", ")", "", "two\nlines", "probability"]])
def test_labels_are_recovered_from_the_columns(labels: list[str]) -> None:
    assert list_labels(list_columns(labels)) == labels


@pytest.mark.usefixtures("workspace")
def test_without_a_table_the_error_says_what_was_expected() -> None:
    with pytest.raises(StageError, match=r"^expected a row per photo with photo, label, predicted, got 0 rows with"):
        read_predictions(EVALUATE_PREDICTIONS)


@pytest.mark.usefixtures("written")
def test_class_ids_are_in_the_order_of_the_given_photos() -> None:
    predicted = read_predicted(["p3, 日本", "p1", "p2"], LABELS)
    assert (predicted.tolist(), predicted.dtype) == ([2, 0, 1], np.int64)


@pytest.mark.usefixtures("written")
def test_a_photo_missing_from_the_table_is_named() -> None:
    message = (
        r"^data/evaluate/predictions\.csv: lacks .*'p9'; `dvc repro --force --single-item evaluate` writes it again$"
    )
    with pytest.raises(StageError, match=message):
        read_predicted(["p1", "p9"], LABELS)


@pytest.mark.usefixtures("written")
@pytest.mark.parametrize("labels", [LABELS[:2], ["dog", *LABELS[1:]], LABELS[::-1]])
def test_a_table_of_other_labels_is_rejected(labels: list[str]) -> None:
    with pytest.raises(StageError, match=r"predictions\.csv: expected the columns photo, .*, got photo, .*evaluate"):
        read_predicted(["p1"], labels)


def test_an_unknown_predicted_label_is_named(written: Path) -> None:
    written.write_text(written.read_text(encoding="utf-8").replace("cat,cat,", "cat,fox,"), encoding="utf-8")
    with pytest.raises(StageError, match=r"predictions\.csv: lacks the photo or the label 'fox'"):
        read_predicted(["p1"], LABELS)


@pytest.mark.usefixtures("workspace")
def test_a_missing_table_is_named() -> None:
    with pytest.raises(StageError, match=r"^data/evaluate/predictions\.csv is missing; .*--single-item evaluate"):
        read_predicted(["p1"], LABELS)


@pytest.mark.usefixtures("workspace")
def test_a_group_per_photo_is_required() -> None:
    with pytest.raises(ValueError, match="zip"):
        write_predictions(PHOTOS, ["g1"], CLASS_IDS, PROBABILITIES, LABELS)
