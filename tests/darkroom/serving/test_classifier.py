"""Photos asked about in batches, with the real way from bytes to pixels and a small network."""

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

from darkroom.photos.images import ImageError, prepare_image
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
    network = keras.Model(pixels, keras.layers.Dense(len(LABELS), activation="softmax")(values))
    return Classifier(network, LABELS, PREPARATION)


def give(content: bytes) -> Callable[[], bytes]:
    return lambda: content


def refuse(reason: str) -> bytes:
    raise UnreadableFile(reason)


def expected(classifier: Classifier, contents: Sequence[bytes]) -> np.ndarray:
    pixels = [prepare_image(content, (HEIGHT, WIDTH), "crop", "nearest", "rgb") for content in contents]
    return classifier.model.predict(np.stack(pixels), verbose=0)


def test_photos_are_told_in_batches_in_their_order(classifier: Classifier) -> None:
    contents = [encode(noise(12, 8, seed=seed)) for seed in range(2 * BATCH_SIZE + 3)]
    batches = list(classifier.ask([give(content) for content in contents]))
    assert [len(batch.pixels) for batch in batches] == [BATCH_SIZE, BATCH_SIZE, 3]
    told = np.concatenate([batch.probabilities for batch in batches])
    np.testing.assert_allclose(told, expected(classifier, contents), atol=1e-6)
    assert len({row.argmax() for row in told}) > 1


def test_what_cannot_be_read_has_its_reason_at_its_place(classifier: Classifier) -> None:
    good = encode(noise(12, 8))
    reads = [partial(refuse, "it is gone"), give(good), give(b""), give(good)]
    (answers,) = classifier.ask(reads)
    assert answers.reasons == {0: "it is gone", 2: "the file is empty"}
    assert answers.pixels.shape == (2, HEIGHT, WIDTH, 3)
    rows = list(answers.rows())
    assert [reason for _, reason in rows] == ["it is gone", "", "the file is empty", ""]
    assert [len(row) for row, _ in rows] == [0, 3, 0, 3]
    np.testing.assert_array_equal(rows[1][0], answers.probabilities[0])


def test_there_may_be_nothing_to_tell(classifier: Classifier) -> None:
    assert list(classifier.ask([])) == []
    (answers,) = classifier.ask([give(b"")])
    assert answers.pixels.shape == (0, HEIGHT, WIDTH, 3)
    assert answers.probabilities.shape == (0, len(LABELS))


def test_a_fault_that_nobody_foresaw_ends_it_and_no_thread_is_left(classifier: Classifier) -> None:
    def fail() -> bytes:
        raise RuntimeError("a fault of ours")

    before = threading.active_count()
    with pytest.raises(RuntimeError, match="a fault of ours"):
        list(classifier.ask([fail, *[give(b"")] * (5 * BATCH_SIZE)]))
    assert threading.active_count() == before


def test_no_more_than_one_batch_is_read_ahead(classifier: Classifier) -> None:
    read: list[int] = []

    def note(number: int) -> bytes:
        read.append(number)
        return b""

    told = 0
    for answers in classifier.ask([partial(note, number) for number in range(6 * BATCH_SIZE)]):
        told += len(answers.reasons)
        time.sleep(0.05)  # in which threads would read on
        assert len(read) <= told + BATCH_SIZE
    assert told == 6 * BATCH_SIZE


def test_however_many_ask_at_once_no_more_photos_are_decoded_than_there_are_processors(
    classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, decoding, most = threading.Lock(), 0, 0

    def prepare_slowly(content: bytes, image_size: Sequence[int], **preparation: Any) -> np.ndarray:
        nonlocal decoding, most
        with lock:
            decoding += 1
            most = max(most, decoding)
        time.sleep(0.005)
        with lock:
            decoding -= 1
        return prepare_image(content, image_size, **preparation)

    monkeypatch.setattr("darkroom.serving.classifier.prepare_image", prepare_slowly)
    reads = [give(encode(noise(12, 8)))] * BATCH_SIZE
    with ThreadPoolExecutor(4) as callers:
        asked = [callers.submit(lambda: list(classifier.ask(reads))) for _ in range(4)]
        assert all(len(answers.pixels) == BATCH_SIZE for future in asked for answers in future.result())
    assert most == THREADS


def test_a_photo_that_memory_does_not_hold_has_its_reason(
    classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill_memory(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("darkroom.serving.classifier.prepare_image", fill_memory)
    (answers,) = classifier.ask([give(b"a photo")])
    assert answers.reasons == {0: "there is not enough memory to decode it"}


def test_decoding_in_threads_leaves_the_filters_of_warnings_alone(classifier: Classifier) -> None:
    contents = [encode(noise(12, 8, seed=seed)) for seed in range(2 * BATCH_SIZE)]
    with warnings.catch_warnings():
        before = list(warnings.filters)
        list(classifier.ask([give(content) for content in contents]))
        assert warnings.filters == before


def test_a_photo_is_framed_alike_at_several_times_the_size(classifier: Classifier) -> None:
    content = encode(noise(8 * HEIGHT, 12 * WIDTH))
    large = classifier.prepare(content, times=4)
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
