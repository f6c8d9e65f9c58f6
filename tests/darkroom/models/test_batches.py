from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from darkroom.models.batches import Batches, BeginEpoch, EpochPlan, TrainingBatches
from darkroom.models.targets import make_targets
from tests.trainings import store_images

COUNT = 20


def make_batches(folder: Path, seed: int = 7, batch_size: int = 8, **plan: Any) -> TrainingBatches:
    """Twenty images whose brightness is their class ID."""
    images = store_images(folder, np.arange(COUNT, dtype=np.uint8)[:, None, None, None] * np.ones((2, 2, 1), np.uint8))
    targets = make_targets(np.arange(COUNT), COUNT)
    return TrainingBatches(images, np.arange(COUNT), targets, batch_size, seed, EpochPlan(**plan))


def brightness(batches: Batches) -> list[list[float]]:
    """The brightness of the images of all batches, a list per batch."""
    return [batches[number][0][:, 0, 0, 0].tolist() for number in range(len(batches))]


def in_epoch(batches: TrainingBatches, epoch: int) -> list[list[float]]:
    batches.begin_epoch(epoch)
    return brightness(batches)


def test_batches_pair_images_with_their_targets_and_the_last_may_be_smaller(tmp_path: Path) -> None:
    images = make_batches(tmp_path).images
    targets = make_targets(np.array([2, 1, 0]), 3)
    batches = Batches(images, np.array([4, 2, 0]), targets, 2)
    assert len(batches) == 2
    assert brightness(batches) == [[4, 2], [0]]
    assert [batches[number][1].tolist() for number in range(2)] == [[[0, 0, 1], [0, 1, 0]], [[1, 0, 0]]]


@pytest.mark.parametrize(("count", "sizes"), [(17, [8, 9]), (18, [8, 8, 2]), (16, [8, 8]), (3, [3]), (2, [2])])
def test_no_batch_has_fewer_images_than_devices(tmp_path: Path, count: int, sizes: list[int]) -> None:
    images, targets = make_batches(tmp_path).images, make_targets(np.arange(count), count)
    for batches in (
        Batches(images, np.arange(count), targets, 8, devices=2),
        TrainingBatches(images, np.arange(count), targets, 8, seed=1, devices=2),
    ):
        assert [len(batches[number][0]) for number in range(len(batches))] == sizes


def test_writing_into_a_batch_does_not_change_later_ones(tmp_path: Path) -> None:
    """TensorFlow writes into the memory of arrays that it was given."""
    training = make_batches(tmp_path)
    for batches in (training, Batches(training.images, training.row_numbers, training.targets, 8)):
        before = [part.copy() for part in batches[0]]
        for part in batches[0]:
            part[:] = 77
        for part, expected in zip(batches[0], before, strict=True):
            np.testing.assert_array_equal(part, expected)


def test_training_batches_pair_images_with_their_targets(tmp_path: Path) -> None:
    batches = make_batches(tmp_path)
    assert [len(batch) for batch in brightness(batches)] == [8, 8, 4]
    for number in range(3):
        images, targets = batches[number]
        assert images.dtype == np.uint8
        assert targets.argmax(axis=1).tolist() == images[:, 0, 0, 0].tolist()


def test_the_order_of_images_depends_only_on_seed_and_epoch(tmp_path: Path) -> None:
    one, other = make_batches(tmp_path), make_batches(tmp_path)
    in_epoch(one, 0)
    np.random.seed(3)  # noqa: NPY002  Keras's own shuffling would draw from this one
    keras.utils.set_random_seed(5)
    assert in_epoch(one, 3) == in_epoch(other, 3)
    assert sorted(sum(brightness(one), [])) == list(range(COUNT))
    assert brightness(one) != in_epoch(other, 4)
    assert brightness(one) != in_epoch(make_batches(tmp_path, seed=8), 3)
    assert sum(brightness(one), []) != list(range(COUNT))


def test_batches_start_in_the_first_epoch_and_a_callback_begins_the_next(tmp_path: Path) -> None:
    batches = make_batches(tmp_path)
    assert brightness(batches) == in_epoch(make_batches(tmp_path), 0)
    BeginEpoch(batches).on_epoch_begin(2)
    assert brightness(batches) == in_epoch(make_batches(tmp_path), 2)


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 12])
def test_with_steps_per_epoch_no_image_repeats_before_all_were_used(tmp_path: Path, steps: int) -> None:
    batches = make_batches(tmp_path, steps_per_epoch=steps)
    shown = in_epoch(batches, 1)
    assert len(batches) == steps
    assert [len(batch) for batch in shown] == [8] * steps
    images = sum(shown, [])
    passes = [images[start : start + COUNT] for start in range(0, len(images), COUNT)]
    assert all(len(set(one)) == len(one) for one in passes)
    assert len(passes) < 2 or passes[0] != passes[1]
    assert in_epoch(batches, 2) != shown


def test_a_batch_larger_than_the_data_repeats_all_images_evenly(tmp_path: Path) -> None:
    batches = make_batches(tmp_path, batch_size=50, steps_per_epoch=2)
    assert np.bincount(np.concatenate(brightness(batches)).astype(int)).tolist() == [5] * COUNT


def test_mixup_pairs_depend_only_on_seed_epoch_and_batch(tmp_path: Path) -> None:
    one, other = (make_batches(tmp_path, mixup_alpha=1, steps_per_epoch=5) for _ in range(2))
    in_epoch(one, 2)
    assert in_epoch(one, 1) == in_epoch(other, 1)
    assert one[3][0].tolist() == other[3][0].tolist()  # the same without the batches before it
    # In any order of images, the larger proportions of a batch identify its draws.
    draws = set()
    for seed in (7, 8):
        whole = make_batches(tmp_path, seed=seed, batch_size=COUNT, mixup_alpha=1, steps_per_epoch=2)
        for epoch in (0, 1):
            whole.begin_epoch(epoch)
            draws |= {tuple(np.sort(whole[number][1].max(axis=1))) for number in (0, 1)}
    assert len(draws) == 8


def test_mixup_mixes_images_and_targets_alike(tmp_path: Path) -> None:
    batches = make_batches(tmp_path, mixup_alpha=1)
    for number in range(3):
        images, targets = batches[number]
        assert images.dtype == targets.dtype == np.float32
        np.testing.assert_allclose(images[:, 0, 0, 0], targets @ np.arange(COUNT), rtol=1e-5)
    assert (targets.max(axis=1) < 1).any()


def test_mixed_targets_are_smoothed(tmp_path: Path) -> None:
    plain = make_batches(tmp_path, mixup_alpha=1)
    smooth = make_batches(tmp_path, mixup_alpha=1, label_smoothing=0.1)
    np.testing.assert_array_equal(smooth[0][0], plain[0][0])
    np.testing.assert_allclose(smooth[0][1], plain[0][1] * 0.9 + 0.1 / COUNT, atol=1e-7)


def test_class_weights_become_sample_weights(tmp_path: Path) -> None:
    weights = np.arange(COUNT, dtype=np.float32) / 2
    batches = make_batches(tmp_path, class_weights=weights, label_smoothing=0.5)
    assert len(make_batches(tmp_path)[0]) == 2
    images, _, sample_weights = batches[2]
    assert sample_weights.dtype == np.float32
    assert sample_weights.tolist() == (images[:, 0, 0, 0] / 2).tolist()


def test_the_weight_of_a_mixed_image_is_mixed_too(tmp_path: Path) -> None:
    weights = np.linspace(1, 3, COUNT, dtype=np.float32)
    batches = make_batches(tmp_path, class_weights=weights, mixup_alpha=1)
    _, targets, sample_weights = batches[1]
    assert (targets.max(axis=1) < 1).any()
    np.testing.assert_allclose(sample_weights, targets @ weights, rtol=1e-6)
