import cv2
import numpy as np
import pytest
from ruamel.yaml import YAML

from darkroom.explanation.corruptions import (
    CORRUPTIONS,
    add_noise,
    blur,
    compress,
    corrupt_images,
    rotate,
)
from darkroom.params.explain import RobustnessParams
from darkroom.pipeline.arrays import Pixels
from darkroom.pipeline.paths import EXPLAIN_ROBUSTNESS
from tests.examples import noise
from tests.imports import loaded_modules
from tests.project import ROOT

# From the weakest to the strongest of each.
LEVELS = {
    "scribbles": (5, 10, 20, 50),
    "noise": (5, 20, 40, 80),
    "blur": (1, 2, 5, 10),
    "rotation": (5, 10, 20, 45),
    "jpeg": (95, 50, 20, 5),
}
CHANNELS = [1, 3]


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def soft(height: int, width: int, channels: int = 3, seed: int = 0) -> Pixels:
    """Draw an image with smooth shapes of high contrast, similar to a photo."""
    blurred = cv2.GaussianBlur(noise(height, width, channels, seed).astype(np.float32), (0, 0), 3)
    return np.clip((blurred - 127) * 8 + 127, 0, 255).astype(np.uint8).reshape(height, width, channels)


def difference(one: Pixels, other: Pixels) -> float:
    return float(np.abs(one.astype(int) - other).mean())


class TestNoise:
    @pytest.mark.parametrize("channels", CHANNELS)
    @pytest.mark.parametrize("deviation", [1, 10, 25])
    def test_it_has_the_given_standard_deviation(self, deviation: int, channels: int) -> None:
        gray = np.full((300, 300, channels), 128, np.uint8)
        noisy = add_noise(gray, deviation, generator()).astype(float)
        # Rounding to whole numbers adds a variance of 1/12.
        assert noisy.std() == pytest.approx(np.sqrt(deviation**2 + 1 / 12), rel=0.01)
        assert noisy.mean() == pytest.approx(128, abs=0.2)

    def test_channels_have_independent_noise(self) -> None:
        noisy = add_noise(np.full((100, 100, 3), 128, np.uint8), 20, generator()).reshape(-1, 3)
        assert np.abs(np.corrcoef(noisy.T) - np.eye(3)).max() < 0.05

    def test_values_outside_the_range_are_clipped(self) -> None:
        for shade in (0, 255):
            noisy = add_noise(np.full((100, 100, 1), shade, np.uint8), 30, generator())
            assert np.abs(noisy.astype(int) - shade).max() < 200
            assert (noisy == shade).mean() == pytest.approx(0.5, abs=0.03)

    def test_a_higher_deviation_scales_the_same_noise(self) -> None:
        gray = np.full((50, 50, 3), 128, np.uint8)
        weak, strong = (add_noise(gray, deviation, generator()).astype(int) - 128 for deviation in (10, 30))
        assert np.abs(strong - 3 * weak).max() <= 2


class TestBlur:
    @pytest.mark.parametrize("channels", CHANNELS)
    def test_it_lowers_the_variance_and_preserves_the_mean(self, channels: int) -> None:
        pixels = noise(60, 80, channels)
        blurred = [blur(pixels, percent) for percent in (0, 2, 5, 10, 30, 100)]
        variances = [image.var() for image in blurred]
        assert variances == sorted(variances, reverse=True)
        assert variances[-1] < 5 < 1000 < variances[0]
        for image in blurred:
            assert image.mean() == pytest.approx(pixels.mean(), abs=0.5)

    @pytest.mark.parametrize(
        ("size", "percent", "deviation"), [((100, 100), 5, 5), ((200, 100), 3, 3), ((50, 90), 8, 4)]
    )
    def test_a_step_is_blurred_with_the_given_standard_deviation(
        self, size: tuple[int, int], percent: int, deviation: float
    ) -> None:
        """The derivative of a blurred step is the Gaussian itself."""
        pixels = np.zeros((*size, 1), np.uint8)
        pixels[:, size[1] // 2 :] = 255
        slope = np.diff(blur(pixels, percent)[size[0] // 2, :, 0].astype(float)) / 255
        positions = np.arange(len(slope))
        middle = (slope * positions).sum()
        assert middle == pytest.approx(size[1] // 2 - 1, abs=0.01)
        assert np.sqrt((slope * (positions - middle) ** 2).sum()) == pytest.approx(deviation, rel=0.03)

    @pytest.mark.parametrize("side", [1, 2, 16])
    def test_small_images_are_blurred_too(self, side: int) -> None:
        pixels = noise(side, side)
        assert np.abs(blur(pixels, 100).astype(float) - pixels.mean(axis=(0, 1))).max() <= 2
        assert blur(pixels, 100).shape == pixels.shape


class TestRotate:
    @pytest.mark.parametrize("channels", CHANNELS)
    def test_right_angles_are_exact(self, channels: int) -> None:
        pixels = noise(20, 20, channels)
        for quarter in range(-2, 5):
            np.testing.assert_array_equal(rotate(pixels, 90 * quarter), np.rot90(pixels, quarter))

    def test_it_rotates_counter_clockwise(self) -> None:
        pixels = np.zeros((41, 41, 3), np.uint8)
        pixels[:10, 16:25] = 255  # a mark at the top goes to the left
        for degrees, (x, y) in {45: (9, 9), 90: (4, 20), -45: (31, 9)}.items():
            assert rotate(pixels, degrees)[y, x].min() > 200

    def test_the_corners_repeat_the_border_pixels(self) -> None:
        plain = np.full((30, 40, 3), 200, np.uint8)
        np.testing.assert_array_equal(rotate(plain, 30), plain)
        framed = np.zeros((30, 30, 3), np.uint8)
        framed[[0, -1]] = framed[:, [0, -1]] = 255
        assert rotate(framed, 45)[[0, 0, -1, -1], [0, -1, 0, -1]].min() == 255


class TestCompress:
    @pytest.mark.parametrize("size", [(64, 96), (17, 23), (1, 1)])
    @pytest.mark.parametrize("channels", CHANNELS)
    def test_the_best_quality_hardly_changes_the_photo(self, channels: int, size: tuple[int, int]) -> None:
        # Colors are stored at half the size, but change from pixel to pixel in this image.
        pixels = soft(*size, channels)
        assert difference(compress(pixels, 100), pixels) < (0.5 if channels == 1 else 5)

    @pytest.mark.parametrize("channels", CHANNELS)
    def test_a_lower_quality_changes_it_more(self, channels: int) -> None:
        pixels = soft(64, 96, channels)
        differences = [difference(compress(pixels, quality), pixels) for quality in (100, 50, 20, 5)]
        assert differences == sorted(differences)
        assert differences[-1] > 10

    def test_the_worst_quality_leaves_blocks_of_one_shade(self) -> None:
        blocks = compress(noise(64, 64, 1) // 4, 1).reshape(8, 8, 8, 8)
        assert np.median(np.ptp(blocks, axis=(1, 3))) == 0


class TestTable:
    def test_params_tables_and_plots_have_the_same_corruptions(self) -> None:
        levels = {name for name, field in RobustnessParams.model_fields.items() if name != "photos" and field}
        assert set(CORRUPTIONS) == levels == set(EXPLAIN_ROBUSTNESS)
        plots = YAML(typ="safe").load(ROOT / "dvc.yaml")["plots"]
        labels = {
            next(iter(options["y"])): options["x_label"]
            for plot in plots
            if isinstance(plot, dict)
            for name, options in plot.items()
            if name.startswith("robustness")
        }
        assert labels == {
            str(EXPLAIN_ROBUSTNESS[name]): corruption.axis_label for name, corruption in CORRUPTIONS.items()
        }

    def test_names_and_axis_labels(self) -> None:
        assert list(CORRUPTIONS) == ["scribbles", "noise", "blur", "rotation", "jpeg"]
        assert [corruption.name for corruption in CORRUPTIONS.values()] == list(CORRUPTIONS)
        assert [corruption.axis_label for corruption in CORRUPTIONS.values()] == [
            "covered area, percent",
            "standard deviation, of 255",
            "standard deviation, percent of the shorter side",
            "degrees",
            "JPEG quality",
        ]

    @pytest.mark.parametrize("name", CORRUPTIONS)
    def test_stronger_levels_change_a_photo_more(self, name: str) -> None:
        pixels, corruption = soft(100, 100), CORRUPTIONS[name]
        levels = sorted(LEVELS[name], key=lambda level: abs(level - corruption.clean_level))
        differences = [difference(corruption.apply(pixels, level, generator()), pixels) for level in levels]
        assert differences == sorted(differences)
        assert differences[-1] > 1.5 * differences[0]

    @pytest.mark.parametrize("name", ["scribbles", "noise", "blur", "rotation"])
    @pytest.mark.parametrize("channels", CHANNELS)
    def test_level_0_is_the_photo_itself(self, channels: int, name: str) -> None:
        pixels = noise(16, 20, channels)
        corrupted = CORRUPTIONS[name].apply(pixels, 0, generator())
        np.testing.assert_array_equal(corrupted, pixels)
        assert not np.shares_memory(corrupted, pixels)

    @pytest.mark.parametrize("name", CORRUPTIONS)
    @pytest.mark.parametrize("shape", [(16, 16, 1), (16, 16, 3), (50, 70, 1), (70, 50, 3)])
    def test_results_are_reproducible_and_the_input_is_not_modified(
        self, shape: tuple[int, int, int], name: str
    ) -> None:
        for level in LEVELS[name]:
            pixels = noise(*shape)
            pixels.flags.writeable = False
            corrupted = CORRUPTIONS[name].apply(pixels, level, generator(7))
            assert (corrupted.shape, corrupted.dtype) == (shape, np.uint8)
            assert corrupted.flags.writeable
            np.testing.assert_array_equal(pixels, noise(*shape))
            np.testing.assert_array_equal(corrupted, CORRUPTIONS[name].apply(pixels, level, generator(7)))


class TestBatches:
    @pytest.mark.parametrize("name", CORRUPTIONS)
    @pytest.mark.parametrize("channels", CHANNELS)
    def test_a_result_does_not_depend_on_the_batch(self, channels: int, name: str) -> None:
        corruption, level = CORRUPTIONS[name], LEVELS[name][1]
        images, rows = np.stack([soft(32, 32, channels, seed) for seed in range(5)]), np.array([3, 90, 0, 12, 4])
        corrupted = corrupt_images(images, corruption, level, 1, rows)
        assert (corrupted.shape, corrupted.dtype) == (images.shape, np.uint8)
        chosen = [4, 1]
        np.testing.assert_array_equal(
            corrupt_images(images[chosen], corruption, level, 1, rows[chosen]), corrupted[chosen]
        )

    @pytest.mark.parametrize("name", ["scribbles", "noise"])
    def test_photos_and_seeds_get_different_corruptions(self, name: str) -> None:
        images, rows = np.full((3, 32, 32, 3), 128, np.uint8), np.array([0, 1, 2])
        drawn = [corrupt_images(images, CORRUPTIONS[name], 10, seed, rows) for seed in (0, 1, 2)]
        assert len({image.tobytes() for batch in drawn for image in batch}) == 9

    def test_a_higher_level_includes_the_scribbles_of_a_lower_one(self) -> None:
        rows = np.arange(4)
        batches = [np.full((4, 50, 50, 3), shade, np.uint8) for shade in (0, 255)]
        covered = []
        for level in (5, 10, 20):
            black, white = (corrupt_images(batch, CORRUPTIONS["scribbles"], level, 0, rows) for batch in batches)
            covered.append((black == white).all(axis=3))
        assert (covered[0] <= covered[1]).all()
        assert (covered[1] <= covered[2]).all()
        assert covered[0].sum() < covered[1].sum() < covered[2].sum()

    def test_a_row_number_per_image_is_required(self) -> None:
        with pytest.raises(ValueError, match="zip"):
            corrupt_images(np.zeros((2, 8, 8, 3), np.uint8), CORRUPTIONS["blur"], 5, 0, np.array([1]))

    def test_an_empty_batch_stays_empty(self) -> None:
        empty = np.zeros((0, 8, 8, 3), np.uint8)
        assert corrupt_images(empty, CORRUPTIONS["noise"], 5, 0, np.array([], np.int64)).shape == empty.shape


def test_the_module_does_not_import_keras() -> None:
    assert "keras" not in loaded_modules("darkroom.explanation.corruptions")
