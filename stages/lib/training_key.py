"""Which training this is: by everything that decides what comes out of it."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

import stages
from stages.lib.arrays import ClassNumbers, RowNumbers
from stages.lib.backend import describe_backend
from stages.lib.dataset import StoredImages
from stages.lib.distribution import count_workers
from stages.lib.files import file_sha256
from stages.lib.train_params import TrainParams

CODE = Path(stages.__file__).parent
HASHED_IMAGES = 1024  # read at once


def training_key(
    settings: TrainParams,
    images: StoredImages,
    rows: Mapping[str, RowNumbers],
    class_numbers: ClassNumbers,
) -> str:
    """The same for the same params, pixels, labels, code, versions and device.

    Args:
        settings: the section train, which has the digest of a file of weights.
        images: what `rows` point into.
        rows: row numbers by subset.
        class_numbers: of every stored image, (N,).
    """
    values = [settings.model_dump(), describe_backend(), count_workers(), images.image_shape, digest_code()]
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode())
    for subset, numbers in sorted(rows.items()):
        digest.update(f"{subset} {len(numbers)}".encode())
        digest.update(class_numbers[numbers].tobytes())
        for pixels in images.take_parts(numbers, HASHED_IMAGES):
            digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


def digest_code(folder: Path = CODE) -> dict[str, str]:
    """The digest of each Python file of this project's stages, whether it is loaded already or not."""
    return {file.relative_to(folder).as_posix(): file_sha256(file) for file in sorted(folder.rglob("*.py"))}
