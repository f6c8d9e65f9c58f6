import keras
import numpy as np
import pytest
from keras import layers

from darkroom.contact_sheet import SheetRow
from darkroom.explanation.convolution import KERNEL_NAMES, convolve, edge_kernels, max_pool
from darkroom.explanation.filters import (
    SHOWN_FILTERS,
    Floats,
    choose_filters,
    find_first_layers,
    predict_maps,
    show_kernels,
    show_maps,
    show_set_kernels,
    show_trained_kernels,
)
from darkroom.pipeline.arrays import Pixels
from darkroom.training.networks import build_network
from tests.examples import noise, train_params

GRAY = 128  # a weight of 0


def make_network(name: str, channels: int = 3, side: int = 16) -> keras.Model:
    keras.utils.set_random_seed(2)
    network = build_network(train_params(network=name), (side, side, channels), 3, [layers.Rescaling(1 / 255)])
    return network.model


def own_outputs(model: keras.Model, layer: str, pixels: Pixels) -> Floats:
    """The outputs of a layer of the model for a photo, (h, w, F)."""
    return np.asarray(keras.Model(model.inputs, model.get_layer(layer).output)(pixels[None])[0], np.float64)


def shades(row: SheetRow) -> Pixels:
    """The images of a row, (images, H, W, C)."""
    return np.stack(row.images)


class TestFirstLayers:
    @pytest.mark.parametrize(
        ("name", "is_pooled_directly"),
        [("keras_cifar10_cnn", False), ("sigmoid_cnn", True), ("cats_dogs_cnn", True)],
    )
    def test_the_first_convolution_and_the_first_pooling_are_found(self, name: str, is_pooled_directly: bool) -> None:
        model = make_network(name, side=64)
        convolution = next(layer for layer in model.layers if isinstance(layer, layers.Conv2D))
        pooling = next(layer for layer in model.layers if isinstance(layer, layers.MaxPooling2D))
        photo = noise(64, 64)

        first = find_first_layers(model)

        assert first is not None
        assert (first.name, first.pooling) == (convolution.name, pooling.name)
        assert first.is_pooled_directly == is_pooled_directly
        assert first.kernels.shape[2:] == (3, 32)
        np.testing.assert_array_equal(first.kernels, convolution.get_weights()[0])
        np.testing.assert_allclose(
            predict_maps(first.maps, photo), own_outputs(model, convolution.name, photo), atol=1e-6
        )
        np.testing.assert_allclose(
            predict_maps(first.pooled, photo), own_outputs(model, pooling.name, photo), atol=1e-6
        )

    def test_the_maps_come_after_batch_normalization_and_activation(self) -> None:
        model = make_network("compact_cnn", side=32)
        activation = next(layer for layer in model.layers if isinstance(layer, layers.Activation))
        photo = noise(32, 32)
        first = find_first_layers(model)
        assert first is not None
        assert (first.pooling, first.pooled, first.is_pooled_directly) == ("", None, False)
        maps = predict_maps(first.maps, photo)
        assert maps.min() == 0
        np.testing.assert_allclose(maps, own_outputs(model, activation.name, photo), atol=1e-6)

    def test_a_branch_ends_the_search_for_an_activation(self) -> None:
        pixels = keras.Input((8, 8, 1))
        maps = layers.Conv2D(2, 3)(pixels)
        branch = layers.ReLU()(maps)
        first = find_first_layers(keras.Model(pixels, layers.MaxPooling2D(2)(layers.Add()([maps, branch]))))
        assert first is not None
        assert first.pooling
        assert not first.is_pooled_directly

    def test_layers_of_a_nested_network_are_found(self) -> None:
        inner = keras.Sequential(
            [keras.Input((16, 16, 3)), layers.Conv2D(4, 3), layers.ReLU(), layers.AveragePooling2D(2, name="mean")]
        )
        pixels = keras.Input((16, 16, 3))
        values = inner(layers.Rescaling(1 / 255)(pixels))
        model = keras.Model(pixels, layers.Dense(2, activation="softmax")(layers.Flatten()(values)))
        photo = noise(16, 16)
        first = find_first_layers(model)
        assert first is not None
        assert (first.name, first.pooling, first.is_pooled_directly) == (inner.layers[0].name, "mean", True)
        maps = np.maximum(own_outputs(inner, inner.layers[0].name, photo / 255), 0)
        np.testing.assert_allclose(predict_maps(first.maps, photo), maps, atol=1e-6)
        pooled = maps[:14].reshape(7, 2, 7, 2, 4).mean(axis=(1, 3))
        np.testing.assert_allclose(predict_maps(first.pooled, photo), pooled, atol=1e-6)

    def test_a_network_without_a_convolution_has_no_first_layers(self) -> None:
        pixels = keras.Input((8, 8, 1))
        model = keras.Model(pixels, layers.Dense(2, activation="softmax")(layers.Flatten()(pixels)))
        assert find_first_layers(model) is None
        assert show_trained_kernels(model, [noise(8, 8, 1)], ["photo"]) == []


class TestTrainedKernels:
    @pytest.mark.parametrize("channels", [1, 3])
    def test_keras_and_plain_numpy_give_the_same_images(self, channels: int) -> None:
        model = make_network("sigmoid_cnn", channels)
        convolution = next(layer for layer in model.layers if isinstance(layer, layers.Conv2D))
        convolution.bias.assign(np.linspace(-1, 1, 32))
        photos = [noise(16, 16, channels, seed) for seed in (0, 1)]
        kernels, biases = convolution.get_weights()
        maps = [convolve(photo[None] / 255.0, kernels, biases, 1, "same") for photo in photos]
        chosen = choose_filters([values[0] for values in maps])
        captions = [str(index + 1) for index in chosen]

        shown, *rows = show_trained_kernels(model, photos, ["one", "other"])

        assert shown.title == f"Trained kernels of {convolution.name}, the 8 of 32 whose maps vary most"
        assert shown.captions == captions
        np.testing.assert_array_equal(shades(shown), show_kernels(kernels[..., chosen]))
        titles = [f"feature maps of {convolution.name}", "feature maps after "]
        assert len(rows) == 4
        for row, (name, number) in zip(rows, [("one", 0), ("one", 1), ("other", 0), ("other", 1)], strict=True):
            values = maps[("one", "other").index(name)]
            expected = show_maps("", (max_pool(values, 2) if number else values)[0][..., chosen], captions)
            assert row.title.startswith(f"{name}: {titles[number]}")
            assert row.captions == captions
            assert shades(row).shape[1:] == ((8, 8, 1) if number else (16, 16, 1))
            # Keras computes in 32 bits: a value halfway between two shades may be rounded to either.
            np.testing.assert_allclose(shades(row).astype(int), shades(expected).astype(int), atol=1)

    def test_a_pooling_of_other_filters_is_numbered_separately(self) -> None:
        model = make_network("keras_cifar10_cnn")
        photo = noise(16, 16)
        first = find_first_layers(model)
        assert first is not None
        _, maps, pooled = show_trained_kernels(model, [photo], ["photo"])
        for row, map_model in ((maps, first.maps), (pooled, first.pooled)):
            values = predict_maps(map_model, photo)
            chosen = choose_filters([values])
            assert row.captions == [str(index + 1) for index in chosen]
            np.testing.assert_array_equal(shades(row), show_maps("", values[..., chosen], []).images)

    def test_few_filters_are_all_shown_and_without_pooling_there_is_no_further_row(self) -> None:
        pixels = keras.Input((8, 8, 3))
        maps = layers.Conv2D(3, 3, name="only")(pixels)
        shown, shown_maps = show_trained_kernels(keras.Model(pixels, maps), [noise(8, 8)], ["photo"])
        assert (shown.title, shown.captions) == ("Trained kernels of only, all 3", ["1", "2", "3"])
        assert shown_maps.title == "photo: feature maps of only"


class TestChoice:
    def test_the_filters_that_vary_most_over_all_photos_are_chosen_in_order(self) -> None:
        one, other = np.zeros((4, 4, 12)), np.zeros((4, 4, 12))
        one[0, 0] = np.arange(12)  # the last ones vary most on one photo,
        other[0, 0, 2] = 100  # and the third on the other
        assert choose_filters([one]) == [4, 5, 6, 7, 8, 9, 10, 11]
        assert choose_filters([one, other]) == [2, 5, 6, 7, 8, 9, 10, 11]

    def test_ties_go_to_the_first_filters(self) -> None:
        assert choose_filters([np.full((4, 4, 12), 7.0)]) == list(range(SHOWN_FILTERS))

    def test_fewer_filters_are_all_chosen(self) -> None:
        assert choose_filters([np.zeros((4, 4, 3))]) == [0, 1, 2]


class TestKernels:
    def test_zero_is_gray_and_the_strongest_weight_is_white_or_black(self) -> None:
        kernels = np.zeros((2, 2, 1, 3), np.float32)
        kernels[0, 0, 0] = [4, -4, 0]
        kernels[0, 1, 0] = [-2, 0.5, 0]
        images = show_kernels(kernels)
        assert [image[..., 0].tolist() for image in images] == [
            [[255, 64], [GRAY, GRAY]],
            [[0, 143], [GRAY, GRAY]],
            [[GRAY, GRAY], [GRAY, GRAY]],
        ]
        assert {(image.shape, image.dtype.name) for image in images} == {((2, 2, 1), "uint8")}

    def test_kernels_of_three_channels_are_shown_in_color(self) -> None:
        kernels = np.zeros((1, 1, 3, 1))
        kernels[0, 0, :, 0] = [1, 0, -0.5]
        assert show_kernels(kernels)[0].tolist() == [[[255, GRAY, 64]]]

    def test_other_numbers_of_channels_are_averaged(self) -> None:
        kernels = np.zeros((1, 2, 4, 1))
        kernels[0, :, :, 0] = [[1, 1, 1, 1], [1, 1, -1, -3]]
        assert show_kernels(kernels)[0].tolist() == [[[255], [64]]]


class TestMaps:
    def test_each_map_is_scaled_from_black_to_white_and_a_constant_one_is_white_above_0(self) -> None:
        maps = np.stack(
            [[[-1.0, 0.0], [1.0, 3.0]], np.full((2, 2), 5.0), np.zeros((2, 2)), np.full((2, 2), -5.0)], axis=2
        )
        row = show_maps("title", maps, ["one", "flat", "nothing", "below"])
        assert [image[..., 0].tolist() for image in row.images] == [
            [[0, 64], [128, 255]],
            [[255, 255]] * 2,
            [[0, 0]] * 2,
            [[0, 0]] * 2,
        ]
        assert (row.title, row.captions) == ("title", ["one", "flat", "nothing", "below"])


class TestSetKernels:
    def test_each_photo_has_a_row_of_maps_and_one_of_pooled_maps(self) -> None:
        photos = [noise(12, 10, 1, seed) for seed in (0, 1)]
        kernels, *rows = show_set_kernels(photos, ["one", "other"], 3, 1, "same", 2)
        assert kernels.title == "Hand-crafted kernels that detect lines"
        np.testing.assert_array_equal(shades(kernels), show_kernels(edge_kernels(3)[:, :, None]))
        assert [row.title for row in rows] == [
            f"{name}: {content}"
            for name in ("one", "other")
            for content in ("feature maps", "feature maps after 2 x 2 max pooling")
        ]
        assert all(list(row.captions) == list(KERNEL_NAMES) for row in (kernels, *rows))
        assert [shades(row).shape for row in rows] == [(4, 12, 10, 1), (4, 6, 5, 1)] * 2
        maps = np.maximum(convolve(photos[1][None] / 255, edge_kernels(3)[:, :, None], None, 1, "same"), 0)
        np.testing.assert_array_equal(shades(rows[2]), show_maps("", maps[0], []).images)
        np.testing.assert_array_equal(shades(rows[3]), show_maps("", max_pool(maps, 2)[0], []).images)

    def test_a_color_photo_is_converted_to_gray(self) -> None:
        gray, color = noise(12, 10, 1), noise(12, 10)
        _, of_gray, _ = show_set_kernels([gray], ["photo"], 3, 1, "valid", 2)
        _, of_repeated, _ = show_set_kernels([gray.repeat(3, axis=2)], ["photo"], 3, 1, "valid", 2)
        _, of_color, _ = show_set_kernels([color], ["photo"], 3, 1, "valid", 2)
        np.testing.assert_allclose(shades(of_repeated).astype(int), shades(of_gray).astype(int), atol=1)
        luma = color @ np.array([0.299, 0.587, 0.114])
        maps = np.maximum(convolve(luma[None, ..., None], edge_kernels(3)[:, :, None], None, 1, "valid"), 0)
        np.testing.assert_allclose(shades(of_color).astype(int), show_maps("", maps[0], []).images, atol=1)

    def test_a_line_activates_its_own_kernel_only(self) -> None:
        photo = np.full((9, 9, 1), 40, np.uint8)
        photo[:, 4] = 200
        _, row = show_set_kernels([photo], ["line"], 3, 1, "valid", 1)
        vertical, horizontal = (row.images[KERNEL_NAMES.index(name)] for name in ("vertical", "horizontal"))
        assert vertical[:, 3].min() == 255
        assert np.delete(vertical, 3, axis=1).max() == 0
        assert horizontal.max() == 0

    def test_without_pooling_there_are_feature_maps_only(self) -> None:
        rows = show_set_kernels([noise(8, 8)] * 2, ["one", "other"], 3, 2, "valid", 1)
        assert [row.title for row in rows[1:]] == ["one: feature maps", "other: feature maps"]
        assert shades(rows[1]).shape == (4, 3, 3, 1)

    @pytest.mark.parametrize(
        ("kernel_size", "padding", "pool_size", "message"),
        [
            (9, "valid", 1, "got a window of 9 x 9 pixels for images of 8 x 8"),
            (3, "valid", 7, "got a window of 7 x 7 pixels for images of 6 x 6"),
            (3, "same", 9, "got a window of 9 x 9 pixels for images of 8 x 8"),
            (1, "same", 1, "got a kernel_size of 1, expected at least 2"),
        ],
    )
    def test_kernels_and_pools_larger_than_a_photo_are_rejected(
        self, kernel_size: int, padding: str, pool_size: int, message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            show_set_kernels([noise(8, 8)], ["photo"], kernel_size, 1, padding, pool_size)
