"""The one thing that Keras leaves to its backends when a model is only asked: gradients."""

from typing import Any

import keras

from darkroom.pipeline.arrays import Floats


def find_gradients(model: keras.Model, values: Any, weights: Floats) -> tuple[Floats, Floats]:
    """Ask a model about `values`, as for predictions, and differentiate what it answers.

    Args:
        model: gives (B, K).
        values: what it takes, of B entries.
        weights: what each answer counts, (B, K).

    Returns:
        the answers (B, K), and the gradient of the weighed sum of each entry's answers by its values, of their shape.
    """
    match keras.backend.backend():
        case "tensorflow":
            answers, gradients = differentiate_in_tensorflow(model, values, weights)
        case "jax":
            answers, gradients = differentiate_in_jax(model, values, weights)
        case "torch":
            answers, gradients = differentiate_in_torch(model, values, weights)
        case backend:
            raise NotImplementedError(f"gradients need the backend tensorflow, jax or torch, got {backend}")
    return keras.ops.convert_to_numpy(answers), keras.ops.convert_to_numpy(gradients)


def differentiate_in_tensorflow(model: keras.Model, values: Any, weights: Floats) -> tuple[Any, Any]:
    import tensorflow as tf

    values = tf.convert_to_tensor(values)
    with tf.GradientTape() as tape:
        tape.watch(values)
        answers = model(values, training=False)
        total = tf.reduce_sum(answers * weights)
    return answers, tape.gradient(total, values)


def differentiate_in_jax(model: keras.Model, values: Any, weights: Floats) -> tuple[Any, Any]:
    import jax

    def add_up(given: Any) -> tuple[Any, Any]:
        answers = model(given, training=False)
        return (answers * weights).sum(), answers

    (_, answers), gradients = jax.value_and_grad(add_up, has_aux=True)(keras.ops.convert_to_tensor(values))
    return answers, gradients


def differentiate_in_torch(model: keras.Model, values: Any, weights: Floats) -> tuple[Any, Any]:
    import torch

    values = keras.ops.convert_to_tensor(values).detach().requires_grad_()
    answers = model(values, training=False)
    (gradients,) = torch.autograd.grad((answers * keras.ops.convert_to_tensor(weights)).sum(), values)
    return answers, gradients
