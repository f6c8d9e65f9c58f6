from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from darkroom.training.bfloat16 import FastDropout, FusedAdam, relu, use_fast_dropout
from tests.examples import train_params
from tests.trainings import dark_and_bright, needs_bfloat16, train


def dropout(rate: float, seed: int = 3) -> Any:
    return FastDropout(rate, keras.random.SeedGenerator(seed), keras.dtype_policies.get("float32"))


def test_an_update_of_the_weights_equals_that_of_keras() -> None:
    random = np.random.default_rng(2)
    start, gradients = random.normal(size=(50, 7)).astype(np.float32), random.normal(size=(5, 50, 7))
    weights = []
    for optimizer in (keras.optimizers.Adam(0.01), FusedAdam(0.01)):
        variable = keras.Variable(start)
        for gradient in gradients:
            optimizer.apply([tf.constant(gradient, tf.float32)], [variable])
        weights.append(keras.ops.convert_to_numpy(variable))
        assert int(optimizer.iterations) == 5
    np.testing.assert_allclose(weights[1], weights[0], rtol=1e-5, atol=1e-6)
    assert np.abs(weights[1] - start).mean() > 1e-2


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_relu_and_its_gradient_equal_those_of_keras(dtype: str) -> None:
    values = tf.cast(tf.constant([[-1.5, -0.0, 0.0, 1e-30, 2.5, np.inf]]), dtype)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(values)
        ours, theirs = relu(values), keras.activations.relu(values)
    assert ours.dtype == values.dtype
    np.testing.assert_array_equal(ours, theirs)
    upstream = tf.cast(tf.constant([[1.0, 2.0, 3.0, 4.0, -5.0, 6.0]]), dtype)
    np.testing.assert_array_equal(tape.gradient(ours, values, upstream), tape.gradient(theirs, values, upstream))


@pytest.mark.parametrize("rate", [0.1, 0.25, 0.5])
def test_dropout_drops_its_fraction_and_preserves_the_mean(rate: float) -> None:
    values = np.ones((101, 1001), np.float32)  # an odd number of values
    dropped = np.array(dropout(rate)(values, training=True))
    # Five standard deviations for this number of draws.
    assert abs((dropped == 0).mean() - rate) < 5 * np.sqrt(rate * (1 - rate) / values.size)
    assert set(np.unique(dropped)) == {0, np.float32(1 / (1 - round(rate * 65536) / 65536))}
    for axis in (0, 1):
        assert abs((dropped == 0).mean(axis) - rate).max() < 6 * np.sqrt(rate * (1 - rate) / values.shape[axis])


def test_dropout_draws_new_masks_from_its_seed_and_does_nothing_in_inference() -> None:
    values = np.ones((10, 10), np.float32)
    layer, same, other = dropout(0.5), dropout(0.5), dropout(0.5, seed=4)
    first, second = np.array(layer(values, training=True)), np.array(layer(values, training=True))
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(first, same(values, training=True))
    assert not np.array_equal(first, other(values, training=True))
    np.testing.assert_array_equal(layer(values, training=False), values)


def test_the_faster_model_shares_weights_and_predictions() -> None:
    inputs = keras.Input((8,))
    hidden = keras.layers.Dropout(0.5)(keras.layers.Dense(4, activation="relu")(inputs))
    model = keras.Model(inputs, keras.layers.Dense(2)(hidden))
    fast = use_fast_dropout(model)
    assert [id(weight) for weight in fast.trainable_weights] == [id(weight) for weight in model.trainable_weights]
    assert any(isinstance(layer, FastDropout) for layer in fast.layers)
    assert not any(isinstance(layer, keras.layers.Dropout) for layer in fast.layers)
    values = np.random.default_rng(1).normal(size=(3, 8)).astype(np.float32)
    np.testing.assert_array_equal(fast(values), model(values))
    assert not np.array_equal(fast(values, training=True), model(values))


@needs_bfloat16
def test_float32_is_trained_by_keras_alone(tmp_path: Path) -> None:
    seen: list[keras.callbacks.Callback] = []
    record = keras.callbacks.LambdaCallback(on_train_begin=lambda logs: seen.append(record.model))  # noqa: ARG005
    data = dark_and_bright(tmp_path, 24, held_out=8)
    for precision in ("float32", "mixed_bfloat16"):
        train(train_params(network="keras_cifar10_cnn", epochs=1, precision=precision), data, callbacks=[record])
    assert [type(model.optimizer).__name__ for model in seen] == ["Adam", "FusedAdam"]
