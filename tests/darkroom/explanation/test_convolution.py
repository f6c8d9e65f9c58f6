import re

import keras
import numpy as np
import pytest

from darkroom.explanation.convolution import KERNEL_NAMES, Floats, convolve, edge_kernels, max_pool
from tests.imports import loaded_modules

SIDES = [(5, 6), (8, 7), (9, 9)]
PADDINGS = ("valid", "same")


def draw_floats(*shape: int, dtype: str = "float32", seed: int = 0) -> Floats:
    return np.random.default_rng(seed).normal(0, 1, shape).astype(dtype)


def convolve_in_keras(images: Floats, kernels: Floats, biases: Floats | None, strides: int, padding: str) -> Floats:
    height, width, _, filters = kernels.shape
    layer = keras.layers.Conv2D(
        filters, (height, width), strides, padding, use_bias=biases is not None, dtype=images.dtype.name
    )
    layer.build(images.shape)
    layer.set_weights([kernels] if biases is None else [kernels, biases])
    return keras.ops.convert_to_numpy(layer(images))


def assert_convolution_matches_keras(
    images: Floats, kernels: Floats, biases: Floats | None, strides: int, padding: str
) -> None:
    expected = convolve_in_keras(images, kernels, biases, strides, padding)
    convolved = convolve(images, kernels, biases, strides, padding)
    assert convolved.dtype == expected.dtype
    tolerance = 1e-4 if images.dtype == np.float32 else 1e-12
    np.testing.assert_allclose(convolved, expected, rtol=0, atol=tolerance)


class TestConvolve:
    def test_a_small_example_computed_by_hand(self) -> None:
        image = np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9]], np.float32).reshape(1, 3, 3, 1)
        kernel = np.array([[1, 0], [0, -2]], np.float32).reshape(2, 2, 1, 1)
        bias = np.array([100], np.float32)
        valid = convolve(image, kernel, bias, 1, "valid")
        assert valid[0, ..., 0].tolist() == [[91, 90], [88, 87]]  # 100 + 1 - 2 * 5, 100 + 2 - 2 * 6, ...
        same = convolve(image, kernel, None, 1, "same")
        assert same[0, ..., 0].tolist() == [[-9, -10, 3], [-12, -13, 6], [7, 8, 9]]

    @pytest.mark.parametrize("channels", [1, 3])
    @pytest.mark.parametrize("padding", PADDINGS)
    @pytest.mark.parametrize("strides", [1, 2, 3])
    @pytest.mark.parametrize("kernel_size", [1, 2, 3, 4, 5])
    def test_it_matches_keras(self, kernel_size: int, strides: int, padding: str, channels: int) -> None:
        for filters, sides in enumerate(SIDES, start=1):
            images = draw_floats(2, *sides, channels)
            kernels = draw_floats(kernel_size, kernel_size, channels, filters, seed=1)
            assert_convolution_matches_keras(images, kernels, draw_floats(filters, seed=2), strides, padding)

    @pytest.mark.parametrize("padding", PADDINGS)
    @pytest.mark.parametrize("shape", [(1, 4), (4, 1), (2, 5)])
    def test_kernels_need_not_be_square(self, shape: tuple[int, int], padding: str) -> None:
        assert_convolution_matches_keras(draw_floats(1, 7, 6, 3), draw_floats(*shape, 3, 4), None, 2, padding)

    def test_same_padding_allows_a_kernel_larger_than_the_image(self) -> None:
        assert_convolution_matches_keras(draw_floats(1, 2, 3, 3), draw_floats(5, 5, 3, 2), None, 1, "same")

    def test_double_precision_is_preserved(self) -> None:
        images, kernels = draw_floats(2, 8, 8, 3, dtype="float64"), draw_floats(3, 3, 3, 4, dtype="float64")
        assert_convolution_matches_keras(images, kernels, np.arange(4.0), 1, "same")

    def test_its_inputs_are_not_modified(self) -> None:
        arrays = [draw_floats(1, 5, 5, 2), draw_floats(2, 2, 2, 3), draw_floats(3)]
        for array in arrays:
            array.flags.writeable = False
        convolved = convolve(*arrays, 1, "valid")
        assert convolved.flags.writeable

    @pytest.mark.parametrize(
        ("images", "kernels", "biases", "strides", "message"),
        [
            ((5, 5, 3), (2, 2, 3, 4), None, 1, "got images of shape (5, 5, 3) and kernels of shape (2, 2, 3, 4)"),
            ((1, 5, 5, 3), (2, 2, 3), None, 1, "expected (B, H, W, C) and (h, w, C, F)"),
            ((1, 5, 5, 1), (2, 2, 3, 4), None, 1, "give the kernels as many channels as the images have"),
            ((1, 5, 5, 3), (2, 2, 3, 4), (3,), 1, "got biases of shape (3,), expected (4,); give one for each filter"),
            ((1, 5, 5, 3), (2, 2, 3, 4), (1, 4), 1, "got biases of shape (1, 4), expected (4,)"),
            ((1, 5, 5, 3), (2, 2, 3, 4), None, 0, "got a window of 2 x 2 pixels and strides of 0, expected at least 1"),
            ((1, 5, 5, 3), (2, 2, 3, 4), None, -1, "strides of -1"),
            ((1, 5, 5, 3), (0, 2, 3, 4), None, 1, "got a window of 0 x 2 pixels"),
            (
                (1, 3, 5, 3),
                (4, 4, 3, 4),
                None,
                1,
                "got a window of 4 x 4 pixels for images of 3 x 5, expected one that is no larger",
            ),
            ((1, 5, 3, 3), (4, 4, 3, 4), None, 1, 'make it smaller, or use the padding "same"'),
        ],
    )
    def test_invalid_arguments_are_rejected(
        self,
        images: tuple[int, ...],
        kernels: tuple[int, ...],
        biases: tuple[int, ...] | None,
        strides: int,
        message: str,
    ) -> None:
        with pytest.raises(ValueError, match=re.escape(message)):
            convolve(
                np.zeros(images), np.zeros(kernels), None if biases is None else np.zeros(biases), strides, "valid"
            )


class TestPool:
    def test_a_small_example_computed_by_hand(self) -> None:
        # All are negative: padding must never be the maximum.
        image = -np.arange(1, 10, dtype=np.float32).reshape(1, 3, 3, 1)
        assert max_pool(image, 2)[0, ..., 0].tolist() == [[-1]]
        assert max_pool(image, 2, 1)[0, ..., 0].tolist() == [[-1, -2], [-4, -5]]
        assert max_pool(image, 2, padding="same")[0, ..., 0].tolist() == [[-1, -3], [-7, -9]]

    @pytest.mark.parametrize("channels", [1, 3])
    @pytest.mark.parametrize("padding", PADDINGS)
    @pytest.mark.parametrize("strides", [None, 1, 2, 3])
    @pytest.mark.parametrize("pool_size", [1, 2, 3, 4])
    def test_it_matches_keras(self, pool_size: int, strides: int | None, padding: str, channels: int) -> None:
        layer = keras.layers.MaxPooling2D(pool_size, strides, padding)
        for sides in SIDES:
            images = draw_floats(2, *sides, channels) - 3
            pooled = max_pool(images, pool_size, strides, padding)
            assert pooled.dtype == np.float32
            np.testing.assert_array_equal(pooled, keras.ops.convert_to_numpy(layer(images)))

    @pytest.mark.parametrize(
        ("images", "pool_size", "strides", "message"),
        [
            ((5, 5, 3), 2, None, "got images of shape (5, 5, 3), expected (B, H, W, C); put a single image in a list"),
            ((1, 5, 5, 3), 0, None, "got a window of 0 x 0 pixels and strides of 0, expected at least 1 for each"),
            ((1, 5, 5, 3), 2, 0, "strides of 0"),
            ((1, 1, 5, 3), 2, None, "got a window of 2 x 2 pixels for images of 1 x 5"),
        ],
    )
    def test_invalid_arguments_are_rejected(
        self, images: tuple[int, ...], pool_size: int, strides: int | None, message: str
    ) -> None:
        with pytest.raises(ValueError, match=re.escape(message)):
            max_pool(np.zeros(images), pool_size, strides)


def draw_line(name: str, side: int, index: int) -> Floats:
    """A white line of one pixel across a black image (1, side, side, 1); a diagonal goes from corner to corner."""
    image = np.zeros((side, side), np.float32)
    match name:
        case "vertical":
            image[:, index] = 1
        case "horizontal":
            image[index] = 1
        case "falling diagonal":
            np.fill_diagonal(image, 1)
        case "rising diagonal":
            np.fill_diagonal(image[:, ::-1], 1)
    return image[None, ..., None]


class TestEdgeKernels:
    def test_the_3_x_3_kernels_are_the_line_detectors_of_the_textbook(self) -> None:
        kernels = edge_kernels(3)
        assert kernels.dtype == np.float32
        assert {name: kernels[..., number].tolist() for number, name in enumerate(KERNEL_NAMES)} == {
            "vertical": [[-1, 2, -1], [-1, 2, -1], [-1, 2, -1]],
            "horizontal": [[-1, -1, -1], [2, 2, 2], [-1, -1, -1]],
            "falling diagonal": [[2, -1, -1], [-1, 2, -1], [-1, -1, 2]],
            "rising diagonal": [[-1, -1, 2], [-1, 2, -1], [2, -1, -1]],
        }

    @pytest.mark.parametrize("kernel_size", range(2, 16))
    def test_they_do_not_respond_to_brightness(self, kernel_size: int) -> None:
        kernels = edge_kernels(kernel_size)
        assert kernels.shape == (kernel_size, kernel_size, 4)
        assert kernels.sum(axis=(0, 1)).tolist() == [0, 0, 0, 0]
        assert len({kernels[..., number].tobytes() for number in range(4)}) == 4
        bright = np.full((1, 20, 20, 1), 200, np.float32)
        assert not convolve(bright, kernels[:, :, None], None, 1, "valid").any()

    @pytest.mark.parametrize("kernel_size", range(2, 16))
    @pytest.mark.parametrize("name", KERNEL_NAMES)
    def test_a_line_gives_the_strongest_response_with_its_own_kernel(self, name: str, kernel_size: int) -> None:
        index = 17
        image = draw_line(name, side=40, index=index)
        responses = convolve(image, edge_kernels(kernel_size)[:, :, None], None, 1, "valid").max(axis=(0, 1, 2))
        own = KERNEL_NAMES.index(name)
        assert responses[own] == kernel_size * (kernel_size - 1)
        # Two pixels of a diagonal line also match half of a vertical one.
        assert np.delete(responses, own).max() <= responses[own] / 2
        assert np.argmax(responses) == own

    @pytest.mark.parametrize("kernel_size", [2, 3, 4, 7])
    def test_the_strongest_response_is_on_the_line(self, kernel_size: int) -> None:
        kernels = edge_kernels(kernel_size)[:, :, None]
        upright = convolve(draw_line("vertical", side=40, index=17), kernels, None, 1, "same")[0, 20, :, 0]
        flat = convolve(draw_line("horizontal", side=40, index=17), kernels, None, 1, "same")[0, :, 20, 1]
        assert np.argmax(upright) == np.argmax(flat) == 17

    @pytest.mark.parametrize("kernel_size", [1, 0, -3])
    def test_a_kernel_too_small_for_a_line_is_rejected(self, kernel_size: int) -> None:
        with pytest.raises(ValueError, match=f"got a kernel_size of {kernel_size}, expected at least 2"):
            edge_kernels(kernel_size)


def test_the_module_does_not_import_keras() -> None:
    assert "keras" not in loaded_modules("darkroom.explanation.convolution")
