"""Faster layers and optimizer updates for training in mixed_bfloat16 with TensorFlow on a CPU.

TensorFlow has fast bfloat16 kernels for convolutions and matrix products, but spends as much time again on the
operations between them. The replacements in this module give the same gradients and updates; `python -m
benchmarks.train` measures the speedup.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf

DRAW_VALUES = 2**16


class FusedAdam(keras.optimizers.Adam):  # type: ignore[misc]
    """Adam that updates a weight in one fused operation, which reads and writes each value once.

    D. P. Kingma and J. Ba, "Adam: a method for stochastic optimization", 2015; the same formula as in Keras.
    """

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        index = self._get_variable_index(variable)
        step = tf.cast(self.iterations + 1, tf.float32)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].value.handle,
            v=self._velocities[index].value.handle,
            beta1_power=tf.pow(tf.constant(self.beta_1, tf.float32), step),
            beta2_power=tf.pow(tf.constant(self.beta_2, tf.float32), step),
            lr=tf.cast(learning_rate, tf.float32),
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=tf.cast(gradient, tf.float32),
        )


@tf.function(jit_compile=True)  # type: ignore[untyped-decorator]
def pass_where_positive(values: Any, gradients: Any) -> Any:
    # XLA is slower than TensorFlow's own kernels almost everywhere on a CPU, but not here.
    return tf.where(values > 0, gradients, tf.zeros_like(gradients))


@tf.custom_gradient  # type: ignore[untyped-decorator]
def relu(values: Any) -> Any:
    """ReLU, max(x, 0), with a gradient that takes half the time."""
    rectified = tf.nn.relu(values)
    return rectified, lambda gradients: pass_where_positive(rectified, gradients)


class FastDropout(keras.layers.Layer):  # type: ignore[misc]
    """Dropout that draws 16 random bits per value, while Keras draws 32 and converts them to a float.

    The rate is rounded to a multiple of 1/65536, and the remaining values are scaled by the rounded rate.
    """

    def __init__(self, rate: float, seed_generator: keras.random.SeedGenerator, dtype: keras.DTypePolicy) -> None:
        super().__init__(dtype=dtype)
        self.dropped = round(rate * DRAW_VALUES)
        self.seed_generator = seed_generator

    def call(self, values: Any, training: bool = False) -> Any:
        if not training or not self.dropped:
            return values
        seed = tf.cast(self.seed_generator.next() % (2**31 - 1), tf.int32)
        count = tf.size(values)
        words = tf.random.stateless_uniform(((count + 1) // 2,), seed, minval=None, maxval=None, dtype=tf.uint32)
        draws = tf.reshape(tf.reshape(tf.bitcast(words, tf.uint16), (-1,))[:count], tf.shape(values))
        scale = tf.constant(DRAW_VALUES / (DRAW_VALUES - self.dropped), values.dtype)
        kept = draws >= tf.constant(self.dropped, tf.uint16)
        return tf.where(kept, values * scale, tf.zeros_like(values))

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape


def use_fast_dropout(model: keras.Model) -> keras.Model:
    """Copy a model, sharing its layers and weights, but with each Dropout replaced by a `FastDropout`.

    ReLU activations inside layers are not replaced, because the layers are shared; see `using_fast_relu`.
    """

    def call(layer: keras.layers.Layer, *arguments: Any, **named: Any) -> Any:
        if isinstance(layer, keras.layers.Dropout) and layer.rate and layer.noise_shape is None:
            return FastDropout(layer.rate, layer.seed_generator, layer.dtype_policy)(*arguments, **named)
        return layer(*arguments, **named)

    return keras.models.clone_model(model, clone_function=lambda layer: layer, call_function=call)


@contextmanager
def using_fast_relu(layers: Sequence[keras.layers.Layer]) -> Iterator[None]:
    """Replace Keras's relu by `relu` as the activation of layers, until the block ends."""
    changed = [layer for layer in layers if getattr(layer, "activation", None) is keras.activations.relu]
    try:
        for layer in changed:
            layer.activation = relu
        yield
    finally:
        for layer in changed:
            layer.activation = keras.activations.relu
