"""Which training this is: by everything that decides what comes out of it."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

import darkroom
from darkroom.models.backend import describe_backend
from darkroom.params.train import TrainParams
from darkroom.pipeline.arrays import ClassIds, RowNumbers
from darkroom.pipeline.dataset import StoredImages
from darkroom.pipeline.files import file_sha256
from darkroom.training.distribution import count_workers

PROJECT = Path(darkroom.__file__).parents[1]
CODE = ("darkroom", "stages")
HASHED_IMAGES = 1024  # read at once


def training_key(
    settings: TrainParams,
    images: StoredImages,
    rows: Mapping[str, RowNumbers],
    class_ids: ClassIds,
) -> str:
    """The same for the same params, pixels, labels, code, versions and device.

    Args:
        settings: the section train, which has the digest of a file of weights.
        images: what `rows` point into.
        rows: row numbers by subset.
        class_ids: of every stored image, (N,).
    """
    values = [settings.model_dump(), describe_backend(), count_workers(), images.image_shape, digest_code()]
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode())
    for subset, numbers in sorted(rows.items()):
        digest.update(f"{subset} {len(numbers)}".encode())
        digest.update(class_ids[numbers].tobytes())
        for pixels in images.take_parts(numbers, HASHED_IMAGES):
            digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


def digest_code(project: Path = PROJECT) -> dict[str, str]:
    """The digest of each Python file that a stage may load, whether it is loaded already or not."""
    files = sorted(file for folder in CODE for file in (project / folder).rglob("*.py"))
    return {file.relative_to(project).as_posix(): file_sha256(file) for file in files}
