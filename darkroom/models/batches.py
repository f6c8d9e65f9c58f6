"""Batches of images for Keras, read from disk.

Dims: N images, B images of a batch, H height, W width, C channels, K classes.
"""

import math
from typing import Any, NamedTuple, Protocol

import keras
import numpy as np
import numpy.typing as npt

from darkroom.models.targets import ClassWeights, Targets, mix_pairs, smooth
from darkroom.pipeline.arrays import RowNumbers

Batch = tuple[npt.NDArray[Any], ...]


class ImageSource(Protocol):
    """Where the contents of a batch come from: stored images, or features computed from them."""

    def take(self, row_numbers: RowNumbers) -> npt.NDArray[Any]: ...


class Batches(keras.utils.PyDataset):  # type: ignore[misc]
    """Batches of (images (B, H, W, C), targets (B, K)), in the order of the row numbers; the last may be smaller."""

    def __init__(
        self, images: ImageSource, row_numbers: RowNumbers, targets: Targets, batch_size: int, devices: int = 1
    ) -> None:
        """Create the batches.

        Args:
            images: the source of all images.
            row_numbers: which images to take, (N,).
            targets: their targets, (N, K).
            batch_size: images per batch.
            devices: how many devices share each batch. A remainder of fewer images than that joins the batch before.
        """
        super().__init__()
        self.devices = devices
        self.images = images
        self.row_numbers = row_numbers
        self.targets = targets
        self.batch_size = batch_size

    def __len__(self) -> int:
        full, remainder = divmod(len(self.row_numbers), self.batch_size)
        return full + 1 if remainder >= self.devices else max(1, full)

    def slice_of(self, batch: int) -> slice:
        """The slice of an epoch's order that makes up a batch."""
        return slice(batch * self.batch_size, None if batch == len(self) - 1 else (batch + 1) * self.batch_size)

    def __getitem__(self, batch: int) -> Batch:
        chosen = self.slice_of(batch)
        # A copy: TensorFlow may take over the memory of an array and write later results into it.
        return self.images.take(self.row_numbers[chosen]), self.targets[chosen].copy()


class EpochPlan(NamedTuple):
    """Options of a training epoch. By default it has every image once, with one-hot targets.

    Fields:
        steps_per_epoch: batches per epoch; no image repeats before all have been used. None uses each image once.
        mixup_alpha: for `mix_pairs`; 0 disables mixup.
        label_smoothing: for `smooth`.
        class_weights: (K,); if set, a batch has a third part, the sample weights (B,).
    """

    steps_per_epoch: int | None = None
    mixup_alpha: float = 0
    label_smoothing: float = 0
    class_weights: ClassWeights | None = None


PLAIN_EPOCH = EpochPlan()


class TrainingBatches(Batches):
    """Batches whose order, and whose mixup pairs, depend only on the seed and the epoch number.

    Keras's own shuffling draws from a shared random generator, and calls a data set's `on_epoch_end` once before the
    first epoch. Both make the order depend on what ran before.
    """

    def __init__(
        self,
        images: ImageSource,
        row_numbers: RowNumbers,
        targets: Targets,
        batch_size: int,
        seed: int,
        plan: EpochPlan = PLAIN_EPOCH,
        devices: int = 1,
    ) -> None:
        """Create batches that are shuffled in each epoch.

        Args:
            images, row_numbers, targets, batch_size, devices: see `Batches`.
            seed: not negative.
            plan: options of every epoch.
        """
        super().__init__(images, row_numbers, targets, batch_size, devices)
        self.seed = seed
        self.plan = plan
        self.begin_epoch(0)

    def begin_epoch(self, epoch: int) -> None:
        """Shuffle the images for an epoch, counted from 0."""
        random = np.random.default_rng([self.seed, epoch])
        count = len(self) * self.batch_size if self.plan.steps_per_epoch else len(self.row_numbers)
        rounds = math.ceil(count / len(self.row_numbers))
        self.order = np.concatenate([random.permutation(len(self.row_numbers)) for _ in range(rounds)])[:count]
        self.epoch = epoch

    def __len__(self) -> int:
        return self.plan.steps_per_epoch or super().__len__()

    def __getitem__(self, batch: int) -> Batch:
        chosen = self.order[self.slice_of(batch)]
        images, targets = self.images.take(self.row_numbers[chosen]), self.targets[chosen]
        if self.plan.mixup_alpha:
            images, targets = mix_pairs(
                images, targets, self.plan.mixup_alpha, np.random.default_rng([self.seed, self.epoch, 1 + batch])
            )
        weights = () if self.plan.class_weights is None else (targets @ self.plan.class_weights,)
        return images, smooth(targets, self.plan.label_smoothing), *weights


class BeginEpoch(keras.callbacks.Callback):  # type: ignore[misc]
    """Shuffle the batches when an epoch begins; a data set's own hook comes too late if workers prefetch batches."""

    def __init__(self, batches: TrainingBatches) -> None:
        super().__init__()
        self.batches = batches

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:  # noqa: ARG002
        self.batches.begin_epoch(epoch)
