from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import pytest

from darkroom.models.model_file import load_model, save_model
from darkroom.params.train import AugmentationParams
from darkroom.training import augmentation
from darkroom.training.augmentation import LAYERS, Augmentation, augment_for_preview, make_augmentation
from tests.examples import noise, train_params

NOTHING = train_params(augmentation={"fill_mode": "constant"}).augmentation
EVERYTHING = AugmentationParams(
    rotation_range=20,
    width_shift_range=0.1,
    height_shift_range=0.1,
    shear_range=10,
    zoom_range=0.1,
    channel_shift_range=30,
    horizontal_flip=True,
    vertical_flip=True,
    fill_mode="nearest",
)
# Seeds of the layers of EVERYTHING in order, for the seed 1.
KNOWN_SEEDS = [1016164991, 1114088975, 1381391841, 958438296, 1295943087, 1772869753, 1555123228]
COPIES = 64
HEIGHT, WIDTH = 41, 61  # odd, so that a pixel is in the center, and different, so that sides cannot be confused
CENTER = np.array([20, 30])


def only(fill_mode: str = "constant", **ranges: float | bool) -> AugmentationParams:
    return NOTHING.model_copy(update={"fill_mode": fill_mode, **ranges})


def augment(images: np.ndarray, params: AugmentationParams, seed: int = 0, training: bool = True) -> np.ndarray:
    values = images
    for layer in make_augmentation(params, seed):
        values = layer(values, training=training)
    return np.asarray(keras.ops.convert_to_numpy(values))


def augment_copies(image: np.ndarray, params: AugmentationParams, seed: int = 0) -> np.ndarray:
    """Augment many copies of one image at once, each with its own draws."""
    return augment(np.repeat(image[None], COPIES, axis=0), params, seed)


def seeds_of(layers: list[keras.layers.Layer]) -> list[int]:
    """The initial random states of layers."""
    return [int(keras.ops.convert_to_numpy(variable)[0]) for layer in layers for variable in layer.variables]


def spots(*positions: tuple[float, float]) -> np.ndarray:
    """A black image with a soft spot in each channel, at (row, column) from the center."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    distances = [(rows - CENTER[0] - row) ** 2 + (columns - CENTER[1] - column) ** 2 for row, column in positions]
    return np.stack([255 * np.exp(-distance / 8) for distance in distances], axis=-1).astype(np.float32)


def positions_of(images: np.ndarray) -> np.ndarray:
    """The positions of the spots, (copies, channels, 2): row and column from the center."""
    weights = images / images.sum(axis=(1, 2), keepdims=True)
    rows = np.einsum("nhwc,h->nc", weights, np.arange(HEIGHT) - CENTER[0])
    columns = np.einsum("nhwc,w->nc", weights, np.arange(WIDTH) - CENTER[1])
    return np.stack([rows, columns], axis=-1)


def ramp(height: int, width: int, along: str) -> np.ndarray:
    """Values that grow by 2 with each row, or with each column."""
    rows, columns = np.mgrid[:height, :width]
    return (50 + 2 * (rows if along == "height" else columns))[..., None].astype(np.float32)


def assert_spread_over(values: np.ndarray, limit: float, tolerance: float = 0.01) -> None:
    """Assert that draws lie within plus and minus the limit, and come close to both."""
    assert np.abs(values).max() <= limit * (1 + tolerance)
    assert values.max() > 0.8 * limit
    assert values.min() < -0.8 * limit


class TestShifts:
    def test_width_shift_moves_along_the_width_by_a_fraction_of_it(self) -> None:
        drawn = augment_copies(ramp(20, 40, "width"), only(width_shift_range=0.2))[..., 0]
        differences = ramp(20, 40, "width")[:, 9:31, 0] - drawn[:, :, 9:31]  # at least 9 columns from the edges
        shifts = differences.mean(axis=(1, 2)) / 2
        np.testing.assert_allclose(
            differences, np.broadcast_to(2 * shifts[:, None, None], differences.shape), atol=1e-3
        )
        assert_spread_over(shifts, 8)

    def test_height_shift_moves_along_the_height_by_a_fraction_of_it(self) -> None:
        drawn = augment_copies(ramp(40, 20, "height"), only(height_shift_range=0.2))[..., 0]
        differences = ramp(40, 20, "height")[9:31, :, 0] - drawn[:, 9:31]
        shifts = differences.mean(axis=(1, 2)) / 2
        np.testing.assert_allclose(
            differences, np.broadcast_to(2 * shifts[:, None, None], differences.shape), atol=1e-3
        )
        assert_spread_over(shifts, 8)

    @pytest.mark.parametrize(("shifted", "other"), [("width", "height"), ("height", "width")])
    def test_a_shift_in_one_direction_is_none_in_the_other(self, shifted: str, other: str) -> None:
        image = ramp(20, 30, along=other)
        drawn = augment_copies(image, only("nearest", **{f"{shifted}_shift_range": 0.3}))
        np.testing.assert_allclose(drawn, np.repeat(image[None], COPIES, axis=0), atol=1e-3)

    @pytest.mark.parametrize(
        ("fill_mode", "extended"),
        [("constant", "constant"), ("nearest", "edge"), ("reflect", "symmetric"), ("wrap", "wrap")],
    )
    def test_beyond_the_edges_is_what_the_fill_mode_says(self, fill_mode: str, extended: str) -> None:
        values = np.array([10, 200, 40, 90, 250, 120, 30, 180], np.float32)
        limit = 3  # pixels
        line = ramp(1, 8, "width")
        shifts = (line[0, 4] - augment_copies(line, only("nearest", width_shift_range=limit / 8))[:, 0, 4]).ravel() / 2
        drawn = augment_copies(values[None, :, None], only(fill_mode, width_shift_range=limit / 8))[:, 0, :, 0]

        wide = np.pad(values, 8, extended)
        expected = [np.interp(np.arange(8) - shift, np.arange(-8, 16), wide) for shift in shifts]
        beyond = (np.arange(8) - shifts[:, None] < -1) | (np.arange(8) - shifts[:, None] > 8)
        np.testing.assert_allclose(drawn[beyond], np.array(expected)[beyond], atol=0.01)
        assert beyond.sum() > COPIES / 2


class TestRotation:
    def test_it_rotates_about_the_center_within_the_range(self) -> None:
        right, above, center = positions_of(
            augment_copies(spots((0, 14), (-12, 0), (0, 0)), only(rotation_range=40))
        ).transpose(1, 0, 2)
        angles = np.arctan2(-right[:, 0], right[:, 1])  # rows count downwards
        assert_spread_over(np.degrees(angles), 40)
        np.testing.assert_allclose(right, 14 * np.stack([-np.sin(angles), np.cos(angles)], axis=1), atol=0.05)
        np.testing.assert_allclose(above, -12 * np.stack([np.cos(angles), np.sin(angles)], axis=1), atol=0.05)
        np.testing.assert_allclose(center, 0, atol=0.01)


class TestShear:
    def test_vertical_lines_are_sheared_within_the_range(self) -> None:
        above, below, center = positions_of(
            augment_copies(spots((-10, 0), (10, 3), (0, 7)), only(shear_range=30))
        ).transpose(1, 0, 2)
        slopes = above[:, 1] / 10
        assert_spread_over(np.degrees(np.arctan(slopes)), 30)
        np.testing.assert_allclose(below[:, 1], 3 - 10 * slopes, atol=0.05)
        np.testing.assert_allclose(center[:, 1], 7, atol=0.01)
        np.testing.assert_allclose(
            [above[:, 0], below[:, 0], center[:, 0]], [[-10], [10], [0]] * np.ones(COPIES), atol=0.05
        )

    def test_the_middle_row_does_not_change(self) -> None:
        image = noise(HEIGHT, WIDTH)
        drawn = augment_copies(image, only(shear_range=30))
        np.testing.assert_allclose(drawn[:, 20], np.repeat(image[None, 20], COPIES, axis=0), atol=0.01)
        assert np.median(np.abs(drawn[:, 0] - image[0]).mean(axis=(1, 2))) > 50


class TestZoom:
    def test_height_and_width_are_scaled_about_the_center_independently(self) -> None:
        right, below, center = positions_of(
            augment_copies(spots((0, 12), (8, 0), (0, 0)), only(zoom_range=0.3))
        ).transpose(1, 0, 2)
        widths, heights = 12 / right[:, 1] - 1, 8 / below[:, 0] - 1
        assert_spread_over(widths, 0.3, tolerance=0.02)
        assert_spread_over(heights, 0.3, tolerance=0.02)
        assert np.abs(np.corrcoef(widths, heights)[0, 1]) < 0.5
        np.testing.assert_allclose([right[:, 0], below[:, 1]], 0, atol=0.02)
        np.testing.assert_allclose(center, 0, atol=0.02)


class TestChannelShift:
    def test_each_channel_has_its_own_draw(self) -> None:
        image = 100 + noise(6, 7) // 5  # 100 to 151
        differences = augment_copies(image, only(channel_shift_range=90)) - image
        shifts = differences.mean(axis=(1, 2), keepdims=True)  # (copies, 1, 1, channels)
        np.testing.assert_allclose(differences, np.broadcast_to(shifts, differences.shape), atol=1e-4)
        assert_spread_over(shifts, 90)
        assert np.abs(np.diff(shifts, axis=3)).min() > 0

    def test_the_result_is_clipped(self) -> None:
        image = np.array([0, 128, 255], np.uint8).reshape(1, 3, 1)
        drawn = augment_copies(image, only(channel_shift_range=100))
        shifts = drawn[:, :, 1:2] - 128
        np.testing.assert_allclose(drawn, np.clip(image + shifts, 0, 255), atol=1e-4)
        assert (drawn.min(), drawn.max()) == (0, 255)


class TestFlips:
    @pytest.mark.parametrize(("flip", "axis"), [("vertical_flip", 0), ("horizontal_flip", 1)])
    def test_each_copy_is_the_image_or_flipped(self, flip: str, axis: int) -> None:
        image = noise(5, 7)
        drawn = augment_copies(image, only(**{flip: True}))
        flipped = [np.array_equal(copy, np.flip(image, axis)) for copy in drawn]
        unchanged = [np.array_equal(copy, image) for copy in drawn]
        assert all(one != other for one, other in zip(flipped, unchanged, strict=True))
        assert COPIES / 4 < sum(flipped) < COPIES * 3 / 4

    def test_the_two_flips_are_independent(self) -> None:
        image = noise(5, 7)
        drawn = augment_copies(image, only(horizontal_flip=True, vertical_flip=True))
        variants = [image, image[::-1], image[:, ::-1], image[::-1, ::-1]]
        counts = [sum(np.array_equal(copy, variant) for copy in drawn) for variant in variants]
        assert sum(counts) == COPIES
        assert min(counts) > COPIES / 16


class TestAll:
    def test_without_augmentation_there_are_no_layers(self) -> None:
        assert make_augmentation(NOTHING, 0) == []

    @pytest.mark.parametrize("channels", [1, 3])
    @pytest.mark.parametrize("dtype", [np.uint8, np.float32])
    def test_pixels_stay_floats_from_0_to_255(self, channels: int, dtype: type) -> None:
        images = np.stack([noise(9, 14, channels), np.full((9, 14, channels), 255)]).repeat(8, axis=0).astype(dtype)
        for params in (
            EVERYTHING,
            EVERYTHING.model_copy(update={"channel_shift_range": 0}),
            only(horizontal_flip=True),
        ):
            drawn = augment(images, params)
            assert (drawn.dtype, drawn.shape) == (np.float32, images.shape)
            assert drawn.min() >= 0
            assert drawn.max() <= 255

    @pytest.mark.parametrize("dtype", [np.uint8, np.float32])
    def test_they_change_nothing_outside_training(self, dtype: type) -> None:
        images = noise(9, 14)[None].repeat(4, axis=0).astype(dtype)
        np.testing.assert_array_equal(augment(images, EVERYTHING, training=False), images)

    def test_each_image_has_its_own_draws(self) -> None:
        assert len(np.unique(augment_copies(noise(9, 14), EVERYTHING), axis=0)) == COPIES

    def test_equal_seeds_give_equal_draws_and_different_seeds_different_ones(self) -> None:
        image = noise(9, 14)
        one, again, other = (augment_copies(image, EVERYTHING, seed) for seed in (2**32 - 1, 2**32 - 1, 5))
        np.testing.assert_array_equal(one, again)
        assert (np.abs(one - other).reshape(COPIES, -1).max(axis=1) > 1).mean() > 0.9

    def test_a_layer_does_not_depend_on_which_others_are_enabled(self) -> None:
        image = ramp(20, 40, "width")
        alone = augment_copies(image, only("nearest", width_shift_range=0.1))
        together = augment_copies(image, only("nearest", width_shift_range=0.1, vertical_flip=True))
        np.testing.assert_array_equal(alone, together)

    def test_the_seeds_of_the_layers_do_not_change(self) -> None:
        assert len(set(KNOWN_SEEDS)) == len(LAYERS), "add the seed of a new augmentation at the end"
        assert seeds_of(make_augmentation(EVERYTHING, 1)) == KNOWN_SEEDS, (
            "a new augmentation goes to the end of LAYERS: its index is part of the seeds"
        )

    def test_an_appended_augmentation_changes_no_seed_and_comes_last(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def darken(params: AugmentationParams, seed: int) -> keras.layers.Layer:  # noqa: ARG001
            return keras.layers.RandomBrightness((-0.5, -0.1), seed=seed, dtype="float32")

        before = make_augmentation(EVERYTHING, 1)
        monkeypatch.setattr(augmentation, "LAYERS", (*LAYERS, Augmentation(darken, clips=True)))
        after = make_augmentation(EVERYTHING, 1)
        assert [type(layer) for layer in after] == [*map(type, before), keras.layers.RandomBrightness]
        assert seeds_of(after)[:-1] == seeds_of(before)
        assert seeds_of(after)[-1] not in seeds_of(before)

    @pytest.mark.usefixtures("mixed_precision")
    def test_the_layers_ignore_mixed_precision(self) -> None:
        image = noise(9, 14)
        drawn = augment_copies(image, EVERYTHING)
        keras.config.set_dtype_policy("float32")
        np.testing.assert_array_equal(drawn, augment_copies(image, EVERYTHING))


@pytest.fixture
def mixed_precision() -> Iterator[None]:
    keras.config.set_dtype_policy("mixed_float16")
    yield
    keras.config.set_dtype_policy("float32")


class TestTraining:
    def make_core(self) -> keras.Model:
        keras.utils.clear_session()
        keras.utils.set_random_seed(4)
        layers = keras.layers
        return keras.Sequential(
            [keras.Input((9, 14, 3)), layers.Rescaling(1 / 255), layers.Flatten(), layers.Dense(2, "softmax")]
        )

    def train(self, core: keras.Model, seed: int, params: AugmentationParams = EVERYTHING) -> keras.Model:
        training_model = keras.Sequential([keras.Input((9, 14, 3)), *make_augmentation(params, seed), core])
        training_model.compile("sgd", "sparse_categorical_crossentropy", jit_compile=False)
        images = np.stack([noise(9, 14, seed=number) for number in range(16)])
        training_model.fit(images, np.arange(16) % 2, batch_size=8, epochs=2, shuffle=False, verbose=0)
        return training_model

    def test_equal_seeds_give_equal_weights_and_different_seeds_different_ones(self) -> None:
        weights = []
        for seed in (1, 1, 2):
            core = self.make_core()
            self.train(core, seed)
            weights.append(core.get_weights()[0])
        np.testing.assert_array_equal(weights[0], weights[1])
        assert np.abs(weights[0] - weights[2]).max() > 1e-4

    def test_the_random_states_are_variables_of_the_training_model(self) -> None:
        layers = make_augmentation(EVERYTHING, 1)
        training_model = keras.Sequential([keras.Input((9, 14, 3)), *layers])
        assert [variable.path for variable in training_model.variables if "seed" in variable.path] == [
            layer_variable.path for layer in layers for layer_variable in layer.variables
        ]
        before = [keras.ops.convert_to_numpy(variable) for variable in training_model.variables]
        training_model(noise(9, 14)[None], training=True)
        after = [keras.ops.convert_to_numpy(variable) for variable in training_model.variables]
        assert len(before) == 7
        assert not any(np.array_equal(*pair) for pair in zip(before, after, strict=True))

    def test_only_the_network_after_them_is_saved(self, workspace: Path) -> None:
        core = self.make_core()
        training_model = self.train(core, 1)
        images = noise(9, 14)[None].repeat(3, axis=0)
        save_model(core, workspace / "core.keras")
        loaded = load_model(workspace / "core.keras")
        assert [layer.name for layer in loaded.layers] == ["rescaling", "flatten", "dense"]
        for model in (core, loaded):
            probabilities = keras.ops.convert_to_numpy(model(images, training=True))
            np.testing.assert_array_equal(probabilities, training_model.predict(images, verbose=0))


class TestPreview:
    def test_images_differ_between_epochs_and_from_one_another(self) -> None:
        images = noise(9, 14)[None].repeat(4, axis=0)
        examples = augment_for_preview(images, EVERYTHING, seed=3, epochs=5)
        assert (examples.shape, examples.dtype) == ((5, 4, 9, 14, 3), np.uint8)
        assert len(np.unique(examples.reshape(20, -1), axis=0)) == 20
        np.testing.assert_array_equal(examples, augment_for_preview(images, EVERYTHING, seed=3, epochs=5))

    def test_images_are_the_rounded_output_of_the_layers(self) -> None:
        images = noise(9, 14)[None].repeat(4, axis=0)
        expected = np.rint(augment(images, EVERYTHING, seed=3)).astype(np.uint8)
        np.testing.assert_array_equal(augment_for_preview(images, EVERYTHING, seed=3, epochs=1)[0], expected)

    def test_without_augmentation_images_do_not_change(self) -> None:
        images = noise(9, 14, 1)[None]
        np.testing.assert_array_equal(augment_for_preview(images, NOTHING, seed=3, epochs=2), [images, images])
