import json
import re
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from darkroom.models.model_file import save_model
from darkroom.pipeline.dataset import ImageRow, PhotoRow, SubsetRow, write_labels, write_rows
from darkroom.pipeline.files import read_table, write_bytes
from darkroom.pipeline.paths import (
    ACQUIRE_PHOTOS,
    AUGMENT_IMAGES,
    AUGMENT_INDEX,
    EVALUATE_CLASSES,
    EVALUATE_CONFUSED,
    EVALUATE_CREATORS,
    EVALUATE_METRICS,
    EVALUATE_PREDICTIONS,
    EVALUATE_RELIABILITY,
    EVALUATE_SCALED_RELIABILITY,
    EVALUATE_SOURCES,
    SPLIT_PHOTOS,
    TRAIN_LABELS,
    TRAIN_MODEL,
    subset_rows,
)
from darkroom.pipeline.stage import StageError
from darkroom.scores.intervals import wilson_interval
from stages.evaluate import main
from tests.examples import npy, photo_row
from tests.project import ROOT, write_params

SIDE = 6
# Photo, label, color, subset, group, creator. The test subset has no eel, and one cat and one dog look like others.
PHOTOS = [
    ("cat-0", "cat", (250, 10, 10), "validation", "v1", "Ann"),
    ("dog-0", "dog", (10, 200, 10), "validation", "v2", "Ann"),
    ("eel-0", "eel", (10, 120, 90), "validation", "v3", "Ann"),
    ("cat-1", "cat", (255, 0, 0), "test", "pair", "Ann"),
    ("cat-2", "cat", (245, 5, 0), "test", "pair", "Ann"),
    ("cat-3", "cat", (90, 100, 50), "test", "t3", ""),
    ("dog-1", "dog", (0, 180, 60), "test", "t4", "Bo"),
    ("dog-2", "dog", (70, 80, 240), "test", "t5", "Bo"),
]
CORRECT = [True, True, False, True, False]
OUTPUTS = re.findall(r"^(?:Writes)? +((?:metrics|data)/evaluate\S+)", (ROOT / "stages/evaluate.py").read_text(), re.M)


def make_color_model(side: int = SIDE) -> keras.Model:
    """A model that classifies red, green and blue photos: its logits are five times their mean color, 0 to 1."""
    pixels = keras.Input((side, side, 3))
    colors = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(5 / 255)(pixels))
    dense = keras.layers.Dense(3, activation="softmax")
    model = keras.Model(pixels, dense(colors))
    dense.set_weights([np.eye(3), np.zeros(3)])
    return model


@pytest.fixture
def inputs(workspace: Path) -> Path:
    """All inputs of the stage, for photos of a single color."""
    write_params("digits")
    write_rows(ACQUIRE_PHOTOS, PhotoRow, [photo_row(name, label, creator=by) for name, label, *_, by in PHOTOS])
    write_rows(AUGMENT_INDEX, ImageRow, [ImageRow(name, label, 0, "none") for name, label, *_ in PHOTOS])
    write_rows(SPLIT_PHOTOS, SubsetRow, [SubsetRow(*row[:2], *row[3:5]) for row in PHOTOS])
    write_bytes(
        AUGMENT_IMAGES, npy(np.stack([np.full((SIDE, SIDE, 3), color, np.uint8) for _, _, color, *_ in PHOTOS]))
    )
    for subset in ("validation", "test"):
        write_bytes(subset_rows(subset), npy(np.flatnonzero([row[3] == subset for row in PHOTOS])))
    write_labels(TRAIN_LABELS, ["cat", "dog", "eel"])
    save_model(make_color_model(), TRAIN_MODEL)
    return workspace


def read_outputs(folder: Path) -> dict[str, bytes]:
    files = [path for part in ("metrics", "data/evaluate") for path in (folder / part).rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


class TestStage:
    def test_a_label_without_test_photos_is_named_and_has_empty_cells(
        self, inputs: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        main()

        written = read_outputs(inputs)
        assert sorted(written) == sorted(OUTPUTS)
        assert len(OUTPUTS) == 11
        scores = json.loads(written[EVALUATE_METRICS.as_posix()])
        assert scores["accuracy"] == np.mean(CORRECT)
        assert scores["accuracy_low"] < wilson_interval(0.6, 5, 0.95).low  # a pair of photos is one group
        assert {"temperature", "calibration_error", "scaled_calibration_error", "scaled_loss"} < set(scores)
        cat, dog, eel = read_table(EVALUATE_CLASSES, list(read_columns(EVALUATE_CLASSES)))
        assert (cat["recall"], dog["recall"], dog["photos"]) == (str(2 / 3), "0.5", "2")
        assert list(eel.values()) == ["eel", "", "", "", "", "", "0"]
        low, high = (f"{scores[f'accuracy_{end}']:.4f}" for end in ("low", "high"))
        assert capsys.readouterr().out.splitlines() == [
            "evaluate: there are no test photos of eel; scores of these labels are empty",
            f"evaluate: 5 test photos -> metrics/evaluate.json, accuracy 0.6000 (95% interval {low} to {high})",
        ]

        main()
        assert read_outputs(inputs) == written

    def test_each_table_describes_the_test_photos(self, inputs: Path) -> None:
        main()

        lines = (inputs / EVALUATE_CONFUSED).read_text().splitlines()
        assert lines[1:] == ["dog → eel,dog,eel,1,0.5", f"cat → dog,cat,dog,1,{1 / 3}"]
        by = {row["name"]: row for row in read_table(EVALUATE_CREATORS, read_columns(EVALUATE_CREATORS))}
        assert {name: (row["photos"], float(row["accuracy"])) for name, row in by.items()} == {
            "Ann": ("2", 1),
            "Bo": ("2", 0.5),
            "(unknown)": ("1", 0),
        }
        sources = read_table(EVALUATE_SOURCES, read_columns(EVALUATE_SOURCES))
        assert [(row["name"], row["photos"], row["accuracy"]) for row in sources] == [("folder", "5", "0.6")]
        predictions = read_table(EVALUATE_PREDICTIONS, read_columns(EVALUATE_PREDICTIONS))
        assert [(row["photo"], row["group"], row["label"] == row["predicted"]) for row in predictions] == [
            (row[0], row[4], is_correct) for row, is_correct in zip(PHOTOS[3:], CORRECT, strict=True)
        ]
        for path in (EVALUATE_RELIABILITY, EVALUATE_SCALED_RELIABILITY):
            assert sum(int(row["photos"]) for row in read_table(path, read_columns(path))) == 5
        for name in OUTPUTS:
            if name.endswith(".png"):
                assert Image.open(inputs / name).format == "PNG"

    def test_the_temperature_is_fitted_on_validation_photos(self, inputs: Path) -> None:
        main()
        before = json.loads((inputs / EVALUATE_METRICS).read_bytes())
        write_bytes(subset_rows("validation"), npy(np.array([0, 1])))  # without the eel that looks like a dog
        main()
        after = json.loads((inputs / EVALUATE_METRICS).read_bytes())
        assert after["temperature"] < before["temperature"]
        assert {name for name in before if before[name] != after[name]} <= {
            "temperature",
            "scaled_calibration_error",
            "scaled_loss",
        }

    def test_a_model_for_another_image_size_is_an_error_and_nothing_is_written(self, inputs: Path) -> None:
        save_model(make_color_model(side=8), TRAIN_MODEL)
        message = r"model\.keras: expected a model from images \(None, 6, 6, 3\) .* got \(None, 8, 8, 3\)"
        with pytest.raises(StageError, match=message):
            main()
        assert read_outputs(inputs) == {}

    @pytest.mark.usefixtures("inputs")
    def test_a_model_with_other_labels_is_an_error(self) -> None:
        write_labels(TRAIN_LABELS, ["cat", "dog"])
        with pytest.raises(StageError, match=r"to probabilities \(None, 2\).* to \(None, 3\)"):
            main()
        write_labels(TRAIN_LABELS, ["cat", "fox", "eel"])
        with pytest.raises(StageError, match=r"labels\.json: the model was not trained on dog, "):
            main()


def read_columns(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()[0].split(",")
