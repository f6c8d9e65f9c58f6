"""Export the model of the last `dvc repro`, or of a recorded run, to other runtimes.

Each file is asked the same images as the Keras model, in its own runtime, and stays only where all give the same
probabilities.

Reads   data/train/model.keras        pixels in, probabilities out; with --run that of a run in MLflow
        data/train/labels.json        the labels in the order of the outputs
        dvc.lock                      how photos were prepared for the training
        data/augment/, data/split/    the test photos; where there are none for this model, random images are asked
Writes  data/export/model.onnx        for ONNX Runtime
        data/export/model.tflite      for LiteRT, once TensorFlow Lite
        data/export/preparation.json  how a photo's bytes become pixels, and what the outputs mean; also in both files
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
from commands.exporting.runtimes import INPUT, OUTPUT, WHO_NEEDS, Ask, open_litert, open_onnx
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

LARGEST_DIFFERENCE = 1e-4  # of a probability; runtimes sum in orders of their own
MOST_PHOTOS, RANDOM_IMAGES = 1000, 64
SEED = 0
WARM_UP_CALLS, FEWEST_CALLS, MOST_CALLS, TIMED_SECONDS = 3, 5, 200, 1.0


class Way(NamedTuple):
    """How a model comes into a format, and is asked there."""

    path: Path
    packages: Sequence[str]
    convert: Callable[[keras.Model, Mapping[str, Any]], bytes]
    open: Callable[[Path], Ask]


WAYS = {
    Format.ONNX: Way(EXPORT_ONNX, ONNX_PACKAGES, convert_to_onnx, open_onnx),
    Format.LITERT: Way(EXPORT_LITERT, LITERT_PACKAGES, convert_to_litert, open_litert),
}


def describe_preparation(chosen: LoadedModel) -> dict[str, Any]:
    """How a photo's bytes become the input, what input and output are, and whose result the model is."""
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


def find_images(image_shape: tuple[int, int, int], is_own: bool) -> tuple[Iterable[Pixels], str]:
    """Images that runtimes are compared on, a batch (B, H, W, C) at a time, and what they are.

    They are test photos, evenly chosen where there are very many, if the model `is_own` of this workspace and the
    photos lie there as it takes them; else random ones, the same each time.
    """
    # Without photos the model can be exported as well: what is damaged is for the stages to say.
    with suppress(StageError):
        index = read_index(AUGMENT_INDEX)
        images = StoredImages(AUGMENT_IMAGES, len(index))
        rows = read_row_numbers(subset_rows("test"), len(index))
        if is_own and images.image_shape == image_shape and len(rows):
            chosen = rows[np.linspace(0, len(rows) - 1, min(len(rows), MOST_PHOTOS)).astype(int)]
            return images.take_parts(chosen, BATCH_SIZE), f"{len(chosen)} test photos"
    random = draw_images(RANDOM_IMAGES, image_shape)
    return np.split(random, RANDOM_IMAGES // BATCH_SIZE), f"{RANDOM_IMAGES} random images"


def draw_images(count: int, image_shape: tuple[int, int, int]) -> Pixels:
    return np.random.default_rng(SEED).integers(0, 256, (count, *image_shape), np.uint8)


def measure_differences(expected: Ask, asks: Mapping[Format, Ask], parts: Iterable[Pixels]) -> dict[Format, float]:
    """The largest difference of a probability from the expected one, over all images, of each format."""
    differences = dict.fromkeys(asks, 0.0)
    for pixels in parts:
        probabilities = expected(pixels)
        for name, ask in asks.items():
            # np.maximum keeps what is no number, which must not pass for equal.
            differences[name] = float(np.maximum(differences[name], np.abs(ask(pixels) - probabilities).max()))
    return differences


def check_differences(differences: Mapping[Format, float], images: str) -> None:
    """Refuse a format that does not give the probabilities of the Keras model.

    Raises:
        StageError: with the difference.
    """
    for name, difference in differences.items():
        if not difference <= LARGEST_DIFFERENCE:
            raise StageError(
                f"the model exported to {name} gives probabilities that differ from those of the Keras model by up to "
                f"{difference:.1e} on {images}, expected at most {LARGEST_DIFFERENCE:.0e}; so nothing was written. "
                "Weights or normalized pixels that are very large magnify what each runtime rounds otherwise"
            )


def time_call(call: Callable[[], object]) -> float:
    """The median of the seconds that a call takes, once it is warm."""
    for _ in range(WARM_UP_CALLS):
        call()
    seconds: list[float] = []
    while len(seconds) < FEWEST_CALLS or (sum(seconds) < TIMED_SECONDS and len(seconds) < MOST_CALLS):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))


def describe_speed(ask: Ask, image_shape: tuple[int, int, int]) -> list[str]:
    """Milliseconds for the pixels of one photo, and photos a second in batches."""
    pixels = draw_images(BATCH_SIZE, image_shape)
    one, batch = (time_call(partial(ask, part)) for part in (pixels[:1], pixels))
    return [f"{one * 1000:.2f}", f"{BATCH_SIZE / batch:,.0f}"]


def tabulate(model: keras.Model, asks: Mapping[Format, Ask], sizes: Sequence[int], differences: Sequence[float]) -> str:
    """Lay out what the Keras model and its exports weigh, how fast they are here, and how far they differ."""
    names = ["keras", *asks]
    speeds = [describe_speed(ask, model.input_shape[1:]) for ask in (model.predict_on_batch, *asks.values())]
    megabytes = [f"{size / 1e6:.2f}" for size in sizes]
    largest = ["", *(f"{difference:.1e}" for difference in differences)]
    rows = [[name, size, *speed, far] for name, size, speed, far in zip(names, megabytes, speeds, largest, strict=True)]
    return align([["format", "MB", "ms a photo", "photos/s", "largest difference"], *rows])


def forget_others(formats: Sequence[Format], preparation: Mapping[str, Any]) -> None:
    """Remove preparation.json, and the files of formats that are not written now, unless they are of the same result:
    the one document is beside all of them."""
    with suppress(FileNotFoundError, ValueError):
        if json.loads(EXPORT_PREPARATION.read_bytes()) == preparation:
            return
    EXPORT_PREPARATION.unlink(missing_ok=True)  # comes back last of all: no file ever stands beside a wrong one
    for name in set(WAYS) - set(formats):
        if WAYS[name].path.exists():
            WAYS[name].path.unlink()
            print(f"export: removed {WAYS[name].path}, which was of another result")


def main(formats: Sequence[Format], run: str | None) -> None:
    require_packages(WHO_NEEDS, [package for name in formats for package in WAYS[name].packages])
    check_backend()
    # Exported models are asked on the processor, and a GPU would round otherwise.
    with keras.device("cpu:0"), ExitStack() as files:
        chosen = choose_model(run)
        model, preparation = chosen.classifier.model, describe_preparation(chosen)
        paths = {name: files.enter_context(whole_file(WAYS[name].path)) for name in formats}
        for name, path in tqdm(paths.items(), "export: converting", unit=" formats", disable=None):
            path.write_bytes(WAYS[name].convert(model, preparation))
        asks = {name: WAYS[name].open(path) for name, path in paths.items()}
        parts, images = find_images(model.input_shape[1:], run is None)
        differences = measure_differences(model.predict_on_batch, asks, parts)
        check_differences(differences, images)
        sizes = [path.stat().st_size for path in paths.values()]
        forget_others(formats, preparation)
        print(tabulate(model, asks, [chosen.size, *sizes], list(differences.values())), end="\n\n")
    write_json(EXPORT_PREPARATION, preparation)
    written = ", ".join(str(WAYS[name].path) for name in formats)
    print(f"export: {written}, largest difference of a probability {max(differences.values()):.1e} on {images}")
