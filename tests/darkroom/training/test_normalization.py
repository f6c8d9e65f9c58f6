import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import keras
import numpy as np
import pytest
import scipy.linalg

from darkroom.models.model_file import save_model
from darkroom.params.train import Normalization
from darkroom.pipeline.arrays import Pixels
from darkroom.pipeline.dataset import StoredImages
from darkroom.pipeline.stage import StageError
from darkroom.training import normalization
from darkroom.training.normalization import (
    check_zca_memory,
    fit_normalization,
    fit_zca,
    measure_channels,
    normalize_for_preview,
)
from tests.examples import noise

pytestmark = pytest.mark.slow

NAMES = get_args(Normalization)
IMAGENET = {"imagenet_tf": "mobilenet_v2", "imagenet_torch": "densenet", "imagenet_caffe": "vgg16"}
EPSILON = 0.01
COUNT = 200
SHAPE = (4, 5, 3)
ROW_NUMBERS = np.arange(0, COUNT, 2)

LOAD = """
import sys
from pathlib import Path
import keras, numpy as np
for file in Path().glob("*.keras"):
    model = keras.models.load_model(file, safe_mode=True)
    np.save(file.with_suffix(".npy"), keras.ops.convert_to_numpy(model(np.load("inputs/pixels.npy"))))
assert not [name for name in sys.modules if name.startswith("darkroom")]
"""


def draw_pixels(count: int = COUNT, shape: tuple[int, int, int] = SHAPE) -> Pixels:
    """Images with correlated pixels and different channels, of which every second one is darker."""
    rng = np.random.default_rng(0)
    common = rng.normal(0, 30, (count, 1, 1, 1))
    pixels = 120 + 20 * np.arange(shape[2]) + common + rng.normal(0, 20, (count, *shape))
    pixels[1::2] -= 60
    return np.clip(pixels, 0, 255).astype(np.uint8)


def store(pixels: Pixels, folder: Path) -> StoredImages:
    np.save(folder / "images.npy", pixels)
    return StoredImages(folder / "images.npy", len(pixels))


def fit(name: Normalization, images: StoredImages, row_numbers: np.ndarray = ROW_NUMBERS) -> list[keras.layers.Layer]:
    return fit_normalization(name, images, row_numbers, EPSILON, 100, threads=2)


def normalize(layers: list[keras.layers.Layer], pixels: np.ndarray) -> np.ndarray:
    values = pixels
    for layer in layers:
        values = layer(values)
    return np.asarray(keras.ops.convert_to_numpy(values))


def apply_formula(name: str, fitted: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """The normalization of `pixels` by its formula, fitted to `fitted`, in float64."""
    seen, pixels = fitted.astype(np.float64), pixels.astype(np.float64)
    match name:
        case "rescale":
            return pixels / 255
        case "samplewise":
            return (pixels - pixels.mean(axis=(1, 2, 3), keepdims=True)) / pixels.std(axis=(1, 2, 3), keepdims=True)
        case "featurewise":
            return (pixels - seen.mean(axis=(0, 1, 2))) / seen.std(axis=(0, 1, 2))
        case "zca":
            flat = seen.reshape(len(seen), -1) / 255
            covariance = np.cov(flat, rowvar=False, bias=True)
            whitening = np.linalg.inv(scipy.linalg.sqrtm(covariance + EPSILON * np.eye(len(covariance))))
            return ((pixels.reshape(len(pixels), -1) / 255 - flat.mean(axis=0)) @ whitening).reshape(pixels.shape)
    module = getattr(keras.applications, IMAGENET[name])
    return np.asarray(module.preprocess_input(pixels.copy()))


@pytest.fixture
def pixels() -> Pixels:
    return draw_pixels()


@pytest.fixture
def images(pixels: Pixels, workspace: Path) -> StoredImages:
    return store(pixels, workspace)


@pytest.fixture
def mixed_precision() -> Iterator[None]:
    keras.config.set_dtype_policy("mixed_float16")
    yield
    keras.config.set_dtype_policy("float32")


def make_network(layers: list[keras.layers.Layer]) -> keras.Model:
    return keras.Sequential(
        [
            keras.Input(SHAPE),
            *layers,
            keras.layers.Conv2D(2, 3),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(2, activation="softmax"),
        ]
    )


def make_functional(layers: list[keras.layers.Layer]) -> keras.Model:
    start = end = keras.Input(SHAPE)
    for layer in layers:
        end = layer(end)
    return keras.Model(start, end)


def test_a_process_without_this_project_loads_saved_networks(
    pixels: Pixels, images: StoredImages, workspace: Path
) -> None:
    (workspace / "inputs").mkdir()
    np.save("inputs/pixels.npy", pixels)
    expected = {}
    for name in NAMES:
        sequential = keras.Sequential([keras.Input(SHAPE), *fit(name, images)])
        for built_as, model in {"sequential": sequential, "functional": make_functional(fit(name, images))}.items():
            save_model(model, workspace / f"{name}-{built_as}.keras")
            expected[f"{name}-{built_as}.npy"] = np.asarray(keras.ops.convert_to_numpy(model(pixels)))

    subprocess.run([sys.executable, "-c", LOAD], check=True, cwd=workspace)

    for file, values in expected.items():
        loaded = np.load(file)
        np.testing.assert_array_equal(loaded, values)
        formula = apply_formula(file.split("-")[0], pixels[ROW_NUMBERS], pixels)
        np.testing.assert_allclose(loaded, formula, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
class TestEveryNormalization:
    @pytest.mark.parametrize("dtype", [np.uint8, np.float32])
    def test_it_matches_its_formula_fitted_to_the_given_images_alone(
        self, name: Normalization, pixels: Pixels, images: StoredImages, dtype: type
    ) -> None:
        expected = apply_formula(name, pixels[ROW_NUMBERS], pixels)
        normalized = normalize(fit(name, images), pixels.astype(dtype))
        assert normalized.dtype == np.float32
        np.testing.assert_allclose(normalized, expected, rtol=1e-4, atol=1e-4)

    def test_neither_the_order_of_the_images_nor_the_batches_matter(
        self, name: Normalization, pixels: Pixels, images: StoredImages, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        expected = normalize(fit(name, images), pixels)
        monkeypatch.setattr(normalization, "BATCH_BYTES", 7 * 8 * np.prod(SHAPE))
        shuffled = np.random.default_rng(1).permutation(ROW_NUMBERS)
        np.testing.assert_array_equal(normalize(fit(name, images, shuffled), pixels), expected)

    def test_equal_networks_give_equal_files(self, name: Normalization, images: StoredImages, workspace: Path) -> None:
        for file in ("one.keras", "two.keras"):
            keras.utils.clear_session()
            keras.utils.set_random_seed(1)
            save_model(make_network(fit(name, images)), workspace / file)
        assert (workspace / "one.keras").read_bytes() == (workspace / "two.keras").read_bytes()

    def test_it_does_not_change_the_initial_weights(self, name: Normalization, images: StoredImages) -> None:
        weights = []
        for layers in ([], fit(name, images)):
            keras.utils.set_random_seed(1)
            weights.append(make_network(layers).trainable_variables)
        assert len(weights[0]) == len(weights[1])
        for pair in zip(*weights, strict=True):
            np.testing.assert_array_equal(*pair)

    def test_it_does_not_train(self, name: Normalization, pixels: Pixels, images: StoredImages) -> None:
        layers = fit(name, images)
        before = normalize(layers, pixels)
        network = make_network(layers)
        network.compile("sgd", "sparse_categorical_crossentropy", jit_compile=False)
        weights = network.get_weights()[-1]
        network.fit(pixels, np.arange(COUNT) % 2, epochs=2, verbose=0)
        np.testing.assert_array_equal(normalize(layers, pixels), before)
        assert np.abs(network.get_weights()[-1] - weights).max() > 0

    @pytest.mark.usefixtures("mixed_precision")
    def test_it_ignores_mixed_precision(self, name: Normalization, pixels: Pixels, images: StoredImages) -> None:
        model = keras.Sequential([keras.Input(SHAPE), *fit(name, images)])
        normalized = np.asarray(keras.ops.convert_to_numpy(model(pixels)))
        assert normalized.dtype == np.float32
        np.testing.assert_allclose(normalized, apply_formula(name, pixels[ROW_NUMBERS], pixels), rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("value", [0, 77, 255])
    def test_constant_images_give_finite_values(self, name: Normalization, value: int, workspace: Path) -> None:
        constant = np.full((5, *SHAPE), value, np.uint8)
        layers = fit(name, store(constant, workspace), np.arange(5))
        assert np.isfinite(normalize(layers, constant)).all()
        assert np.abs(normalize(layers, 255 - constant)).max() < 256

    def test_gray_images_are_normalized_or_rejected(self, name: Normalization, workspace: Path) -> None:
        gray = draw_pixels(50, (6, 4, 1))
        row_numbers = np.arange(0, 50, 2)
        if name in IMAGENET:
            with pytest.raises(StageError) as caught:
                fit(name, store(gray, workspace), row_numbers)
            assert str(caught.value) == (
                f"train.normalization: {name} requires RGB images (3 channels), got 1 channel(s); set "
                "augment.color to rgb, or train.normalization to rescale, samplewise or featurewise"
            )
        else:
            normalized = normalize(fit(name, store(gray, workspace), row_numbers), gray)
            np.testing.assert_allclose(normalized, apply_formula(name, gray[row_numbers], gray), rtol=1e-4, atol=1e-4)


class TestSamplewise:
    @pytest.mark.parametrize("shape", [(4, 5, 3), (100, 100, 3), (224, 224, 3)])
    @pytest.mark.parametrize("value", [1, 77, 254])
    def test_a_constant_image_gives_nearly_0(
        self, shape: tuple[int, int, int], value: int, images: StoredImages
    ) -> None:
        normalized = normalize(fit("samplewise", images), np.full((1, *shape), value, np.uint8))
        np.testing.assert_allclose(normalized, 0, atol=0.02)

    def test_an_image_of_low_contrast_gets_deviation_1_too(self, images: StoredImages) -> None:
        faint = 100 + np.indices((20, 20)).sum(axis=0)[None, :, :, None].repeat(3, axis=3) % 2
        normalized = normalize(fit("samplewise", images), faint.astype(np.uint8))
        assert normalized.std() == pytest.approx(1, abs=2e-3)


class TestFeaturewise:
    def test_the_given_images_get_mean_0_and_variance_1(self, pixels: Pixels, images: StoredImages) -> None:
        normalized = normalize(fit("featurewise", images), pixels[ROW_NUMBERS])
        np.testing.assert_allclose(normalized.mean(axis=(0, 1, 2)), 0, atol=1e-4)
        np.testing.assert_allclose(normalized.std(axis=(0, 1, 2)), 1, atol=1e-4)

    def test_a_constant_channel_becomes_0_and_other_values_of_it_stay_within_1(self, workspace: Path) -> None:
        pixels = draw_pixels()
        pixels[..., 1] = 40
        layers = fit("featurewise", store(pixels, workspace))
        assert not normalize(layers, pixels)[..., 1].any()
        pixels[..., 1] = 91
        np.testing.assert_allclose(normalize(layers, pixels)[..., 1], 51 / 255, atol=1e-6)

    def test_white_images_beyond_32_bits_are_summed_exactly(self, workspace: Path) -> None:
        white = np.full((30, 100, 100, 1), 255, np.uint8)
        white[0, 0, 0, 0] = 254
        count = white.size
        mean, variance = measure_channels(store(white, workspace), np.arange(30))
        assert mean[0] == 255 - 1 / count
        np.testing.assert_allclose(variance[0], (count - 1) / count**2, rtol=1e-12)


class TestZca:
    def test_whitened_images_are_uncorrelated(self, pixels: Pixels, images: StoredImages) -> None:
        mean, whitening = fit_zca(images, ROW_NUMBERS, 1e-9, threads=2)
        values = (pixels[ROW_NUMBERS] / 255 - mean).reshape(len(ROW_NUMBERS), -1) @ whitening.astype(np.float64)
        np.testing.assert_allclose(np.cov(values, rowvar=False, bias=True), np.eye(60), atol=0.01)
        before = np.corrcoef(pixels[ROW_NUMBERS].reshape(len(ROW_NUMBERS), -1), rowvar=False)
        assert np.abs(before - np.eye(60)).max() > 0.5

    def test_fewer_images_than_values_are_enough(self, pixels: Pixels, images: StoredImages) -> None:
        row_numbers = np.arange(12)
        normalized = normalize(fit("zca", images, row_numbers), pixels)
        np.testing.assert_allclose(normalized, apply_formula("zca", pixels[row_numbers], pixels), rtol=1e-4, atol=1e-4)

    def test_equal_numbers_of_threads_give_equal_bits(self, images: StoredImages) -> None:
        one, again = (fit_zca(images, ROW_NUMBERS, EPSILON, threads=2) for _ in range(2))
        np.testing.assert_array_equal(one[1], again[1])
        np.testing.assert_array_equal(one[1], one[1].T)

    def test_large_images_are_rejected_with_the_arithmetic_before_any_is_read(self, workspace: Path) -> None:
        images = store(np.zeros((1, 224, 224, 3), np.uint8), workspace)
        (workspace / "images.npy").unlink()
        with pytest.raises(StageError) as caught:
            fit_normalization("zca", images, np.arange(1), 1e-6, 1000, threads=2)
        assert str(caught.value) == (
            "train.normalization: zca needs 150528 x 150528 numbers (224 x 224 x 3 squared) x 8 bytes x "
            "3 = 543,808 MB, but train.zca.maximum_megabytes is 1,000; reduce augment.image_size, raise "
            "the limit, or use featurewise"
        )

    def test_the_limit_is_exact_to_the_megabyte(self) -> None:
        check_zca_memory((32, 32, 3), 226.5)
        with pytest.raises(StageError, match="= 226 MB, but train.zca.maximum_megabytes is 226.49;"):
            check_zca_memory((32, 32, 3), 226.49)

    def test_with_the_epsilon_of_the_recipes_real_image_sizes_match_the_formula(self, workspace: Path) -> None:
        # Smooth, like photos: the smallest eigenvalues, which are amplified most, are far below the largest.
        rng = np.random.default_rng(2)
        waves = rng.normal(0, 1, (400, 3, 3, 3)).repeat(6, axis=1).repeat(6, axis=2)[:, :16, :16]
        pixels = np.clip(120 + 50 * waves + rng.normal(0, 2, waves.shape), 0, 255).astype(np.uint8)
        (layers,) = [fit_normalization("zca", store(pixels, workspace), np.arange(300), 1e-3, 100, threads=2)]
        flat = pixels.reshape(400, -1) / 255
        covariance = np.cov(flat[:300], rowvar=False, bias=True)
        values, vectors = np.linalg.eigh(covariance)
        expected = (flat - flat[:300].mean(axis=0)) @ (vectors / np.sqrt(values + 1e-3)) @ vectors.T
        np.testing.assert_allclose(normalize(layers, pixels), expected.reshape(pixels.shape), atol=1e-4)


class TestPreview:
    def test_the_middle_99_percent_of_the_values_are_scaled_to_0_to_255(
        self, pixels: Pixels, images: StoredImages
    ) -> None:
        layers = fit("featurewise", images)
        preview = normalize_for_preview(layers, pixels)
        values = normalize(layers, pixels)
        assert (preview.pixels.shape, preview.pixels.dtype) == (pixels.shape, np.uint8)
        assert (preview.low, preview.high) == pytest.approx(tuple(np.percentile(values, [0.5, 99.5])), abs=1e-5)
        inside = (values > preview.low) & (values < preview.high)
        restored = preview.low + preview.pixels / 255 * (preview.high - preview.low)
        np.testing.assert_allclose(restored[inside], values[inside], atol=(preview.high - preview.low) / 255)
        assert np.unique(preview.pixels[~inside]).tolist() == [0, 255]
        assert 0.985 < inside.mean() < 0.995

    def test_constant_images_are_black(self, images: StoredImages) -> None:
        preview = normalize_for_preview(fit("rescale", images), np.full((2, *SHAPE), 51, np.uint8))
        assert not preview.pixels.any()
        assert preview.low == preview.high == pytest.approx(0.2)

    def test_without_layers_the_limits_are_those_of_the_pixels(self) -> None:
        pixels = noise(20, 20)[None]
        preview = normalize_for_preview([], pixels)
        assert (preview.low, preview.high) == tuple(np.percentile(pixels, [0.5, 99.5]))
