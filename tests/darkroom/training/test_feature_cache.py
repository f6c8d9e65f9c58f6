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
ROWS = np.arange(2, COUNT)


def make_backbone(
    images: StoredImages, normalization: Normalization = "rescale", kind: type[keras.Model] = keras.Model
) -> tuple[keras.Model, list[dict[str, object]]]:
    """A small backbone, the same each time but for the names of its layers, and what its normalization is."""
    keras.utils.set_random_seed(3)
    pixels = values = keras.Input(images.image_shape)
    layers = fit_normalization(normalization, images, ROWS, 0.001, 100, 1)
    for layer in [*layers, keras.layers.Conv2D(4, 3), keras.layers.Dropout(0.5), keras.layers.GlobalMaxPooling2D()]:
        values = layer(values)
    return kind(pixels, values), describe_layers(layers)


@pytest.fixture
def images(tmp_path: Path) -> StoredImages:
    return store_images(tmp_path, np.stack([noise(8, 8, 3, seed) for seed in range(COUNT)]))


@pytest.fixture
def keep(images: StoredImages, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[Path, bool]]:
    """Keep features; return their file, and whether they were computed."""

    def keep(
        images: StoredImages = images, rows: np.ndarray = ROWS, normalization: Normalization = "rescale"
    ) -> tuple[Path, bool]:
        backbone, description = make_backbone(images, normalization)
        capsys.readouterr()
        path = cache_features(backbone, {"normalization": description}, images, rows, tmp_path / "kept").path
        line = capsys.readouterr().out
        assert f"train: features of {len(np.unique(rows))} images, " in line
        assert ("computed once in" in line) != ("as an earlier training has kept them in" in line)
        return path, "computed once in" in line

    return keep


def test_features_are_what_the_backbone_predicts_and_are_found_by_row_number(
    images: StoredImages, tmp_path: Path
) -> None:
    backbone, _ = make_backbone(images)
    rows = np.array([60, 3, 69, 5])
    kept = cache_features(backbone, {}, images, rows, tmp_path / "kept")
    asked = np.array([5, 60, 60])
    assert kept.take(asked).dtype == np.float32
    np.testing.assert_allclose(kept.take(asked), backbone.predict(images.take(asked), verbose=0), atol=1e-6)
    assert np.ptp(kept.take(asked)[:2], axis=0).min() > 0
    np.testing.assert_array_equal(np.load(kept.path), kept.take(np.sort(rows)))


def test_all_batches_are_computed(images: StoredImages, tmp_path: Path) -> None:
    backbone, _ = make_backbone(images)
    kept = cache_features(backbone, {}, images, ROWS, tmp_path / "kept")
    np.testing.assert_allclose(kept.take(ROWS), backbone.predict(images.take(ROWS), verbose=0), atol=1e-6)


def test_features_are_computed_once_and_then_found(keep: Callable[..., tuple[Path, bool]]) -> None:
    path, computed = keep()
    assert computed
    os.utime(path, ns=(1, 1))
    before = path.stat()
    assert keep() == (path, False)
    after = path.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_no_partial_file_is_left(keep: Callable[..., tuple[Path, bool]]) -> None:
    path, _ = keep()
    assert sorted(file.name for file in path.parent.iterdir()) == [
        f"{path.stem}.{ending}" for ending in ("lock", "npy", "sha256")
    ]


class Interrupted(keras.Model):
    """A backbone that is interrupted in its second batch."""

    def predict_on_batch(self, pixels: np.ndarray) -> Features:
        if len(pixels) < 64:
            raise KeyboardInterrupt
        features: Features = super().predict_on_batch(pixels)
        return features


def test_an_interrupted_computation_leaves_nothing_that_is_found(
    images: StoredImages, tmp_path: Path, keep: Callable[..., tuple[Path, bool]]
) -> None:
    backbone, description = make_backbone(images, kind=Interrupted)
    with pytest.raises(KeyboardInterrupt):
        cache_features(backbone, {"normalization": description}, images, ROWS, tmp_path / "kept")
    assert [file.suffix for file in (tmp_path / "kept").iterdir()] == [".lock"]
    assert keep()[1]


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4])


@pytest.mark.parametrize(
    "damage",
    [
        Path.unlink,
        cut_short,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"\x93NUMPY no header"),
        lambda path: np.save(path, np.zeros((len(ROWS) - 1, 4), np.float32)),
        lambda path: np.save(path, np.zeros((len(ROWS), 5), np.float32)),
        lambda path: np.save(path, np.zeros((len(ROWS), 4), np.float64)),
    ],
    ids=["removed", "cut short", "empty", "no array", "too few rows", "too many columns", "another type"],
)
def test_what_is_not_whole_is_made_anew(
    keep: Callable[..., tuple[Path, bool]], damage: Callable[[Path], object]
) -> None:
    path, _ = keep()
    content = path.read_bytes()
    damage(path)
    assert keep() == (path, True)
    assert path.read_bytes() == content


def test_the_order_of_rows_is_of_no_account_and_which_they_are_is(keep: Callable[..., tuple[Path, bool]]) -> None:
    path, _ = keep()
    assert keep(rows=np.concatenate([ROWS[::-1], ROWS[:3]])) == (path, False)
    other, computed = keep(rows=ROWS[1:])
    assert (computed, other == path) == (True, False)


def test_one_changed_pixel_counts_and_only_among_the_rows(
    images: StoredImages, tmp_path: Path, keep: Callable[..., tuple[Path, bool]]
) -> None:
    path, _ = keep()
    for row, expected in ((0, False), (69, True)):
        pixels = np.load(images.path)
        pixels[row, 7, 7, 2] ^= 1
        changed, computed = keep(images=store_images(tmp_path / str(row), pixels))
        assert (computed, changed != path) == (expected, expected)


def test_one_changed_weight_or_another_description_counts(images: StoredImages, tmp_path: Path) -> None:
    backbone, _ = make_backbone(images)
    description = {"network": "one", "alpha": 1.0}
    paths = [cache_features(backbone, description, images, ROWS, tmp_path).path]
    paths.append(cache_features(backbone, description | {"alpha": 0.5}, images, ROWS, tmp_path).path)
    weights = backbone.get_weights()
    weights[-1][-1] += 1
    backbone.set_weights(weights)
    paths.append(cache_features(backbone, description, images, ROWS, tmp_path).path)
    assert len(set(paths)) == 3
    assert not np.array_equal(np.load(paths[0]), np.load(paths[2]))


def test_every_normalization_has_features_of_its_own_which_are_found_again(
    keep: Callable[..., tuple[Path, bool]],
) -> None:
    names: tuple[Normalization, ...] = get_args(Normalization)
    paths = {name: keep(normalization=name)[0] for name in names}
    assert len(set(paths.values())) == len(names)
    # The layers have other names by now.
    assert [keep(normalization=name) for name in names] == [(paths[name], False) for name in names]


class Slow(keras.Model):
    """A backbone that takes its time, and counts its batches."""

    batches = 0

    def predict_on_batch(self, pixels: np.ndarray) -> Features:
        self.batches += 1
        time.sleep(0.3)
        features: Features = super().predict_on_batch(pixels)
        return features


def test_of_two_at_once_one_computes_and_the_other_waits(
    images: StoredImages, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    backbone, _ = make_backbone(images, kind=Slow)

    def keep(_: int) -> CachedFeatures:
        return cache_features(backbone, {}, images, ROWS, tmp_path / "kept")

    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(keep, range(2))
    assert one.path == other.path
    assert backbone.batches == 2
    printed, said = capsys.readouterr()
    assert said.count("waiting for another training that computes the same features") == 1
    assert printed.count("computed once") == printed.count("as an earlier training has kept them") == 1
