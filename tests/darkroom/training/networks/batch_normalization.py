import keras
import numpy as np


def randomize_batch_normalization(model: keras.Model) -> None:
    """Draw random weights and statistics for all batch normalizations.

    With the initial ones, the output of an untrained deep network is so close to 0 that all images look alike.
    """
    random = np.random.default_rng(7)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            channels = layer.gamma.shape
            gamma, beta = random.uniform(0.5, 1, channels), random.uniform(0, 0.3, channels)
            layer.set_weights([gamma, beta, random.normal(0, 0.1, channels), random.uniform(0.05, 0.1, channels)])
