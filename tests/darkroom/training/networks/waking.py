import keras
import numpy as np


def wake(model: keras.Model) -> None:
    """Draw the numbers of all batch normalizations.

    With their first ones, what an untrained deep network makes of an image is so near 0 that all images look alike.
    """
    random = np.random.default_rng(7)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            channels = layer.gamma.shape
            gamma, beta = random.uniform(0.5, 1, channels), random.uniform(0, 0.3, channels)
            layer.set_weights([gamma, beta, random.normal(0, 0.1, channels), random.uniform(0.05, 0.1, channels)])
