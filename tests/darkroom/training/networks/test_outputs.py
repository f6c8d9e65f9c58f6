import keras
import numpy as np
import pytest
import scipy.special

from darkroom.pipeline.stage import StageError
from darkroom.training.networks import build_network
from darkroom.training.networks.outputs import add_output
from tests.examples import train_params


@pytest.mark.parametrize("classes", [1, 3, 10])
def test_sigmoid_requires_two_classes(classes: int) -> None:
    with pytest.raises(StageError) as caught:
        build_network(train_params(output="sigmoid"), (32, 32, 1), classes, [])
    assert str(caught.value) == (
        f"train.output: sigmoid requires exactly 2 classes, got {classes}; set it to softmax, or list two classes in "
        "acquire.classes"
    )


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_softmax_allows_any_number_of_classes(classes: int) -> None:
    features = keras.Input((5,))
    model = keras.Model(features, add_output(features, "softmax", classes))
    assert model.output_shape == (None, classes)
    assert model.count_params() == (5 + 1) * classes


@pytest.mark.parametrize("label_smoothing", [0, 0.2])
def test_the_categorical_loss_equals_the_binary_loss_of_the_unit(label_smoothing: float) -> None:
    features = keras.Input((5,))
    outputs = add_output(features, "sigmoid", 2)
    model = keras.Model(features, outputs)
    assert model.count_params() == 5 + 1
    unit = keras.Model(features, model.get_layer("unit").output)
    # From uncertain to so certain that 1 - probability is 0 in float32.
    values = np.random.default_rng(3).normal(0, 15, (64, 5)).astype(np.float32)
    targets = np.arange(64) % 2
    both, logits = (keras.ops.convert_to_numpy(part(values)) for part in (model, unit))
    np.testing.assert_allclose(both[:, 1], scipy.special.expit(logits[:, 0]), rtol=1e-5)
    np.testing.assert_allclose(both[:, 0], scipy.special.expit(-logits[:, 0]), rtol=1e-5)
    assert np.abs(logits).max() > 20
    model.compile("sgd", keras.losses.CategoricalCrossentropy(label_smoothing=label_smoothing))
    binary = keras.losses.BinaryCrossentropy(from_logits=True, label_smoothing=label_smoothing)
    expected = float(binary(targets[:, None], logits))
    loss = model.evaluate(values, np.eye(2, dtype=np.float32)[targets], batch_size=64, verbose=0)
    assert loss == pytest.approx(expected, rel=1e-4)


def test_a_unit_that_is_certain_and_incorrect_still_learns() -> None:
    features = keras.Input((1,))
    model = keras.Model(features, add_output(features, "sigmoid", 2))
    model.get_layer("unit").set_weights([np.zeros((1, 1)), np.array([25.0])])
    model.compile(keras.optimizers.SGD(1.0), "categorical_crossentropy", jit_compile=False)
    model.fit(np.zeros((4, 1), np.float32), np.eye(2, dtype=np.float32)[[0, 0, 0, 0]], batch_size=4, verbose=0)
    (bias,) = model.get_layer("unit").get_weights()[1]
    assert bias == pytest.approx(24)
