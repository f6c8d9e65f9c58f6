"""What a network is to answer: class IDs as probabilities, and how much each image counts.

Dims: N images, B images of a batch, K classes.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from darkroom.pipeline.arrays import ClassIds

Targets = npt.NDArray[np.float32]  # (N, K), 0 to 1, rows sum to 1
ClassWeights = npt.NDArray[np.float32]  # (K,), how much an image of each class counts


def make_targets(class_ids: ClassIds, classes: int) -> Targets:
    """Give each right class the probability 1, and the others 0."""
    targets: Targets = np.eye(classes, dtype=np.float32)[class_ids]
    return targets


def smooth(targets: Targets, label_smoothing: float) -> Targets:
    """Take this share of each target, and spread it evenly over all classes.

    C. Szegedy et al., "Rethinking the Inception architecture for computer vision", 2016.
    """
    return targets * np.float32(1 - label_smoothing) + np.float32(label_smoothing / targets.shape[1])


def balance_classes(class_ids: ClassIds, classes: int) -> ClassWeights:
    """Weigh the classes so that all count alike: N / (K * images of the class), as scikit-learn's "balanced" does."""
    counts = np.bincount(class_ids, minlength=classes)
    return (len(class_ids) / (classes * np.maximum(counts, 1))).astype(np.float32)


def mix_pairs(
    images: npt.NDArray[Any], targets: Targets, alpha: float, random: np.random.Generator
) -> tuple[npt.NDArray[np.float32], Targets]:
    """Mix each image of a batch (B, ...) with another one, and their targets (B, K) in the same shares.

    H. Zhang et al., "mixup: beyond empirical risk minimization", 2018: shares from Beta(alpha, alpha), here one draw
    for each image.
    """
    shares = random.beta(alpha, alpha, len(images)).astype(np.float32)
    others = random.permutation(len(images))
    of_images: npt.NDArray[np.float32] = shares.reshape(-1, *[1] * (images.ndim - 1))
    mixed = np.asarray(images * of_images + images[others] * (1 - of_images), np.float32)
    return mixed, targets * shares[:, None] + targets[others] * (1 - shares[:, None])
