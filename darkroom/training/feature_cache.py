"""A cache of the features of frozen backbones: computed once, and reused by every training of a head on them.

Dims: N images, B images of a batch, D features of an image.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from darkroom.models.backend import describe_backend
from darkroom.pipeline.arrays import RowNumbers
from darkroom.pipeline.dataset import StoredImages
from darkroom.pipeline.files import file_sha256, whole_file, write_text
from darkroom.pipeline.stage import hold_lock

# Fixed, so that train.batch_size does not change the last digits of the cached features.
BATCH_SIZE = 64

Features = npt.NDArray[np.float32]  # (N, D)


class CachedFeatures:
    """Features on disk, read by the row numbers of their images."""

    def __init__(self, path: Path, row_numbers: RowNumbers) -> None:
        """Open features that are stored in the order of the sorted `row_numbers`."""
        self.path = path
        self.row_numbers = row_numbers

    def take(self, row_numbers: RowNumbers) -> Features:
        """Copy the features of `row_numbers`, of shape (B, D)."""
        features: Features = np.load(self.path, mmap_mode="r", allow_pickle=False)[
            np.searchsorted(self.row_numbers, row_numbers)
        ]
        return features


def cache_features(
    backbone: keras.Model, description: Mapping[str, Any], images: StoredImages, row_numbers: RowNumbers, folder: Path
) -> CachedFeatures:
    """Compute the features of images, or find them in the cache.

    Args:
        backbone: from pixels to features (B, D); it runs in inference mode, without dropout.
        description: everything besides weights that the features depend on, as values that JSON can hold.
        images: the images.
        row_numbers: which images, in any order.
        folder: of the cache; its files may be deleted while no training runs.
    """
    wanted = np.unique(row_numbers)
    path = folder / f"{features_digest(backbone, description, images, wanted)}.npy"
    with hold_lock(path.with_suffix(".lock"), "train: waiting for another training that computes the same features"):
        found = is_whole(path)
        if not found:
            compute_features(backbone, images, wanted, path)
    origin = "found in the cache at" if found else "computed and cached at"
    print(f"train: features of {len(wanted)} images {origin} {path} ({path.stat().st_size / 1e6:.1f} MB)", flush=True)
    return CachedFeatures(path, wanted)


def features_digest(
    backbone: keras.Model, description: Mapping[str, Any], images: StoredImages, row_numbers: RowNumbers
) -> str:
    """A digest of pixels, weights, preprocessing, versions and device."""
    facts = [dict(description), describe_backend(), len(row_numbers), images.image_shape]
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for weights in backbone.get_weights():
        digest.update(np.ascontiguousarray(weights).data)
    for pixels in images.take_parts(row_numbers, BATCH_SIZE):
        digest.update(pixels.data)
    return digest.hexdigest()


def is_whole(path: Path) -> bool:
    """Whether the file exists and matches the digest that is stored beside it."""
    digest = path.with_suffix(".sha256")
    return path.exists() and digest.exists() and file_sha256(path) == digest.read_text()


def compute_features(backbone: keras.Model, images: StoredImages, row_numbers: RowNumbers, path: Path) -> None:
    parts = tqdm(
        images.take_parts(row_numbers, BATCH_SIZE),
        "train: features",
        math.ceil(len(row_numbers) / BATCH_SIZE),
        unit=" batches",
        disable=None,
    )
    shape = (len(row_numbers), *backbone.output_shape[1:])
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.float32)), "fortran_order": False, "shape": shape}
    with whole_file(path) as partial, partial.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        # Not a memory map: there, a full disk would raise a signal that ends the process without a message.
        for pixels in parts:
            file.write(np.ascontiguousarray(backbone.predict_on_batch(pixels), np.float32).data)
    write_text(path.with_suffix(".sha256"), file_sha256(path))


def describe_layers(layers: Sequence[keras.layers.Layer]) -> list[dict[str, Any]]:
    """The configuration of layers without their names, which depend on what else was built."""
    return [dict(layer.get_config()) | {"name": type(layer).__name__} for layer in layers]
