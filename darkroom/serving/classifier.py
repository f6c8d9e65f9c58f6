"""A network with its labels and its way of preparing photos: from a photo's bytes to probabilities.

Whatever asks the network about photos does it here: the predict command, the page, and the model that MLflow serves,
which has neither DVC nor the pipeline's other packages beside it. Dims: B photos of a batch, H height, W width,
C channels, K labels.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import BoundedSemaphore
from typing import Any, NamedTuple

import numpy as np

from darkroom.photos.images import ImageError, prepare_image
from darkroom.photos.photo_file import UnreadableFile
from darkroom.pipeline.arrays import Pixels, Probabilities
from darkroom.pipeline.processors import count_processors

BATCH_SIZE = 32
THREADS = min(count_processors(), 8)
# A photo may take up to a GB while it is decoded, and a server asks for several callers at once.
DECODING = BoundedSemaphore(THREADS)
MAXIMUM_BYTES = 32_000_000
# The params of augment that say how a photo's bytes become pixels, beside the size, which the network knows.
PREPARATION = ("resize", "resampling", "color")
PREPARATION_FILE = "preparation.json"


class Likely(NamedTuple):
    """A label and its probability."""

    label: str
    probability: float


class Answers(NamedTuple):
    """What a network tells of a batch: of the photos that could be read, `pixels` (B, H, W, C) and `probabilities`
    (B, K); and by place in the batch, why others could not."""

    pixels: Pixels
    probabilities: Probabilities
    reasons: Mapping[int, str]

    def rows(self) -> Iterator[tuple[Probabilities, str]]:
        """For each place in the batch its probabilities (K,) and "", or none and the reason."""
        told = iter(self.probabilities)
        for place in range(len(self.probabilities) + len(self.reasons)):
            if place in self.reasons:
                yield np.empty(0, np.float32), self.reasons[place]
            else:
                yield next(told), ""


@dataclass(frozen=True)
class Classifier:
    """`model` is a network from pixels (B, H, W, C), 0 to 255, to probabilities (B, K); `preparation` has the params
    `resize`, `resampling` and `color` of the training."""

    model: Any
    labels: Sequence[str]
    preparation: Mapping[str, Any]

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of what the network takes, in pixels."""
        height, width = self.model.input_shape[1:3]
        return height, width

    def prepare(self, content: bytes, times: int = 1) -> Pixels:
        """Bring a photo's bytes to pixels as in training, or to so many times as many on both sides.

        Raises:
            ImageError: they are no photo that can be read, or there is not enough memory for it.
        """
        height, width = self.image_size
        try:
            with DECODING:
                return prepare_image(content, (height * times, width * times), **self.preparation)
        except MemoryError:
            raise ImageError("there is not enough memory to decode it") from None

    def ask(self, reads: Sequence[Callable[[], bytes]]) -> Iterator[Answers]:
        """Tell what photos show, a batch at a time; the next batch is read and decoded meanwhile, in threads.

        Args:
            reads: functions that give the bytes of a photo each, or raise `UnreadableFile`; called in any thread.
        """
        pool = ThreadPoolExecutor(THREADS)
        ahead: deque[list[Future[Pixels]]] = deque()
        try:
            for start in range(0, len(reads), BATCH_SIZE):
                ahead.append([pool.submit(self.read_pixels, read) for read in reads[start : start + BATCH_SIZE]])
                if len(ahead) > 1:
                    yield self.answer(ahead.popleft())
            while ahead:
                yield self.answer(ahead.popleft())
        finally:
            pool.shutdown(cancel_futures=True)

    def read_pixels(self, read: Callable[[], bytes]) -> Pixels:
        return self.prepare(read())

    def answer(self, batch: Sequence[Future[Pixels]]) -> Answers:
        found, reasons = [], {}
        for place, future in enumerate(batch):
            try:
                found.append(future.result())
            except (ImageError, UnreadableFile) as error:
                reasons[place] = str(error)
        if not found:
            shape = (0, *self.model.input_shape[1:])
            return Answers(np.empty(shape, np.uint8), np.empty((0, len(self.labels)), np.float32), reasons)
        pixels = np.stack(found)
        return Answers(pixels, self.model.predict_on_batch(pixels), reasons)


def list_likeliest(row: Probabilities, labels: Sequence[str], top: int) -> list[Likely]:
    """The likeliest labels of a photo, of equal ones that which comes first.

    Args:
        row: probabilities (K,).
        labels: K labels.
        top: how many.
    """
    return [Likely(labels[number], float(row[number])) for number in np.argsort(-row, kind="stable")[:top]]
