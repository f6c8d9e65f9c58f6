"""What a frozen backbone makes of images: computed once, and kept for all trainings of a head on them.

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

# Fixed, so that the batches of a training have no influence on the last digits of what is kept.
BATCH_SIZE = 64

Features = npt.NDArray[np.float32]  # (N, D)


class CachedFeatures:
    """Features on disk, read by the row numbers of the images that they were made of."""

    def __init__(self, path: Path, rows: RowNumbers) -> None:
        """`rows` are sorted; the features stand in their order."""
        self.path = path
        self.rows = rows

    def take(self, rows: RowNumbers) -> Features:
        """Copy the features of `rows`, of shape (B, D)."""
        features: Features = np.load(self.path, mmap_mode="r", allow_pickle=False)[np.searchsorted(self.rows, rows)]
        return features


def cache_features(
    backbone: keras.Model, description: Mapping[str, Any], images: StoredImages, rows: RowNumbers, folder: Path
) -> CachedFeatures:
    """Compute what `backbone` makes of `rows` of `images`, or find it where an earlier training has left it.

    Args:
        backbone: from pixels to features (B, D); it is asked as for predictions, without dropout.
        description: what makes the backbone this one, besides its weights, as values that JSON can hold.
        images: the images.
        rows: row numbers, in any order.
        folder: where features are kept; files may be removed while no training runs.
    """
    wanted = np.unique(rows)
    path = folder / f"{features_key(backbone, description, images, wanted)}.npy"
    with hold_lock(path.with_suffix(".lock"), "train: waiting for another training that computes the same features"):
        found = is_whole(path)
        if not found:
            compute_features(backbone, images, wanted, path)
    origin = "as an earlier training has kept them" if found else "computed once"
    print(
        f"train: features of {len(wanted)} images, {origin} in {path} ({path.stat().st_size / 1e6:.1f} MB)", flush=True
    )
    return CachedFeatures(path, wanted)


def features_key(backbone: keras.Model, description: Mapping[str, Any], images: StoredImages, rows: RowNumbers) -> str:
    """The same for the same pixels, weights, preprocessing, versions and device."""
    facts = [dict(description), describe_backend(), len(rows), images.image_shape]
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for weights in backbone.get_weights():
        digest.update(np.ascontiguousarray(weights).data)
    for pixels in images.take_parts(rows, BATCH_SIZE):
        digest.update(pixels.data)
    return digest.hexdigest()


def is_whole(path: Path) -> bool:
    """Whether the features are there as they were written: a digest lies beside them."""
    digest = path.with_suffix(".sha256")
    return path.exists() and digest.exists() and file_sha256(path) == digest.read_text()


def compute_features(backbone: keras.Model, images: StoredImages, rows: RowNumbers, path: Path) -> None:
    parts = tqdm(
        images.take_parts(rows, BATCH_SIZE),
        "train: features",
        math.ceil(len(rows) / BATCH_SIZE),
        unit=" batches",
        disable=None,
    )
    shape = (len(rows), *backbone.output_shape[1:])
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.float32)), "fortran_order": False, "shape": shape}
    with whole_file(path) as partial, partial.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        # Not through a map: there, a full disk would be a signal that ends the process without a word.
        for pixels in parts:
            file.write(np.ascontiguousarray(backbone.predict_on_batch(pixels), np.float32).data)
    write_text(path.with_suffix(".sha256"), file_sha256(path))


def describe_layers(layers: Sequence[keras.layers.Layer]) -> list[dict[str, Any]]:
    """What layers do, without their names, which depend on what else was built."""
    return [dict(layer.get_config()) | {"name": type(layer).__name__} for layer in layers]
