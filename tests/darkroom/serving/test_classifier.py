"""Classify photos in batches, with the real preparation of photos and a small model."""

import threading
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import keras
import numpy as np
import pytest

from darkroom.photos.images import ImageError, prepare_image, prepare_sizes
from darkroom.photos.photo_file import UnreadableFile
from darkroom.serving.classifier import BATCH_SIZE, THREADS, Classifier, Likely, list_likeliest
from tests.examples import encode, noise

LABELS = ["cat", "dog", "eel"]
HEIGHT, WIDTH = 6, 4
PREPARATION = {"resize": "crop", "resampling": "nearest", "color": "rgb"}


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    keras.utils.set_random_seed(5)
    pixels = keras.Input((HEIGHT, WIDTH, 3))
    values = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(pixels))
    model = keras.Model(pixels, keras.layers.Dense(len(LABELS), activation="softmax")(values))
    return Classifier(model, LABELS, PREPARATION)


def give(content: bytes) -> Callable[[], bytes]:
    return lambda: content


def fail_to_read(reason: str) -> bytes:
    raise UnreadableFile(reason)


def expected(classifier: Classifier, contents: Sequence[bytes]) -> np.ndarray:
    pixels = [prepare_image(content, (HEIGHT, WIDTH), "crop", "nearest", "rgb") for content in contents]
    return classifier.model.predict(np.stack(pixels), verbose=0)


def test_photos_are_classified_in_batches_in_their_order(classifier: Classifier) -> None:
    contents = [encode(noise(12, 8, seed=seed)) for seed in range(2 * BATCH_SIZE + 3)]
    batches = list(classifier.classify([give(content) for content in contents]))
    assert [len(batch.pixels) for batch in batches] == [BATCH_SIZE, BATCH_SIZE, 3]
    predicted = np.concatenate([batch.probabilities for batch in batches])
    np.testing.assert_allclose(predicted, expected(classifier, contents), atol=1e-6)
    assert len({row.argmax() for row in predicted}) > 1


def test_an_unreadable_photo_has_its_reason_at_its_index(classifier: Classifier) -> None:
    good = encode(noise(12, 8))
    reads = [partial(fail_to_read, "it is gone"), give(good), give(b""), give(good)]
    (batch,) = classifier.classify(reads)
    assert batch.reasons == {0: "it is gone", 2: "the file is empty"}
    assert batch.pixels.shape == (2, HEIGHT, WIDTH, 3)
    rows = list(batch.per_photo())
    assert [reason for _, reason in rows] == ["it is gone", "", "the file is empty", ""]
    assert [len(row) for row, _ in rows] == [0, 3, 0, 3]
    np.testing.assert_array_equal(rows[1][0], batch.probabilities[0])


def test_without_readable_photos_there_are_no_predictions(classifier: Classifier) -> None:
    assert list(classifier.classify([])) == []
    (batch,) = classifier.classify([give(b"")])
    assert batch.pixels.shape == (0, HEIGHT, WIDTH, 3)
    assert batch.probabilities.shape == (0, len(LABELS))


def test_an_unexpected_exception_leaves_no_thread(classifier: Classifier) -> None:
    def fail() -> bytes:
        raise RuntimeError("unexpected")

    before = threading.active_count()
    with pytest.raises(RuntimeError, match="unexpected"):
        list(classifier.classify([fail, *[give(b"")] * (5 * BATCH_SIZE)]))
    assert threading.active_count() == before


def test_no_more_than_one_batch_is_read_ahead(classifier: Classifier) -> None:
    read: list[int] = []

    def note(number: int) -> bytes:
        read.append(number)
        return b""

    received = 0
    for batch in classifier.classify([partial(note, number) for number in range(6 * BATCH_SIZE)]):
        received += len(batch.reasons)
        time.sleep(0.05)  # time for threads to read more
        assert len(read) <= received + BATCH_SIZE
    assert received == 6 * BATCH_SIZE


def test_concurrent_callers_decode_no_more_photos_at_once_than_there_are_threads(
    classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, decoding, most = threading.Lock(), 0, 0

    def prepare_slowly(content: bytes, image_sizes: Sequence[Sequence[int]], **preparation: Any) -> list[np.ndarray]:
        nonlocal decoding, most
        with lock:
            decoding += 1
            most = max(most, decoding)
        time.sleep(0.005)
        with lock:
            decoding -= 1
        return prepare_sizes(content, image_sizes, **preparation)

    monkeypatch.setattr("darkroom.serving.classifier.prepare_sizes", prepare_slowly)
    reads = [give(encode(noise(12, 8)))] * BATCH_SIZE
    with ThreadPoolExecutor(4) as callers:
        futures = [callers.submit(lambda: list(classifier.classify(reads))) for _ in range(4)]
        assert all(len(batch.pixels) == BATCH_SIZE for future in futures for batch in future.result())
    assert most == THREADS


def test_a_photo_too_large_for_memory_has_its_reason(classifier: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill_memory(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("darkroom.serving.classifier.prepare_sizes", fill_memory)
    (batch,) = classifier.classify([give(b"a photo")])
    assert batch.reasons == {0: "not enough memory to decode it"}


def test_decoding_in_threads_does_not_change_warning_filters(classifier: Classifier) -> None:
    contents = [encode(noise(12, 8, seed=seed)) for seed in range(2 * BATCH_SIZE)]
    with warnings.catch_warnings():
        before = list(warnings.filters)
        list(classifier.classify([give(content) for content in contents]))
        assert warnings.filters == before


def test_a_photo_is_cropped_alike_at_a_multiple_of_the_size(classifier: Classifier) -> None:
    content = encode(noise(8 * HEIGHT, 12 * WIDTH))
    (large,) = classifier.prepare_sizes(content, [4])
    assert large.shape == (4 * HEIGHT, 4 * WIDTH, 3)
    np.testing.assert_array_equal(large, prepare_image(content, (24, 16), "crop", "nearest", "rgb"))
    np.testing.assert_array_equal(
        classifier.prepare(content), prepare_image(content, (HEIGHT, WIDTH), "crop", "nearest", "rgb")
    )
    with pytest.raises(ImageError, match="the file is empty"):
        classifier.prepare(b"")


def test_of_equally_likely_labels_the_first_comes_first() -> None:
    row = np.array([0.25, 0.5, 0.25], np.float32)
    assert list_likeliest(row, LABELS, 2) == [Likely("dog", 0.5), Likely("cat", 0.25)]
    assert [likely.label for likely in list_likeliest(row, LABELS, 9)] == ["dog", "cat", "eel"]
