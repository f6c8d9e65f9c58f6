"""The fingerprint of a training: a digest of everything its result depends on."""

import hashlib
import json
from pathlib import Path

import numpy as np

import darkroom
from darkroom.models.backend import describe_backend
from darkroom.params.train import TrainParams
from darkroom.pipeline.files import file_sha256
from darkroom.training.distribution import count_workers
from darkroom.training.training_data import TrainingData

PROJECT = Path(darkroom.__file__).parents[1]
CODE = ("darkroom", "stages")
HASHED_IMAGES = 1024  # read at once


def training_fingerprint(params: TrainParams, data: TrainingData) -> str:
    """Digest params, pixels, labels, code, versions and device.

    Args:
        params: the section train; it includes the digest of a weights file.
        data: the images, the row numbers of each subset and the classes.
    """
    values = [params.model_dump(), describe_backend(), count_workers(), data.images.image_shape, digest_code()]
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode())
    for subset, numbers in sorted(data.row_numbers.items()):
        digest.update(f"{subset} {len(numbers)}".encode())
        digest.update(data.class_ids[numbers].tobytes())
        for pixels in data.images.take_parts(numbers, HASHED_IMAGES):
            digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


def digest_code(project: Path = PROJECT) -> dict[str, str]:
    """The digest of each Python file that a stage may import, whether it is imported yet or not."""
    files = sorted(file for folder in CODE for file in (project / folder).rglob("*.py") if file.name != "version.py")
    return {file.relative_to(project).as_posix(): file_sha256(file) for file in files}
