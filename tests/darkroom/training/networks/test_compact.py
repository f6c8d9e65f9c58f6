import keras
import numpy as np

from darkroom.training.networks import build_network
from darkroom.training.networks.compact import compact_cnn
from darkroom.training.networks.steps import apply_steps
from tests.examples import noise, train_params


def test_the_number_of_parameters_does_not_depend_on_the_image_size() -> None:
    for side in (16, 100):
        network = build_network(train_params(network="compact_cnn"), (side, side, 3), 10, [])
        assert network.model.count_params() == 493_050


def test_every_stage_halves_the_sides_and_ends_in_a_residual_sum() -> None:
    pixels = keras.Input((33, 20, 3))
    model = keras.Model(pixels, apply_steps(compact_cnn(filters=(4, 8, 12)), pixels))
    sums = [layer for layer in model.layers if isinstance(layer, keras.layers.Add)]
    assert [layer.output.shape[1:] for layer in sums] == [(17, 10, 4), (9, 5, 8), (5, 3, 12)]
    assert model.output_shape == (None, 12)


def test_an_image_of_one_pixel_can_be_classified() -> None:
    network = build_network(train_params(network="compact_cnn"), (1, 1, 1), 2, [])
    assert np.isfinite(network.model.predict(noise(1, 1, 1)[None], verbose=0)).all()
