"""Save and load models as .keras files whose bytes depend only on the model."""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import keras

from darkroom.pipeline.files import write_bytes
from darkroom.pipeline.stage import StageError

# The earliest time that a zip file can store.
ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)


def save_model(model: keras.Model, path: Path) -> None:
    """Save an uncompiled model as a .keras file; equal models give equal bytes.

    Keras itself writes the current time into metadata.json and the zip directory, and Python object ids into
    config.json.
    """
    saved = io.BytesIO()
    temporary = path.with_name(f".{path.name}")  # Keras requires a path that ends in .keras, not a file object
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        model.save(temporary)
        with zipfile.ZipFile(temporary) as source, zipfile.ZipFile(saved, "w") as target:
            for name in sorted(source.namelist()):
                target.writestr(zipfile.ZipInfo(name, ZIP_EPOCH), canonical_member(name, source.read(name)))
    finally:
        temporary.unlink(missing_ok=True)
    write_bytes(path, saved.getvalue())


def canonical_member(name: str, content: bytes) -> bytes:
    if not name.endswith(".json"):
        return content
    document = json.loads(content)
    if name == "metadata.json":
        document["date_saved"] = "1980-01-01@00:00:00"
    number_shared_objects(document, {})
    return json.dumps(document).encode()


def number_shared_objects(node: Any, numbers: dict[int, int]) -> None:
    """Replace each `shared_object_id` in place with its number in order of first appearance."""
    if isinstance(node, dict):
        if "shared_object_id" in node:
            node["shared_object_id"] = numbers.setdefault(node["shared_object_id"], len(numbers))
        for child in node.values():
            number_shared_objects(child, numbers)
    elif isinstance(node, list):
        for child in node:
            number_shared_objects(child, numbers)


def load_model(path: Path) -> keras.Model:
    """Load a .keras file for prediction; files that contain code are rejected.

    Raises:
        StageError: the file is missing or cannot be loaded as a model.
    """
    try:
        return keras.models.load_model(path, compile=False, safe_mode=True)
    except (OSError, ValueError, TypeError, KeyError, zipfile.BadZipFile) as error:
        raise StageError(
            f"{path}: cannot be loaded as a Keras model ({' '.join(str(error).split())}); "
            "`dvc repro --force --single-item train` writes it again"
        ) from None


def check_model(model: keras.Model, path: Path, image_shape: tuple[int, int, int], classes: int) -> None:
    """Check that the model from `path` is for images of `image_shape`, (H, W, C), and for `classes` classes.

    Raises:
        StageError: its input or output shape differs.
    """
    expected, got = ((None, *image_shape), (None, classes)), (model.input_shape, model.output_shape)
    if got != expected:
        raise StageError(
            f"{path}: expected a model from images {expected[0]} to probabilities {expected[1]}, to match the images "
            f"and labels in data/, got {got[0]} to {got[1]}; `dvc repro` trains a matching one"
        )
