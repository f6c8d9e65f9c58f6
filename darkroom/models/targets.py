"""Training targets: class IDs as probabilities, label smoothing, mixup and class weights.

Dims: N images, B images of a batch, K classes.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from darkroom.pipeline.arrays import ClassIds

Targets = npt.NDArray[np.float32]  # (N, K), 0 to 1, rows sum to 1
ClassWeights = npt.NDArray[np.float32]  # (K,), the sample weight of each class


def make_targets(class_ids: ClassIds, classes: int) -> Targets:
    """One-hot encode class IDs: probability 1 for the true class, 0 for the others."""
    targets: Targets = np.eye(classes, dtype=np.float32)[class_ids]
    return targets


def smooth(targets: Targets, label_smoothing: float) -> Targets:
    """Smooth labels: take this fraction of each target and spread it evenly over all classes.

    C. Szegedy et al., "Rethinking the Inception architecture for computer vision", 2016.
    """
    return targets * np.float32(1 - label_smoothing) + np.float32(label_smoothing / targets.shape[1])


def balance_classes(class_ids: ClassIds, classes: int) -> ClassWeights:
    """Weight the classes inversely to their frequency: N / (K * images of the class), as scikit-learn's "balanced"."""
    counts = np.bincount(class_ids, minlength=classes)
    return (len(class_ids) / (classes * np.maximum(counts, 1))).astype(np.float32)


def mix_pairs(
    images: npt.NDArray[Any], targets: Targets, alpha: float, random: np.random.Generator
) -> tuple[npt.NDArray[np.float32], Targets]:
    """Mix each image of a batch (B, ...) with another one, and their targets (B, K) in the same proportion.

    H. Zhang et al., "mixup: beyond empirical risk minimization", 2018: proportions from Beta(alpha, alpha), here drawn
    separately for each image.
    """
    proportions = random.beta(alpha, alpha, len(images)).astype(np.float32)
    others = random.permutation(len(images))
    image_proportions: npt.NDArray[np.float32] = proportions.reshape(-1, *[1] * (images.ndim - 1))
    mixed = np.asarray(images * image_proportions + images[others] * (1 - image_proportions), np.float32)
    return mixed, targets * proportions[:, None] + targets[others] * (1 - proportions[:, None])
