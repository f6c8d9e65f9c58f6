import io
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers
from PIL import Image

from darkroom.explanation.corruptions import CORRUPTIONS, Corruption, corrupt_images
from darkroom.explanation.gradcam import GradCam
from darkroom.explanation.robustness import (
    Robustness,
    RobustnessRow,
    draw_map,
    draw_robustness,
    summarize,
    total_variation,
)
from darkroom.pipeline.arrays import Pixels
from darkroom.pipeline.dataset import StoredImages
from darkroom.scores.trained_model import LabelledImages

pytestmark = pytest.mark.slow

SIDE = 16


def darken(pixels: Pixels, level: int, _: np.random.Generator) -> Pixels:
    """Halve the brightness at level 1, and make the photo black at level 2."""
    return (pixels // 2 * (2 - level)).astype(np.uint8)


DARKNESS = Corruption("darkness", "darkness level", 0, False, darken)


def brightness_model(threshold: float = 0.4) -> keras.Model:
    """Build a network that predicts class 1 for photos whose mean, of pixels from 0 to 1, is above the threshold."""
    pixels = keras.Input((SIDE, SIDE, 1))
    maps = layers.Conv2D(1, 3, padding="same", use_bias=False)(layers.Rescaling(1 / 255)(pixels))
    outputs = layers.Dense(2, activation="softmax")(layers.GlobalAveragePooling2D()(maps))
    model = keras.Model(pixels, outputs)
    kernel = np.zeros((3, 3, 1, 1), np.float32)
    kernel[1, 1] = 1
    model.set_weights([kernel, np.array([[0, 20]], np.float32), np.array([0, -20 * threshold], np.float32)])
    return model


@pytest.fixture
def photos(tmp_path: Path) -> LabelledImages:
    """Ten photos; every second one is bright."""
    random = np.random.default_rng(3)
    class_ids = np.arange(10) % 2
    pixels = random.integers(10, 60, (10, SIDE, SIDE, 1)) + 150 * class_ids[:, None, None, None]
    np.save(tmp_path / "images.npy", pixels.astype(np.uint8))
    return LabelledImages(
        StoredImages(tmp_path / "images.npy", 10), np.arange(10), [str(number) for number in range(10)], class_ids
    )


def measure(
    photos: LabelledImages, corruption: Corruption, levels: list[int], size: int = 4, threshold: float = 0.4
) -> list[RobustnessRow]:
    robustness = Robustness(GradCam(brightness_model(threshold)), photos, photos.photos, size, 0.95)
    return list(robustness.measure(corruption, levels, seed=1))


class TestMeasuring:
    def test_the_accuracy_drops_when_the_corruption_removes_what_distinguishes_the_classes(
        self, photos: LabelledImages
    ) -> None:
        rows = measure(photos, DARKNESS, [2, 1])
        assert [(row.level, row.photos, row.accuracy) for row in rows] == [(0, 10, 1.0), (1, 10, 0.5), (2, 10, 0.5)]
        assert all(row.accuracy_low < row.accuracy < row.accuracy_high for row in rows[1:])

    @pytest.mark.parametrize("name", CORRUPTIONS)
    def test_the_accuracy_is_that_of_the_model_on_the_corrupted_photos(self, photos: LabelledImages, name: str) -> None:
        rows = measure(photos, CORRUPTIONS[name], [20, 60], size=3)
        model = brightness_model()
        for row in rows[1:]:
            images = photos.images.take(photos.rows)
            corrupted = corrupt_images(images, CORRUPTIONS[name], row.level, 1, photos.rows)
            correct = model.predict_on_batch(corrupted).argmax(axis=1) == photos.class_ids
            assert row.accuracy == correct.mean()
        expected = [100, 60, 20] if name == "jpeg" else [0, 20, 60]
        assert [row.level for row in rows] == expected

    def test_clean_photos_have_no_shift_and_stronger_corruptions_a_larger_one(self, photos: LabelledImages) -> None:
        rows = measure(photos, CORRUPTIONS["scribbles"], [10, 50])
        assert rows[0].gradcam_shift == 0
        assert 0 < rows[1].gradcam_shift < rows[2].gradcam_shift <= 1

    def test_a_map_that_rotates_with_its_photo_has_no_shift(self, photos: LabelledImages, tmp_path: Path) -> None:
        pixels = np.zeros((1, SIDE, SIDE, 1), np.uint8)
        pixels[0, 2:6, 2:6] = 255  # at the top left
        np.save(tmp_path / "spot.npy", pixels)
        spot = photos._replace(
            images=StoredImages(tmp_path / "spot.npy", 1), rows=np.arange(1), photos=["a"], class_ids=np.array([1])
        )
        (_, aligned) = measure(spot, CORRUPTIONS["rotation"], [90], threshold=0.01)
        # If the maps are expected to stay, the same rotation shifts them almost completely.
        stays = CORRUPTIONS["rotation"]._replace(moves_pixels=False)
        (_, unaligned) = measure(spot, stays, [90], threshold=0.01)
        assert aligned.gradcam_shift < 0.15
        assert unaligned.gradcam_shift > 0.9

    def test_the_batch_size_does_not_matter(self, photos: LabelledImages) -> None:
        by_one, by_all = (measure(photos, CORRUPTIONS["noise"], [40], size) for size in (1, 10))
        for one, other in zip(by_one, by_all, strict=True):
            assert one == pytest.approx(other, abs=1e-5)

    def test_grouped_photos_widen_the_interval(self, photos: LabelledImages) -> None:
        cam = GradCam(brightness_model())
        alone, together = (
            list(Robustness(cam, photos, groups, 4, 0.95).measure(DARKNESS, [2], 1))[1]
            for groups in (photos.photos, ["a", "b"] * 5)
        )
        assert together.accuracy_low < alone.accuracy_low
        assert together.accuracy_high > alone.accuracy_high


class TestShift:
    @pytest.mark.parametrize(
        ("first", "second", "shift"),
        [([[1, 1], [0, 0]], [[0, 2], [2, 0]], 0.5), ([[4, 0]], [[0, 1]], 1), ([[1, 2], [3, 4]], [[2, 4], [6, 8]], 0)],
    )
    def test_it_is_the_total_variation_distance(
        self, first: list[list[int]], second: list[list[int]], shift: float
    ) -> None:
        assert total_variation(np.array(first, np.uint8), np.array(second, np.uint8)) == pytest.approx(shift)

    def test_a_black_map_is_close_to_another_black_map_only(self) -> None:
        black, gray = np.zeros((2, 2), np.uint8), np.ones((2, 2), np.uint8)
        assert total_variation(black, gray) == 1
        assert total_variation(gray, black) == 1
        assert total_variation(black, black) == 0

    def test_a_map_is_drawn_in_the_size_of_its_photo_and_an_empty_map_in_black(self) -> None:
        drawn = draw_map(np.array([[0, 0], [0, 3]], np.float32), 40, 60)
        assert (drawn.shape, drawn.dtype, drawn[0, 0], drawn[-1, -1]) == ((40, 60), np.uint8, 0, 255)
        assert not draw_map(np.zeros((2, 2), np.float32), 40, 60).any()

    @pytest.mark.parametrize(("degrees", "most"), [(0, 0), (1, 0.05), (180, 0.02)])
    def test_rotating_a_small_map_causes_hardly_any_shift(
        self, photos: LabelledImages, degrees: int, most: float
    ) -> None:
        """Maps of 4 x 4 pixels that a rotation by 180 degrees does not change, and one by 1 degree hardly."""
        robustness = Robustness(GradCam(brightness_model()), photos, photos.photos, 4, 0.95)
        maps = np.zeros((10, 4, 4), np.float32)
        maps[:, 1:3, 1:3] = 1
        robustness.maps = maps
        assert robustness.measure_shift(CORRUPTIONS["rotation"], degrees, maps) <= most


def rows(*accuracies: float) -> list[RobustnessRow]:
    return [RobustnessRow(10 * index, 5, value, value / 2, 1.0, 0.1 * index) for index, value in enumerate(accuracies)]


class TestSummary:
    def test_it_has_the_means_over_the_levels_of_each_corruption(self) -> None:
        assert summarize({"noise": rows(0.9, 0.8, 0.4), "blur": rows(0.9)}) == {
            "clean_accuracy": 0.9,
            "noise_accuracy": pytest.approx(0.6),
            "noise_gradcam_shift": pytest.approx(0.15),
        }


class TestChart:
    def test_it_is_reproducible_and_depends_on_the_values(self) -> None:
        curves = {"noise": rows(0.9, 0.8, 0.4), "blur": rows(0.9)}
        chart = draw_robustness(curves)
        assert draw_robustness(curves) == chart
        assert draw_robustness({**curves, "noise": rows(0.9, 0.8, 0.5)}) != chart

    def test_a_corruption_without_levels_has_no_panel(self) -> None:
        alone = draw_robustness({"noise": rows(0.9, 0.8)})
        assert draw_robustness({"noise": rows(0.9, 0.8), "blur": rows(0.9)}) == alone
        empty = draw_robustness({"noise": rows(0.9), "blur": rows(0.9)})
        assert empty not in (alone, draw_robustness({"noise": rows(0.9, 0.8), "blur": rows(0.9, 0.8)}))

    def test_nothing_is_cut_off_at_the_border(self) -> None:
        chart = draw_robustness({name: rows(0.9, 0.8, 0.4) for name in CORRUPTIONS})
        pixels = np.asarray(Image.open(io.BytesIO(chart)).convert("L"))
        frame = np.concatenate([pixels[:3].ravel(), pixels[-3:].ravel(), pixels[:, :3].ravel(), pixels[:, -3:].ravel()])
        assert (frame == 255).all()
