import io
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers
from PIL import Image

from darkroom.explanation.robustness import RobustnessRow
from darkroom.models.model_file import save_model
from darkroom.params.recipes import write_recipe
from darkroom.params.train import Padding
from darkroom.pipeline.dataset import (
    ImageRow,
    PhotoRow,
    SubsetRow,
    write_labels,
    write_rows,
)
from darkroom.pipeline.files import read_table
from darkroom.pipeline.paths import (
    ACQUIRE_PHOTOS,
    AUGMENT_IMAGES,
    AUGMENT_INDEX,
    EVALUATE_PREDICTIONS,
    EXPLAIN_CORRUPTIONS,
    EXPLAIN_FILTERS,
    EXPLAIN_GRADCAM,
    EXPLAIN_METRICS,
    EXPLAIN_ROBUSTNESS,
    EXPLAIN_ROBUSTNESS_PLOT,
    PARAMS,
    SPLIT_PHOTOS,
    TRAIN_LABELS,
    TRAIN_MODEL,
    subset_rows,
)
from darkroom.pipeline.stage import StageError
from darkroom.scores.predictions import write_predictions
from stages.explain import check_filters, choose_photos, describe_worst, draw_filters, main
from tests.examples import photo_row
from tests.project import ROOT

LABELS = ["dark", "light"]
PLOTS = (EXPLAIN_GRADCAM, EXPLAIN_FILTERS, EXPLAIN_CORRUPTIONS, EXPLAIN_ROBUSTNESS_PLOT)
SIDE = 12


@pytest.fixture
def trained(workspace: Path) -> Path:
    """Six dark and light test photos, and a model with random weights."""
    (workspace / PARAMS).write_text(write_recipe("digits", {}, ROOT / "recipes"))
    class_ids = np.array([0, 0, 0, 1, 1, 1])
    names = [f"{LABELS[class_id]}-{index}" for index, class_id in enumerate(class_ids)]
    photos: list[PhotoRow] = [photo_row(name, LABELS[number]) for name, number in zip(names, class_ids, strict=True)]
    random = np.random.default_rng(2)
    pixels = (random.integers(0, 80, (6, SIDE, SIDE, 1)) + 170 * class_ids[:, None, None, None]).astype(np.uint8)
    write_rows(ACQUIRE_PHOTOS, PhotoRow, photos)
    write_rows(AUGMENT_INDEX, ImageRow, [ImageRow(row.photo, row.label, 0.0, "none") for row in photos])
    np.save(AUGMENT_IMAGES, pixels)
    write_rows(SPLIT_PHOTOS, SubsetRow, [SubsetRow(row.photo, row.label, "test", row.photo) for row in photos])
    np.save(subset_rows("test"), np.arange(6))
    write_labels(TRAIN_LABELS, LABELS)

    keras.utils.set_random_seed(1)
    inputs = keras.Input((SIDE, SIDE, 1))
    maps = layers.Conv2D(6, 3, activation="relu", name="only")(layers.Rescaling(1 / 255)(inputs))
    features = layers.Flatten()(layers.MaxPooling2D()(maps))
    model = keras.Model(inputs, layers.Dense(2, activation="softmax", name="probabilities")(features))
    save_model(model, TRAIN_MODEL)
    groups = [row.photo for row in photos]
    write_predictions(photos, groups, class_ids, model.predict_on_batch(pixels), LABELS)
    return workspace


class TestStage:
    def test_it_writes_the_same_plots_tables_and_metrics_again(
        self, trained: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        outputs = [*PLOTS, EXPLAIN_METRICS, *EXPLAIN_ROBUSTNESS.values()]
        main()
        first = [(trained / path).read_bytes() for path in outputs]
        main()
        assert [(trained / path).read_bytes() for path in outputs] == first
        for path in PLOTS:
            assert Image.open(trained / path).format == "PNG"
        levels = [row["level"] for row in read_table(EXPLAIN_ROBUSTNESS["scribbles"], RobustnessRow._fields)]
        assert levels == ["0", "5", "10", "20"]
        levels = [row["level"] for row in read_table(EXPLAIN_ROBUSTNESS["jpeg"], RobustnessRow._fields)]
        assert levels == ["100", "50", "20", "5"]
        closing = capsys.readouterr().out.splitlines()[-1]
        assert closing.startswith("explain: 6 test photos, Grad-CAM at only -> data/explain, accuracy ")

    def test_corruptions_without_levels_have_a_table_but_no_metrics(self, trained: Path) -> None:
        text = (trained / PARAMS).read_text()
        for name, levels in (("noise", "[8, 16, 32]"), ("blur", "[5, 10, 20]")):
            assert f"{name}: {levels}" in text
            text = text.replace(f"{name}: {levels}", f"{name}: []")
        (trained / PARAMS).write_text(text)
        main()
        assert len(read_table(EXPLAIN_ROBUSTNESS["noise"], RobustnessRow._fields)) == 1
        assert "noise_accuracy" not in (trained / EXPLAIN_METRICS).read_text()

    def test_predictions_of_other_photos_are_an_error(self, trained: Path) -> None:
        lines = (trained / EVALUATE_PREDICTIONS).read_text().splitlines(keepends=True)
        (trained / EVALUATE_PREDICTIONS).write_text("".join(lines[:-1]))
        with pytest.raises(StageError, match=r"predictions\.csv: lacks the photo or the label 'light-5'; `dvc repro"):
            main()

    def test_a_model_for_another_image_size_is_an_error(self, trained: Path) -> None:
        np.save(trained / AUGMENT_IMAGES, np.zeros((6, SIDE, SIDE + 4, 1), np.uint8))
        with pytest.raises(StageError, match=r"model from images \(None, 12, 16, 1\).*got \(None, 12, 12, 1"):
            main()


class TestChoosing:
    def test_photos_are_chosen_at_random_each_once_in_ascending_order(self) -> None:
        chosen = choose_photos(100, 30, seed=1)
        assert len(set(chosen.tolist())) == 30
        assert chosen.tolist() == sorted(chosen.tolist())
        np.testing.assert_array_equal(chosen, choose_photos(100, 30, seed=1))
        assert chosen.tolist() != choose_photos(100, 30, seed=2).tolist()

    @pytest.mark.parametrize("count", [None, 10, 11])
    def test_all_photos_are_chosen_if_there_are_no_more(self, count: int | None) -> None:
        assert choose_photos(10, count, seed=1).tolist() == list(range(10))


class TestFilters:
    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            (
                (15, 1, "valid", 2),
                "kernel_size: must be at most 12 in images of 12x20 pixels, got 15; reduce it, or",
            ),
            ((3, 4, "valid", 4), "pool_size: must be at most 3, the side of the feature maps of images of 12x20"),
            ((3, 4, "same", 4), "pool_size: must be at most 3, the side of the feature maps of images of 12x20"),
        ],
    )
    def test_kernels_and_pools_larger_than_the_images_are_an_error(
        self, settings: tuple[int, int, Padding, int], message: str
    ) -> None:
        with pytest.raises(StageError, match=f"^explain.filters.{message}"):
            check_filters((12, 20, 3), *settings)

    @pytest.mark.parametrize("settings", [(12, 1, "valid", 1), (15, 1, "same", 12), (3, 4, "same", 3)])
    def test_kernels_and_pools_that_just_fit_are_drawn(
        self, trained: Path, settings: tuple[int, int, Padding, int]
    ) -> None:
        model = keras.models.load_model(trained / TRAIN_MODEL, compile=False)
        check_filters((SIDE, SIDE, 1), *settings)
        content = draw_filters(model, [np.zeros((SIDE, SIDE, 1), np.uint8)], ["a"], *settings)
        assert Image.open(io.BytesIO(content)).format == "PNG"


def curve(*accuracies: float) -> list[RobustnessRow]:
    return [RobustnessRow(10 * index, 5, value, 0, 1, 0) for index, value in enumerate(accuracies)]


class TestClosingLine:
    def test_it_has_the_lowest_accuracy_of_all_corruptions(self) -> None:
        assert (
            describe_worst({"noise": curve(0.9, 0.2, 0.5), "blur": curve(0.9, 0.3)})
            == ", lowest 0.2000 with noise at level 10"
        )

    def test_without_corruptions_it_has_no_lowest_accuracy(self) -> None:
        assert describe_worst({"noise": curve(0.9), "blur": curve(0.9)}) == ""
