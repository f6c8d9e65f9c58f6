from itertools import cycle, pairwise
from typing import Any

import keras
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras.layers import Activation, BatchNormalization, Conv2D, MaxPooling2D

from darkroom.pipeline.stage import StageError
from darkroom.training.networks import FROM_SCRATCH, build_network, list_steps
from darkroom.training.networks.steps import Layers, apply_steps, smallest_input_side
from tests.examples import train_params

# The sequence of convolutions and poolings, and the published padding of the convolutions.
TEXTBOOK = {
    "keras_cifar10_cnn": ("ccpccp", ("same", "valid")),
    "keras_mnist_cnn": ("ccp", ("valid",)),
    "sigmoid_cnn": ("cpcp", ("same",)),
    "cats_dogs_cnn": ("cpcpcpcp", ("valid",)),
}


def make(name: str, **changes: Any) -> Layers:
    return list(list_steps(train_params(network=name, cnn=changes)))


def make_compact(**changes: Any) -> keras.Model:
    images = keras.Input((32, 32, 3))
    return keras.Model(images, apply_steps(list_steps(train_params(network="compact_cnn", cnn=changes)), images))


def convolutions(layers: Layers) -> list[Conv2D]:
    return [layer for layer in layers if isinstance(layer, Conv2D)]


def poolings(layers: Layers) -> list[MaxPooling2D]:
    return [layer for layer in layers if isinstance(layer, MaxPooling2D)]


def describe(layers: Layers) -> list[dict[str, Any]]:
    return [layer.get_config() | {"name": type(layer).__name__} for layer in layers]


def list_sides(layers: Layers, side: int) -> list[int]:
    """The sides of a square image after each convolution and pooling, as Keras computes them, up to the first 0."""
    shape, sides = (1, side, side, 3), []
    for layer in [layer for layer in layers if isinstance(layer, Conv2D | MaxPooling2D)]:
        window = layer.kernel_size if isinstance(layer, Conv2D) else layer.pool_size
        if layer.padding == "valid" and shape[1] < window[0]:
            return [*sides, 0]
        shape = layer.compute_output_shape(shape)
        sides.append(shape[1])
    return sides


def textbook(name: str, side: int, kernel: int, strides: int, padding: str | None, pool: int) -> list[int]:
    """The same from the formulas: (n - k) // s + 1 for "valid", n / s rounded up for "same"."""
    plan, authors = TEXTBOOK[name]
    paddings, sides = cycle([padding] if padding else authors), []
    for step in plan.replace("p", "") if pool == 1 else plan:
        window, stride, mode = (kernel, strides, next(paddings)) if step == "c" else (pool, pool, "valid")
        side = (side - window) // stride + 1 if mode == "valid" else -(-side // stride)
        sides.append(max(side, 0))
        if side <= 0:
            break
    return sides


@pytest.mark.parametrize("name", TEXTBOOK)
class TestPlainCnns:
    def test_null_gives_the_published_network(self, name: str) -> None:
        assert describe(make(name)) == describe(FROM_SCRATCH[name].list_steps())

    def test_filters_are_assigned_to_the_convolutions_in_order(self, name: str) -> None:
        filters = [3 + number for number in range(len(convolutions(make(name))))]
        assert [layer.filters for layer in convolutions(make(name, filters=filters))] == filters

    def test_the_kernel_size_applies_to_all_convolutions(self, name: str) -> None:
        assert {layer.kernel_size for layer in convolutions(make(name, kernel_size=5))} == {(5, 5)}

    def test_batch_normalization_is_between_a_convolution_and_its_activation(self, name: str) -> None:
        plain, normalized = (make(name, batch_normalization=wanted) for wanted in (False, True))
        assert not [layer for layer in plain if isinstance(layer, BatchNormalization)]
        assert all(layer.use_bias for layer in convolutions(plain))
        assert not any(layer.use_bias for layer in convolutions(normalized))
        following = {id(layer): after for layer, after in pairwise(normalized)}
        for before, layer in zip(convolutions(plain), convolutions(normalized), strict=True):
            batch_normalization = following[id(layer)]
            activation = following[id(batch_normalization)]
            assert isinstance(batch_normalization, BatchNormalization)
            assert layer.activation == keras.activations.linear
            if before.activation == keras.activations.linear:
                assert not isinstance(activation, Activation)
            else:
                assert isinstance(activation, Activation)
                assert activation.activation == before.activation

    @pytest.mark.parametrize("change", [-1, 1])
    def test_a_wrong_number_of_filters_is_rejected(self, name: str, change: int) -> None:
        expected = len(convolutions(make(name)))
        filters = [8] * (expected + change)
        with pytest.raises(StageError) as caught:
            make(name, filters=filters)
        assert (
            str(caught.value)
            == f"train.cnn.filters: {name} expects a list of {expected} numbers, or null, got {filters}"
        )

    @settings(max_examples=40, deadline=None)
    @given(
        kernel=st.integers(1, 6),
        strides=st.integers(1, 2),
        padding=st.sampled_from(["valid", "same", None]),
        pool=st.integers(1, 3),
    )
    def test_the_smallest_side_is_the_first_one_that_leaves_a_pixel(
        self, name: str, kernel: int, strides: int, padding: str | None, pool: int
    ) -> None:
        layers = make(name, kernel_size=kernel, strides=strides, padding=padding, pool_size=pool)
        smallest = smallest_input_side(layers)
        assert min(list_sides(layers, smallest)) == 1
        assert smallest == 1 or min(list_sides(layers, smallest - 1)) == 0

    def test_the_smallest_images_can_be_built_and_smaller_ones_are_rejected(self, name: str) -> None:
        smallest = smallest_input_side(make(name))
        params = train_params(network=name)
        assert build_network(params, (smallest, smallest, 1), 3, []).model.output_shape == (None, 3)
        for height, width in ((smallest - 1, smallest), (smallest, smallest - 1)):
            with pytest.raises(StageError) as caught:
                build_network(params, (height, width, 1), 3, [])
            assert str(caught.value) == (
                f"train.network: {name} needs images of at least {smallest}x{smallest} pixels, got {height}x{width}; "
                "increase augment.image_size"
            )

    def test_strides_apply_to_all_convolutions_and_to_no_pooling(self, name: str) -> None:
        layers = make(name, strides=3)
        assert {layer.strides for layer in convolutions(layers)} == {(3, 3)}
        assert {(layer.pool_size, layer.strides) for layer in poolings(layers)} == {((2, 2), (2, 2))}

    @pytest.mark.parametrize("padding", ["valid", "same"])
    def test_padding_applies_to_all_convolutions(self, name: str, padding: str) -> None:
        assert {layer.padding for layer in convolutions(make(name, padding=padding))} == {padding}

    def test_pooling_strides_equal_the_pool_size(self, name: str) -> None:
        layers = poolings(make(name, pool_size=3))
        assert len(layers) == TEXTBOOK[name][0].count("p")
        assert {(layer.pool_size, layer.strides, layer.padding) for layer in layers} == {((3, 3), (3, 3), "valid")}

    def test_a_pool_size_of_one_omits_pooling(self, name: str) -> None:
        assert poolings(make(name, pool_size=1)) == []

    @settings(max_examples=40, deadline=None)
    @given(
        side=st.integers(1, 90),
        kernel=st.integers(1, 6),
        strides=st.integers(1, 3),
        padding=st.sampled_from(["valid", "same", None]),
        pool=st.integers(1, 3),
    )
    def test_sizes_match_the_textbook_formulas(
        self, name: str, side: int, kernel: int, strides: int, padding: str | None, pool: int
    ) -> None:
        layers = make(name, kernel_size=kernel, strides=strides, padding=padding, pool_size=pool)
        assert list_sides(layers, side) == textbook(name, side, kernel, strides, padding, pool)


@pytest.mark.parametrize(
    ("name", "changes", "smallest"),
    [
        ("keras_cifar10_cnn", {}, 10),
        ("keras_cifar10_cnn", {"strides": 2}, 73),
        ("keras_cifar10_cnn", {"padding": "same", "pool_size": 3}, 9),
        ("keras_mnist_cnn", {}, 6),
        ("keras_mnist_cnn", {"kernel_size": 5, "pool_size": 3}, 11),
        ("keras_mnist_cnn", {"batch_normalization": True, "pool_size": 1}, 5),
        ("sigmoid_cnn", {}, 4),
        ("sigmoid_cnn", {"padding": "valid"}, 7),
        ("cats_dogs_cnn", {}, 46),
        ("cats_dogs_cnn", {"padding": "same"}, 16),
    ],
)
def test_the_smallest_side_follows_from_the_params(name: str, changes: dict[str, Any], smallest: int) -> None:
    params = train_params(network=name, cnn=changes)
    assert build_network(params, (smallest, smallest, 3), 2, []).model.output_shape == (None, 2)
    with pytest.raises(
        StageError, match=f"needs images of at least {smallest}x{smallest} pixels, got {smallest - 1}x{smallest};"
    ):
        build_network(params, (smallest - 1, smallest, 3), 2, [])


class TestCompactCnn:
    @pytest.mark.parametrize("filters", [[5], [5, 6, 7, 8, 9]])
    def test_filters_may_have_any_length(self, filters: list[int]) -> None:
        model = make_compact(filters=filters)
        assert model.output_shape == (None, filters[-1])
        assert list(dict.fromkeys(layer.filters for layer in convolutions(model.layers))) == filters

    def test_the_kernel_size_applies_to_all_convolutions(self) -> None:
        assert {layer.kernel_size for layer in convolutions(make_compact(kernel_size=5).layers)} == {(5, 5)}

    @pytest.mark.parametrize("wanted", [False, True])
    def test_batch_normalization_replaces_the_bias(self, wanted: bool) -> None:
        layers = make_compact(batch_normalization=wanted).layers
        normalizations = [layer for layer in layers if isinstance(layer, BatchNormalization)]
        assert len(normalizations) == (len(convolutions(layers)) if wanted else 0)
        assert {layer.use_bias for layer in convolutions(layers)} == {not wanted}

    def test_the_smallest_image_is_one_pixel(self) -> None:
        assert build_network(train_params(), (1, 1, 1), 3, []).model.output_shape == (None, 3)

    @pytest.mark.parametrize(
        ("changes", "unused"),
        [
            ({"strides": 2}, "strides"),
            ({"padding": "same"}, "padding"),
            ({"pool_size": 2}, "pool_size"),
            ({"strides": 2, "pool_size": 1, "padding": "valid", "kernel_size": 3}, "padding, pool_size, strides"),
        ],
    )
    def test_params_that_it_does_not_use_are_rejected(self, changes: dict[str, Any], unused: str) -> None:
        with pytest.raises(StageError) as caught:
            make_compact(**changes)
        assert str(caught.value) == f"train.cnn: compact_cnn does not use {unused}; set unused fields to null"
