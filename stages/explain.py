"""Show why the trained network answers as it does: where it looks, what its filters do, and what disturbs it.

Reads   params.yaml                        explain
        data/augment/images.npy            uint8 pixels (rows, height, width, channels)
        data/augment/images.csv            photo and label of each row
        data/split/test.npy                row numbers, originals only
        data/split/photos.csv              the group of each photo
        data/train/model.keras             pixels in, probabilities out
        data/train/labels.json             the labels in the order of the outputs
        data/evaluate/predictions.csv      what each test photo was told as
Writes  metrics/explain.json               accuracy, and how far Grad-CAM moves, in the mean over each corruption
        metrics/explain/<corruption>.csv  the same by level: scribbles, noise, blur, rotation, jpeg
        data/explain/gradcam.png           what speaks for a label, on photos told right and on ones told wrong
        data/explain/filters.png           kernels, feature maps and pooled maps
        data/explain/corruptions.png         a photo at each level of each corruption, and what speaks for its label
        data/explain/robustness.png        the tables as curves
Run as  python -m stages.explain
"""

import math
from collections.abc import Mapping, Sequence

import keras
import numpy as np
from tqdm import tqdm

from darkroom.contact_sheet import SheetRow, choose_examples, draw_contact_sheet
from darkroom.explanation.corruptions import CORRUPTIONS
from darkroom.explanation.filters import SHOWN_FILTERS, show_set_kernels, show_trained_kernels
from darkroom.explanation.gradcam import GradCam
from darkroom.explanation.robustness import Robustness, RobustnessRow, draw_robustness, summarize
from darkroom.explanation.sheets import draw_corrupted, draw_examples
from darkroom.models.backend import make_deterministic
from darkroom.params.explain import ExplainParams
from darkroom.params.section import Padding, read_params
from darkroom.pipeline.arrays import Indices, Pixels
from darkroom.pipeline.dataset import write_rows
from darkroom.pipeline.files import write_bytes, write_json
from darkroom.pipeline.paths import (
    EXPLAIN_CORRUPTIONS,
    EXPLAIN_FILTERS,
    EXPLAIN_GRADCAM,
    EXPLAIN_METRICS,
    EXPLAIN_ROBUSTNESS,
    EXPLAIN_ROBUSTNESS_PLOT,
)
from darkroom.pipeline.stage import StageError, refuse_arguments, run_stage
from darkroom.scores.predictions import read_predicted
from darkroom.scores.trained_model import read_photo_groups, read_trained_model

FILTER_PHOTOS = 2
SHEET_WIDTH = 800  # pixels


def check_filters(
    image_shape: tuple[int, int, int], kernel_size: int, strides: int, padding: Padding, pool_size: int
) -> None:
    """Refuse a kernel or a pool that does not fit into images of `image_shape`, (H, W, C).

    Raises:
        StageError: with what does not fit, and into what.
    """
    side = min(image_shape[:2])
    size = f"{image_shape[0]}x{image_shape[1]} pixels"
    if padding == "valid" and kernel_size > side:
        raise StageError(
            f"explain.filters.kernel_size: must be at most {side} in images of {size}, got {kernel_size}; "
            "make it smaller, or set explain.filters.padding to same"
        )
    places = math.ceil((side if padding == "same" else side - kernel_size + 1) / strides)
    if pool_size > places:
        raise StageError(
            f"explain.filters.pool_size: must be at most {places}, which is what the kernels leave of images of "
            f"{size}, got {pool_size}; make it or explain.filters.strides smaller"
        )


def draw_filters(
    model: keras.Model,
    photos: Sequence[Pixels],
    names: Sequence[str],
    kernel_size: int,
    strides: int,
    padding: Padding,
    pool_size: int,
) -> bytes:
    """Draw kernels that are set by hand and those of the network, and what they make of photos, as a PNG file."""
    by_hand = show_set_kernels(photos, names, kernel_size, strides, padding, pool_size)
    sheet = [SheetRow("The photos", photos, names), *by_hand, *show_trained_kernels(model, photos, names)]
    return draw_contact_sheet(sheet, SHOWN_FILTERS, sheet_width=SHEET_WIDTH)


def choose_photos(total: int, count: int | None, seed: int) -> Indices:
    """Draw `count` of `total` photos, or all, in their order."""
    if count is None or count >= total:
        return np.arange(total)
    return np.sort(np.random.default_rng(seed).choice(total, count, replace=False))


def measure(robustness: Robustness, levels: Mapping[str, Sequence[int]], seed: int) -> dict[str, list[RobustnessRow]]:
    """Measure the rows of each corruption."""
    curves: dict[str, list[RobustnessRow]] = {}
    with tqdm(total=sum(map(len, levels.values())), desc="explain", unit="level", disable=None) as bar:
        for name, chosen in levels.items():
            curves[name] = []
            for row in robustness.measure(CORRUPTIONS[name], chosen, seed):
                curves[name].append(row)
                if row.level != CORRUPTIONS[name].clean_level:
                    bar.update()
    return curves


def describe_worst(curves: Mapping[str, Sequence[RobustnessRow]]) -> str:
    """Where the accuracy is the lowest; "" if nothing was disturbed."""
    rows = [(row.accuracy, name, row.level) for name, (_, *disturbed) in curves.items() for row in disturbed]
    if not rows:
        return ""
    accuracy, name, level = min(rows)
    return f", lowest {accuracy:.4f} with {name} of {level}"


def main() -> None:
    params = read_params("explain", ExplainParams)

    make_deterministic(params.seed, params.threads)
    trained = read_trained_model()
    model, images, labels = trained.model, trained.images, trained.labels
    test = trained.subset("test")
    predicted = read_predicted(test.photos, labels)
    groups = read_photo_groups(test.photos)
    filters = params.filters
    settings = (filters.kernel_size, filters.strides, filters.padding, filters.pool_size)
    check_filters(images.image_shape, *settings)

    gradcam = GradCam(model)
    shown = choose_examples([labels[number] for number in test.class_ids], FILTER_PHOTOS)
    names = [test.photos[place] for place in shown]
    kernels = draw_filters(model, list(images.take(test.rows[shown])), names, *settings)
    examples = draw_examples(gradcam, test, predicted, labels, params.examples)
    chosen = choose_photos(len(test.rows), params.robustness.photos, params.seed)
    levels = {name: getattr(params.robustness, name) for name in CORRUPTIONS}
    disturbed = draw_corrupted(gradcam, test, shown[0], labels, levels, params.seed)
    robustness = Robustness(
        gradcam, test.choose(chosen), [groups[place] for place in chosen], params.batch_size, params.confidence_level
    )
    curves = measure(robustness, levels, params.seed)
    summary = summarize(curves)

    for name, rows in curves.items():
        write_rows(EXPLAIN_ROBUSTNESS[name], RobustnessRow, rows)
    write_bytes(EXPLAIN_GRADCAM, examples)
    write_bytes(EXPLAIN_FILTERS, kernels)
    write_bytes(EXPLAIN_CORRUPTIONS, disturbed)
    write_bytes(EXPLAIN_ROBUSTNESS_PLOT, draw_robustness(curves))
    write_json(EXPLAIN_METRICS, summary)
    print(
        f"explain: {len(chosen)} test photos, Grad-CAM at {gradcam.layer} -> {EXPLAIN_GRADCAM.parent}, accuracy "
        f"{summary['clean_accuracy']:.4f}{describe_worst(curves)}"
    )


if __name__ == "__main__":
    refuse_arguments("explain", __doc__)
    run_stage("explain", main)
