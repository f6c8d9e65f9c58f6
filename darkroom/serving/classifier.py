"""Classify photos: from a photo's bytes to probabilities, with a model, its labels and its preparation of photos.

The predict command, the page and the model that MLflow serves all use this module. The served model runs without DVC
and without most packages of the project. Dims: B photos of a batch, H height, W width, C channels, K labels.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import BoundedSemaphore
from typing import Any, NamedTuple

import numpy as np

from darkroom.photos.images import ImageError, prepare_sizes
from darkroom.photos.photo_file import UnreadableFile
from darkroom.pipeline.arrays import Pixels, Probabilities
from darkroom.pipeline.processors import count_processors

BATCH_SIZE = 32
THREADS = min(count_processors(), 8)
# Decoding a photo may take more than a GB of memory, and a server handles several requests at once.
DECODING = BoundedSemaphore(THREADS)
MAXIMUM_BYTES = 32_000_000
# The params of augment that decide how a photo becomes pixels, except the size, which the model knows.
PREPARATION = ("resize", "resampling", "color")
PREPARATION_FILE = "preparation.json"


class Likely(NamedTuple):
    """A label and its probability."""

    label: str
    probability: float


class BatchPredictions(NamedTuple):
    """The predictions for a batch: `pixels` (B, H, W, C) and `probabilities` (B, K) of the photos that could be read;
    `reasons` says why the others could not, by index in the batch."""

    pixels: Pixels
    probabilities: Probabilities
    reasons: Mapping[int, str]

    def per_photo(self) -> Iterator[tuple[Probabilities, str]]:
        """Yield probabilities (K,) and "" for each photo of the batch; if it could not be read, none and the reason."""
        predicted = iter(self.probabilities)
        for index in range(len(self.probabilities) + len(self.reasons)):
            if index in self.reasons:
                yield np.empty(0, np.float32), self.reasons[index]
            else:
                yield next(predicted), ""


@dataclass(frozen=True)
class Classifier:
    """`model` maps pixels (B, H, W, C), 0 to 255, to probabilities (B, K); `preparation` has the params `resize`,
    `resampling` and `color` of the training."""

    model: Any
    labels: Sequence[str]
    preparation: Mapping[str, Any]

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the model's input, in pixels."""
        height, width = self.model.input_shape[1:3]
        return height, width

    def prepare(self, content: bytes) -> Pixels:
        """Decode and resize a photo as in training. Raises an ImageError: see `prepare_sizes`."""
        (pixels,) = self.prepare_sizes(content, [1])
        return pixels

    def prepare_sizes(self, content: bytes, times: Sequence[int]) -> list[Pixels]:
        """Decode a photo, and resize it as in training to each of these multiples of the input's height and width.

        Raises:
            ImageError: the photo cannot be read, or there is not enough memory to decode it.
        """
        height, width = self.image_size
        try:
            with DECODING:
                return prepare_sizes(content, [(height * n, width * n) for n in times], **self.preparation)
        except MemoryError:
            raise ImageError("not enough memory to decode it") from None

    def classify(self, reads: Sequence[Callable[[], bytes]]) -> Iterator[BatchPredictions]:
        """Classify photos batch by batch, while threads read and decode the next batch.

        Args:
            reads: functions that each return the bytes of a photo or raise `UnreadableFile`; called in any thread.
        """
        pool = ThreadPoolExecutor(THREADS)
        ahead: deque[list[Future[Pixels]]] = deque()
        try:
            for start in range(0, len(reads), BATCH_SIZE):
                ahead.append([pool.submit(self.read_pixels, read) for read in reads[start : start + BATCH_SIZE]])
                if len(ahead) > 1:
                    yield self.predict_batch(ahead.popleft())
            while ahead:
                yield self.predict_batch(ahead.popleft())
        finally:
            pool.shutdown(cancel_futures=True)

    def read_pixels(self, read: Callable[[], bytes]) -> Pixels:
        return self.prepare(read())

    def predict_batch(self, batch: Sequence[Future[Pixels]]) -> BatchPredictions:
        decoded, reasons = [], {}
        for index, future in enumerate(batch):
            try:
                decoded.append(future.result())
            except (ImageError, UnreadableFile) as error:
                reasons[index] = str(error)
        if not decoded:
            shape = (0, *self.model.input_shape[1:])
            return BatchPredictions(np.empty(shape, np.uint8), np.empty((0, len(self.labels)), np.float32), reasons)
        pixels = np.stack(decoded)
        return BatchPredictions(pixels, self.model.predict_on_batch(pixels), reasons)


def list_likeliest(probabilities: Probabilities, labels: Sequence[str], top: int) -> list[Likely]:
    """List the most probable labels of a photo; of equally probable labels, the first comes first.

    Args:
        probabilities: (K,).
        labels: K labels.
        top: the number of labels to list.
    """
    ids = np.argsort(-probabilities, kind="stable")[:top]
    return [Likely(labels[class_id], float(probabilities[class_id])) for class_id in ids]
