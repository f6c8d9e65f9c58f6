"""Plain convolutional networks, trained from scratch.

Dims: B images of a batch, H height, W width, C channels, K classes.
"""

from collections.abc import Sequence

import keras
from keras import layers

SMALLEST_SIDE = 10


def keras_cifar10_cnn(
    image_shape: tuple[int, int, int], classes: int, normalization: Sequence[keras.layers.Layer]
) -> keras.Sequential:
    """The small CIFAR-10 network of Keras's first examples (`examples/cifar10_cnn.py`), with its normalization inside.

    Two blocks of two 3x3 convolutions, a 2x2 pooling and a dropout, then 512 dense units: 1,250,858 parameters at
    32x32x3 and 10 classes.

    Args:
        image_shape: (H, W, C) of the images.
        classes: K.
        normalization: layers from pixels to what the convolutions read, of the same shape.

    Returns:
        An uncompiled model from pixels (B, H, W, C), 0 to 255, uint8 or float, to probabilities (B, K).

    Raises:
        ValueError: a side is too small for what its convolutions and poolings take away.
    """
    height, width, _ = image_shape
    if min(height, width) < SMALLEST_SIDE:
        raise ValueError(f"needs images of at least {SMALLEST_SIDE}x{SMALLEST_SIDE} pixels, got {height}x{width}")
    return keras.Sequential(
        [
            keras.Input(image_shape),  # (B, H, W, C)
            *normalization,
            layers.Conv2D(32, 3, padding="same", activation="relu"),  # (B, H, W, 32)
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(2),  # (B, (H-2)//2, (W-2)//2, 32)
            layers.Dropout(0.25),
            layers.Conv2D(64, 3, padding="same", activation="relu"),
            layers.Conv2D(64, 3, activation="relu"),
            layers.MaxPooling2D(2),  # (B, (H-6)//4, (W-6)//4, 64)
            layers.Dropout(0.25),
            layers.Flatten(),
            layers.Dense(512, activation="relu"),
            layers.Dropout(0.5),
            layers.Dense(classes, activation="softmax"),  # (B, K)
        ],
        name="keras_cifar10_cnn",
    )
