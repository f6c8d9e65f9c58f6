"""Export the model of the last `dvc repro`, or of a recorded run, to ONNX and LiteRT.

Each exported model is run in its own runtime on the same images as the Keras model. The files are written only if all
probabilities agree.

Reads   data/train/model.keras        pixels in, probabilities out; with --run that of a run in MLflow
        data/train/labels.json        the labels in the order of the outputs
        dvc.lock                      how photos were prepared for training
        data/augment/, data/split/    the test photos; random images are used if there are none for this model
Writes  data/export/model.onnx        for ONNX Runtime
        data/export/model.tflite      for LiteRT, once TensorFlow Lite
        data/export/preparation.json  how a photo's bytes become pixels, and what the outputs mean; also in both models
Run as  darkroom export [--format onnx] [--format litert] [--run RUN]
"""

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
from tqdm import tqdm

from commands.exporting.conversion import (
    LITERT_PACKAGES,
    ONNX_PACKAGES,
    check_backend,
    convert_to_litert,
    convert_to_onnx,
)
from commands.exporting.formats import Format
from commands.exporting.preparation import PREPARATION_STEPS
from commands.exporting.runtimes import INPUT, OUTPUT, WHO_NEEDS, Predict, open_litert, open_onnx
from commands.extras import require_packages
from commands.text_table import align
from darkroom.pipeline.arrays import Pixels
from darkroom.pipeline.dataset import StoredImages, read_index, read_row_numbers
from darkroom.pipeline.files import whole_file, write_json
from darkroom.pipeline.paths import (
    AUGMENT_IMAGES,
    AUGMENT_INDEX,
    EXPORT_LITERT,
    EXPORT_ONNX,
    EXPORT_PREPARATION,
    subset_rows,
)
from darkroom.pipeline.stage import StageError
from darkroom.runs.model_loading import LoadedModel, choose_model
from darkroom.serving.classifier import BATCH_SIZE

LARGEST_DIFFERENCE = 1e-4  # of a probability; each runtime sums in a different order
MOST_PHOTOS, RANDOM_IMAGES = 1000, 64
SEED = 0
WARM_UP_CALLS, FEWEST_CALLS, MOST_CALLS, TIMED_SECONDS = 3, 5, 200, 1.0


class Exporter(NamedTuple):
    """How a model is converted to a format, and opened in its runtime."""

    path: Path
    packages: Sequence[str]
    convert: Callable[[keras.Model, Mapping[str, Any]], bytes]
    open: Callable[[Path], Predict]


EXPORTERS = {
    Format.ONNX: Exporter(EXPORT_ONNX, ONNX_PACKAGES, convert_to_onnx, open_onnx),
    Format.LITERT: Exporter(EXPORT_LITERT, LITERT_PACKAGES, convert_to_litert, open_litert),
}


def describe_preparation(chosen: LoadedModel) -> dict[str, Any]:
    """The content of preparation.json: how a photo's bytes become the input, the input and output of the model, and
    the key of its result."""
    classifier = chosen.classifier
    height, width, channels = classifier.model.input_shape[1:]
    return {
        "image_size": [height, width],
        **classifier.preparation,
        "steps": PREPARATION_STEPS,
        "input": {"name": INPUT, "type": "float32", "shape": ["batch", height, width, channels], "range": [0, 255]},
        "output": {"name": OUTPUT, "type": "float32", "shape": ["batch", len(classifier.labels)]},
        "labels": list(classifier.labels),
        "result": chosen.key,
    }


def choose_images(image_shape: tuple[int, int, int], is_workspace_model: bool) -> tuple[Iterable[Pixels], str]:
    """Images to compare the runtimes on, a batch (B, H, W, C) at a time, and their description.

    For the model of the workspace, they are at most MOST_PHOTOS test photos, evenly spaced, if the workspace has them
    in the model's input shape. Otherwise they are random images, the same each time.
    """
    # The model can be exported without photos. Damaged files are reported by the stages.
    with suppress(StageError):
        index = read_index(AUGMENT_INDEX)
        images = StoredImages(AUGMENT_IMAGES, len(index))
        row_numbers = read_row_numbers(subset_rows("test"), len(index))
        if is_workspace_model and images.image_shape == image_shape and len(row_numbers):
            spaced = np.linspace(0, len(row_numbers) - 1, min(len(row_numbers), MOST_PHOTOS)).astype(int)
            chosen = row_numbers[spaced]
            return images.take_parts(chosen, BATCH_SIZE), f"{len(chosen)} test photos"
    random = draw_images(RANDOM_IMAGES, image_shape)
    return np.split(random, RANDOM_IMAGES // BATCH_SIZE), f"{RANDOM_IMAGES} random images"


def draw_images(count: int, image_shape: tuple[int, int, int]) -> Pixels:
    return np.random.default_rng(SEED).integers(0, 256, (count, *image_shape), np.uint8)


def measure_differences(
    reference: Predict, exported: Mapping[Format, Predict], batches: Iterable[Pixels]
) -> dict[Format, float]:
    """The largest difference of a probability from the reference, over all images, for each format."""
    differences = dict.fromkeys(exported, 0.0)
    for pixels in batches:
        probabilities = reference(pixels)
        for name, predict in exported.items():
            # np.maximum propagates NaN, so that NaN does not count as equal.
            differences[name] = float(np.maximum(differences[name], np.abs(predict(pixels) - probabilities).max()))
    return differences


def check_differences(differences: Mapping[Format, float], images: str) -> None:
    """Reject an exported model whose probabilities differ from those of the Keras model.

    Raises:
        StageError: a difference is too large; the message has it.
    """
    for name, difference in differences.items():
        if not difference <= LARGEST_DIFFERENCE:
            raise StageError(
                f"the probabilities of the model exported to {name} differ from those of the Keras model by up to "
                f"{difference:.1e} on {images}, expected at most {LARGEST_DIFFERENCE:.0e}; nothing was written. Very "
                "large weights or normalized pixels amplify the rounding differences between runtimes"
            )


def time_call(call: Callable[[], object]) -> float:
    """The median seconds of a call, after warm-up calls."""
    for _ in range(WARM_UP_CALLS):
        call()
    seconds: list[float] = []
    while len(seconds) < FEWEST_CALLS or (sum(seconds) < TIMED_SECONDS and len(seconds) < MOST_CALLS):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))


def describe_speed(predict: Predict, image_shape: tuple[int, int, int]) -> list[str]:
    """Milliseconds for the pixels of one photo, and photos per second in batches."""
    pixels = draw_images(BATCH_SIZE, image_shape)
    one, batch = (time_call(partial(predict, part)) for part in (pixels[:1], pixels))
    return [f"{one * 1000:.2f}", f"{BATCH_SIZE / batch:,.0f}"]


def tabulate(
    model: keras.Model, exported: Mapping[Format, Predict], sizes: Sequence[int], differences: Sequence[float]
) -> str:
    """A table of the Keras model and its exports: size, speed on this machine and largest difference."""
    names = ["keras", *exported]
    speeds = [describe_speed(each, model.input_shape[1:]) for each in (model.predict_on_batch, *exported.values())]
    megabytes = [f"{size / 1e6:.2f}" for size in sizes]
    largest = ["", *(f"{difference:.1e}" for difference in differences)]
    columns = zip(names, megabytes, speeds, largest, strict=True)
    rows = [[name, size, *speed, difference] for name, size, speed, difference in columns]
    return align([["format", "MB", "ms, one photo", "photos/s, in batches", "largest difference"], *rows])


def remove_stale_files(formats: Sequence[Format], preparation: Mapping[str, Any]) -> None:
    """Remove preparation.json, and the models in formats that are not exported now, if they belong to another result:
    all exported models share preparation.json."""
    with suppress(FileNotFoundError, ValueError, TypeError, KeyError):
        if json.loads(EXPORT_PREPARATION.read_bytes())["result"] == preparation["result"]:
            return
    EXPORT_PREPARATION.unlink(missing_ok=True)  # written again last, so that it never belongs to another model
    for name in set(EXPORTERS) - set(formats):
        if EXPORTERS[name].path.exists():
            EXPORTERS[name].path.unlink()
            print(f"export: removed {EXPORTERS[name].path}, which belonged to another result")


def main(formats: Sequence[Format], run: str | None) -> None:
    require_packages(WHO_NEEDS, [package for name in formats for package in EXPORTERS[name].packages])
    check_backend()
    # Exported models run on the CPU; a GPU would round differently.
    with keras.device("cpu:0"), ExitStack() as files:
        chosen = choose_model(run)
        model, preparation = chosen.classifier.model, describe_preparation(chosen)
        paths = {name: files.enter_context(whole_file(EXPORTERS[name].path)) for name in formats}
        for name, path in tqdm(paths.items(), "export: converting", unit=" formats", disable=None):
            path.write_bytes(EXPORTERS[name].convert(model, preparation))
        exported = {name: EXPORTERS[name].open(path) for name, path in paths.items()}
        batches, images = choose_images(model.input_shape[1:], run is None)
        differences = measure_differences(model.predict_on_batch, exported, batches)
        check_differences(differences, images)
        sizes = [path.stat().st_size for path in paths.values()]
        remove_stale_files(formats, preparation)
        print(tabulate(model, exported, [chosen.size, *sizes], list(differences.values())), end="\n\n")
    write_json(EXPORT_PREPARATION, preparation)
    written = ", ".join(str(EXPORTERS[name].path) for name in formats)
    largest = f"{max(differences.values()):.1e}"
    print(f"export: wrote {written}; probabilities differ from Keras by at most {largest} on {images}")
