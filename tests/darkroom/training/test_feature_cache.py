import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import get_args

import keras
import numpy as np
import pytest

from darkroom.params.train import Normalization
from darkroom.pipeline.dataset import StoredImages
from darkroom.training.feature_cache import CachedFeatures, Features, cache_features, describe_layers
from darkroom.training.normalization import fit_normalization
from tests.examples import noise
from tests.trainings import store_images

COUNT = 70  # more than one batch
ROW_NUMBERS = np.arange(2, COUNT)


def make_backbone(
    images: StoredImages, normalization: Normalization = "rescale", kind: type[keras.Model] = keras.Model
) -> tuple[keras.Model, list[dict[str, object]]]:
    """A small backbone, equal each time except for layer names, and a description of its normalization."""
    keras.utils.set_random_seed(3)
    pixels = values = keras.Input(images.image_shape)
    layers = fit_normalization(normalization, images, ROW_NUMBERS, 0.001, 100, 1)
    for layer in [*layers, keras.layers.Conv2D(4, 3), keras.layers.Dropout(0.5), keras.layers.GlobalMaxPooling2D()]:
        values = layer(values)
    return kind(pixels, values), describe_layers(layers)


@pytest.fixture
def images(tmp_path: Path) -> StoredImages:
    return store_images(tmp_path, np.stack([noise(8, 8, 3, seed) for seed in range(COUNT)]))


@pytest.fixture
def cache(images: StoredImages, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[Path, bool]]:
    """Cache features; return their file, and whether they were computed."""

    def cache(
        images: StoredImages = images, row_numbers: np.ndarray = ROW_NUMBERS, normalization: Normalization = "rescale"
    ) -> tuple[Path, bool]:
        backbone, description = make_backbone(images, normalization)
        capsys.readouterr()
        path = cache_features(backbone, {"normalization": description}, images, row_numbers, tmp_path / "cache").path
        line = capsys.readouterr().out
        assert f"train: features of {len(np.unique(row_numbers))} images " in line
        assert ("computed and cached at" in line) != ("found in the cache at" in line)
        return path, "computed and cached at" in line

    return cache


def test_features_are_the_backbone_s_predictions_and_are_read_by_row_number(
    images: StoredImages, tmp_path: Path
) -> None:
    backbone, _ = make_backbone(images)
    row_numbers = np.array([60, 3, 69, 5])
    cached = cache_features(backbone, {}, images, row_numbers, tmp_path / "cache")
    chosen = np.array([5, 60, 60])
    assert cached.take(chosen).dtype == np.float32
    np.testing.assert_allclose(cached.take(chosen), backbone.predict(images.take(chosen), verbose=0), atol=1e-6)
    assert np.ptp(cached.take(chosen)[:2], axis=0).min() > 0
    np.testing.assert_array_equal(np.load(cached.path), cached.take(np.sort(row_numbers)))


def test_all_batches_are_computed(images: StoredImages, tmp_path: Path) -> None:
    backbone, _ = make_backbone(images)
    cached = cache_features(backbone, {}, images, ROW_NUMBERS, tmp_path / "cache")
    np.testing.assert_allclose(
        cached.take(ROW_NUMBERS), backbone.predict(images.take(ROW_NUMBERS), verbose=0), atol=1e-6
    )


def test_features_are_computed_once_and_then_found(cache: Callable[..., tuple[Path, bool]]) -> None:
    path, computed = cache()
    assert computed
    os.utime(path, ns=(1, 1))
    before = path.stat()
    assert cache() == (path, False)
    after = path.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_no_partial_file_is_left(cache: Callable[..., tuple[Path, bool]]) -> None:
    path, _ = cache()
    assert sorted(file.name for file in path.parent.iterdir()) == [
        f"{path.stem}.{extension}" for extension in ("lock", "npy", "sha256")
    ]


class Interrupted(keras.Model):
    """A backbone that is interrupted in its second batch."""

    def predict_on_batch(self, pixels: np.ndarray) -> Features:
        if len(pixels) < 64:
            raise KeyboardInterrupt
        features: Features = super().predict_on_batch(pixels)
        return features


def test_an_interrupted_computation_leaves_no_cached_features(
    images: StoredImages, tmp_path: Path, cache: Callable[..., tuple[Path, bool]]
) -> None:
    backbone, description = make_backbone(images, kind=Interrupted)
    with pytest.raises(KeyboardInterrupt):
        cache_features(backbone, {"normalization": description}, images, ROW_NUMBERS, tmp_path / "cache")
    assert [file.suffix for file in (tmp_path / "cache").iterdir()] == [".lock"]
    assert cache()[1]


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4])


@pytest.mark.parametrize(
    "damage",
    [
        Path.unlink,
        cut_short,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"\x93NUMPY no header"),
        lambda path: np.save(path, np.zeros((len(ROW_NUMBERS) - 1, 4), np.float32)),
        lambda path: np.save(path, np.zeros((len(ROW_NUMBERS), 5), np.float32)),
        lambda path: np.save(path, np.zeros((len(ROW_NUMBERS), 4), np.float64)),
    ],
    ids=["removed", "cut short", "empty", "no array", "too few rows", "too many columns", "another type"],
)
def test_corrupt_features_are_computed_again(
    cache: Callable[..., tuple[Path, bool]], damage: Callable[[Path], object]
) -> None:
    path, _ = cache()
    content = path.read_bytes()
    damage(path)
    assert cache() == (path, True)
    assert path.read_bytes() == content


def test_the_cache_depends_on_which_images_but_not_on_their_order(cache: Callable[..., tuple[Path, bool]]) -> None:
    path, _ = cache()
    assert cache(row_numbers=np.concatenate([ROW_NUMBERS[::-1], ROW_NUMBERS[:3]])) == (path, False)
    other, computed = cache(row_numbers=ROW_NUMBERS[1:])
    assert (computed, other == path) == (True, False)


def test_one_changed_pixel_matters_only_in_the_chosen_images(
    images: StoredImages, tmp_path: Path, cache: Callable[..., tuple[Path, bool]]
) -> None:
    path, _ = cache()
    for row, expected in ((0, False), (69, True)):
        pixels = np.load(images.path)
        pixels[row, 7, 7, 2] ^= 1
        changed, computed = cache(images=store_images(tmp_path / str(row), pixels))
        assert (computed, changed != path) == (expected, expected)


def test_a_changed_weight_or_description_matters(images: StoredImages, tmp_path: Path) -> None:
    backbone, _ = make_backbone(images)
    description = {"network": "one", "alpha": 1.0}
    paths = [cache_features(backbone, description, images, ROW_NUMBERS, tmp_path).path]
    paths.append(cache_features(backbone, description | {"alpha": 0.5}, images, ROW_NUMBERS, tmp_path).path)
    weights = backbone.get_weights()
    weights[-1][-1] += 1
    backbone.set_weights(weights)
    paths.append(cache_features(backbone, description, images, ROW_NUMBERS, tmp_path).path)
    assert len(set(paths)) == 3
    assert not np.array_equal(np.load(paths[0]), np.load(paths[2]))


def test_every_normalization_has_its_own_features_which_are_found_again(
    cache: Callable[..., tuple[Path, bool]],
) -> None:
    names: tuple[Normalization, ...] = get_args(Normalization)
    paths = {name: cache(normalization=name)[0] for name in names}
    assert len(set(paths.values())) == len(names)
    # By now the layers have other names.
    assert [cache(normalization=name) for name in names] == [(paths[name], False) for name in names]


class Slow(keras.Model):
    """A slow backbone that counts its batches."""

    batches = 0

    def predict_on_batch(self, pixels: np.ndarray) -> Features:
        self.batches += 1
        time.sleep(0.3)
        features: Features = super().predict_on_batch(pixels)
        return features


def test_of_two_simultaneous_trainings_one_computes_and_the_other_waits(
    images: StoredImages, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    backbone, _ = make_backbone(images, kind=Slow)

    def cache(_: int) -> CachedFeatures:
        return cache_features(backbone, {}, images, ROW_NUMBERS, tmp_path / "cache")

    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(cache, range(2))
    assert one.path == other.path
    assert backbone.batches == 2
    printed, messages = capsys.readouterr()
    assert messages.count("waiting for another training that computes the same features") == 1
    assert printed.count("computed and cached at") == printed.count("found in the cache at") == 1
