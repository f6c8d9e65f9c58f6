"""Images as Keras takes them: in batches, from the disk.

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
    """What a batch is taken from: stored images, or what a network has made of them."""

    def take(self, rows: RowNumbers) -> npt.NDArray[Any]: ...


class Batches(keras.utils.PyDataset):  # type: ignore[misc]
    """Batches of (images (B, H, W, C), targets (B, K)), in the order of the rows; the last one may be smaller."""

    def __init__(
        self, images: ImageSource, rows: RowNumbers, targets: Targets, batch_size: int, devices: int = 1
    ) -> None:
        """Feed `rows` of `images`, of shape (N,), whose targets are `targets`, of shape (N, K).

        A rest of fewer images than `devices`, among which batches are divided, goes to the batch before.
        """
        super().__init__()
        self.devices = devices
        self.images = images
        self.rows = rows
        self.targets = targets
        self.batch_size = batch_size

    def __len__(self) -> int:
        full, rest = divmod(len(self.rows), self.batch_size)
        return full + 1 if rest >= self.devices else max(1, full)

    def place(self, batch: int) -> slice:
        """Where the images of a batch stand in the order of an epoch."""
        return slice(batch * self.batch_size, None if batch == len(self) - 1 else (batch + 1) * self.batch_size)

    def __getitem__(self, batch: int) -> Batch:
        chosen = self.place(batch)
        # A copy: TensorFlow may take over the memory of an array, and write what it computes next into it.
        return self.images.take(self.rows[chosen]), self.targets[chosen].copy()


class EpochPlan(NamedTuple):
    """How an epoch differs from one that has all images once, with plain targets.

    Fields:
        steps_per_epoch: batches of an epoch, in which no image comes again before all have come; None is all images
            once.
        mixup_alpha: of `mix_pairs`; 0 mixes nothing.
        label_smoothing: of `smooth`.
        class_weights: (K,); with them a batch has a third part, the weight of each image, (B,).
    """

    steps_per_epoch: int | None = None
    mixup_alpha: float = 0
    label_smoothing: float = 0
    class_weights: ClassWeights | None = None


PLAIN_EPOCH = EpochPlan()


class TrainingBatches(Batches):
    """Batches in an order that depends on the seed and the number of the epoch alone, as do the pairs of mixup.

    Keras's own shuffling draws from a generator that other code shares, and calls a data set's `on_epoch_end` once
    before the first epoch; both make the order depend on history.
    """

    def __init__(
        self,
        images: ImageSource,
        rows: RowNumbers,
        targets: Targets,
        batch_size: int,
        seed: int,
        plan: EpochPlan = PLAIN_EPOCH,
        devices: int = 1,
    ) -> None:
        """Feed as `Batches` does, in another order in each epoch.

        Args:
            images, rows, targets, batch_size, devices: as for `Batches`.
            seed: not negative.
            plan: of every epoch.
        """
        super().__init__(images, rows, targets, batch_size, devices)
        self.seed = seed
        self.plan = plan
        self.begin_epoch(0)

    def begin_epoch(self, epoch: int) -> None:
        """Draw the order of an epoch, counted from 0."""
        random = np.random.default_rng([self.seed, epoch])
        count = len(self) * self.batch_size if self.plan.steps_per_epoch else len(self.rows)
        rounds = math.ceil(count / len(self.rows))
        self.order = np.concatenate([random.permutation(len(self.rows)) for _ in range(rounds)])[:count]
        self.epoch = epoch

    def __len__(self) -> int:
        return self.plan.steps_per_epoch or super().__len__()

    def __getitem__(self, batch: int) -> Batch:
        chosen = self.order[self.place(batch)]
        images, targets = self.images.take(self.rows[chosen]), self.targets[chosen]
        if self.plan.mixup_alpha:
            images, targets = mix_pairs(
                images, targets, self.plan.mixup_alpha, np.random.default_rng([self.seed, self.epoch, 1 + batch])
            )
        weights = () if self.plan.class_weights is None else (targets @ self.plan.class_weights,)
        return images, smooth(targets, self.plan.label_smoothing), *weights


class BeginEpoch(keras.callbacks.Callback):  # type: ignore[misc]
    """Tell the batches which epoch begins; their own hook would hear of it too late where workers read ahead."""

    def __init__(self, batches: TrainingBatches) -> None:
        super().__init__()
        self.batches = batches

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:  # noqa: ARG002
        self.batches.begin_epoch(epoch)
