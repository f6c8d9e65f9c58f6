from typing import get_args

import keras
import numpy as np
import pytest

from stages.lib.networks import NETWORKS, build_network
from stages.lib.params import TrainParams
from stages.lib.stage import StageError
from tests.lib.examples import noise


def rescale() -> list[keras.layers.Layer]:
    return [keras.layers.Rescaling(1 / 255)]


def test_params_know_the_networks_that_there_are() -> None:
    assert set(get_args(TrainParams.model_fields["network"].annotation)) == set(NETWORKS)


@pytest.mark.parametrize("name", NETWORKS)
class TestEveryNetwork:
    @pytest.mark.parametrize("image_shape", [(32, 32, 3), (40, 32, 1)])
    def test_it_gives_a_probability_for_each_class(self, name: str, image_shape: tuple[int, int, int]) -> None:
        network = build_network(name, image_shape, classes=4, normalization=rescale())
        probabilities = network.predict(noise(*image_shape)[None].repeat(2, axis=0), verbose=0)
        assert probabilities.shape == (2, 4)
        assert probabilities.min() >= 0
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)

    def test_pixels_may_be_bytes_or_floats(self, name: str) -> None:
        network = build_network(name, (32, 32, 3), classes=10, normalization=rescale())
        pixels = np.stack([noise(32, 32, 3, seed) for seed in range(3)])
        from_bytes, from_floats = (network.predict(batch, verbose=0) for batch in (pixels, pixels.astype(np.float32)))
        np.testing.assert_array_equal(from_bytes, from_floats)
        assert len(np.unique(from_bytes, axis=0)) == 3

    def test_it_is_not_compiled_so_that_no_optimizer_is_saved(self, name: str) -> None:
        assert not build_network(name, (32, 32, 3), classes=2, normalization=rescale()).compiled

    def test_the_same_seed_gives_the_same_weights(self, name: str) -> None:
        weights = []
        for _ in range(2):
            keras.utils.set_random_seed(3)
            weights.append(build_network(name, (32, 32, 1), classes=2, normalization=rescale()).get_weights())
        assert all(np.array_equal(*pair) for pair in zip(*weights, strict=True))


class TestKerasCifar10Cnn:
    def test_it_has_as_many_parameters_as_the_example_of_keras(self) -> None:
        assert (
            build_network("keras_cifar10_cnn", (32, 32, 3), classes=10, normalization=rescale()).count_params()
            == 1_250_858
        )

    def test_the_smallest_images_leave_it_a_pixel(self) -> None:
        network = build_network("keras_cifar10_cnn", (10, 10, 1), classes=2, normalization=rescale())
        assert network.predict(noise(10, 10, 1)[None], verbose=0).shape == (1, 2)

    @pytest.mark.parametrize(("height", "width"), [(9, 32), (32, 9), (1, 1)])
    def test_images_that_are_too_small_are_refused(self, height: int, width: int) -> None:
        with pytest.raises(StageError) as caught:
            build_network("keras_cifar10_cnn", (height, width, 3), classes=2, normalization=rescale())
        assert str(caught.value) == (
            f"train.network: keras_cifar10_cnn needs images of at least 10x10 pixels, got {height}x{width}; "
            "turn augment.image_size up"
        )
