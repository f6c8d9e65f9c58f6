"""Gradients of a model's outputs: the one operation at inference that Keras leaves to its backends."""

from typing import Any

import keras

from darkroom.pipeline.arrays import Floats


def find_gradients(model: keras.Model, values: Any, weights: Floats) -> tuple[Floats, Floats]:
    """Run a model in inference mode on `values`, and differentiate its outputs.

    Args:
        model: a model with outputs (B, K).
        values: its inputs, a batch of B entries.
        weights: the weight of each output, (B, K).

    Returns:
        the outputs (B, K), and the gradient of the weighted sum of each entry's outputs with respect to its values, in
        the shape of `values`.
    """
    match keras.backend.backend():
        case "tensorflow":
            outputs, gradients = differentiate_in_tensorflow(model, values, weights)
        case "jax":
            outputs, gradients = differentiate_in_jax(model, values, weights)
        case "torch":
            outputs, gradients = differentiate_in_torch(model, values, weights)
        case backend:
            raise NotImplementedError(f"gradients need the backend tensorflow, jax or torch, got {backend}")
    return keras.ops.convert_to_numpy(outputs), keras.ops.convert_to_numpy(gradients)


def differentiate_in_tensorflow(model: keras.Model, values: Any, weights: Floats) -> tuple[Any, Any]:
    import tensorflow as tf

    values = tf.convert_to_tensor(values)
    with tf.GradientTape() as tape:
        tape.watch(values)
        outputs = model(values, training=False)
        total = tf.reduce_sum(outputs * weights)
    return outputs, tape.gradient(total, values)


def differentiate_in_jax(model: keras.Model, values: Any, weights: Floats) -> tuple[Any, Any]:
    import jax

    def add_up(given: Any) -> tuple[Any, Any]:
        outputs = model(given, training=False)
        return (outputs * weights).sum(), outputs

    (_, outputs), gradients = jax.value_and_grad(add_up, has_aux=True)(keras.ops.convert_to_tensor(values))
    return outputs, gradients


def differentiate_in_torch(model: keras.Model, values: Any, weights: Floats) -> tuple[Any, Any]:
    import torch

    values = keras.ops.convert_to_tensor(values).detach().requires_grad_()
    outputs = model(values, training=False)
    (gradients,) = torch.autograd.grad((outputs * keras.ops.convert_to_tensor(weights)).sum(), values)
    return outputs, gradients
