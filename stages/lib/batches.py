"""Images as Keras takes them: in batches, from the disk.

Dims: N images, B images of a batch, H height, W width, C channels.
"""

import math

import keras
import numpy as np

from stages.lib.arrays import ClassNumbers, Pixels, RowNumbers
from stages.lib.dataset import StoredImages


class Batches(keras.utils.PyDataset):  # type: ignore[misc]
    """Batches of (uint8 images (B, H, W, C), int64 label numbers (B,)); the last one may be smaller."""

    def __init__(self, images: StoredImages, rows: RowNumbers, targets: ClassNumbers, batch_size: int) -> None:
        """Feed `rows` of `images`, whose label numbers are `targets`, both of shape (N,), in this order."""
        super().__init__()
        self.images = images
        self.rows = rows
        self.targets = targets
        self.batch_size = batch_size
        self.order = np.arange(len(rows))

    def __len__(self) -> int:
        return math.ceil(len(self.rows) / self.batch_size)

    def __getitem__(self, batch: int) -> tuple[Pixels, ClassNumbers]:
        chosen = self.order[batch * self.batch_size : (batch + 1) * self.batch_size]
        return self.images.take(self.rows[chosen]), self.targets[chosen]


class ShuffleEachEpoch(keras.callbacks.Callback):  # type: ignore[misc]
    """Put the batches' images into an order that depends on the seed and the number of the epoch alone.

    Keras's own shuffling draws from a generator that other code shares, and calls a data set's `on_epoch_end` once
    before the first epoch; both make the order depend on history.
    """

    def __init__(self, batches: Batches, seed: int) -> None:
        super().__init__()
        self.batches = batches
        self.seed = seed

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:  # noqa: ARG002
        self.batches.order = np.random.default_rng([self.seed, epoch]).permutation(len(self.batches.rows))
