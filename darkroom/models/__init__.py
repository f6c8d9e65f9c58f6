"""Keras models. Every process that trains, loads or exports one imports this package, which sets how Keras computes.

A user's keras.json and Keras's variables for debugging would otherwise decide the result, without being part of it.
"""

import keras

IMAGE_DATA_FORMAT, FLOAT_TYPE, EPSILON = "channels_last", "float32", 1e-7


def set_keras_defaults() -> None:
    """Set what Keras reads from keras.json, KERAS_MAX_EPOCHS and KERAS_MAX_STEPS_PER_EPOCH to its own defaults."""
    keras.config.set_image_data_format(IMAGE_DATA_FORMAT)
    keras.config.set_floatx(FLOAT_TYPE)
    keras.config.set_epsilon(EPSILON)
    keras.config.set_max_epochs(None)
    keras.config.set_max_steps_per_epoch(None)


set_keras_defaults()
