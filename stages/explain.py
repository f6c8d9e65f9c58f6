"""Explain the trained model: where it looks, what its filters do, and how robust it is to corrupted photos.

Reads   params.yaml                        explain
        data/augment/images.npy            uint8 pixels (images, height, width, channels)
        data/augment/images.csv            photo and label of each image
        data/split/test.npy                row numbers, originals only
        data/split/photos.csv              the group of each photo
        data/train/model.keras             pixels in, probabilities out
        data/train/labels.json             the labels in the order of the outputs
        data/evaluate/predictions.csv      the predicted label of each test photo
Writes  metrics/explain.json               mean accuracy and mean Grad-CAM shift for each corruption
        metrics/explain/<corruption>.csv   the same by level: scribbles, noise, blur, rotation, jpeg
        data/explain/gradcam.png           Grad-CAM of correct and of misclassified photos
        data/explain/filters.png           kernels, feature maps and pooled maps
        data/explain/corruptions.png       a photo at each level of each corruption, with Grad-CAM
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
    """Check that the kernels and the pooling window of explain.filters fit into images of `image_shape`, (H, W, C).

    Raises:
        StageError: one of them is too large.
    """
    side = min(image_shape[:2])
    size = f"{image_shape[0]}x{image_shape[1]} pixels"
    if padding == "valid" and kernel_size > side:
        raise StageError(
            f"explain.filters.kernel_size: must be at most {side} in images of {size}, got {kernel_size}; "
            "reduce it, or set explain.filters.padding to same"
        )
    map_side = math.ceil((side if padding == "same" else side - kernel_size + 1) / strides)
    if pool_size > map_side:
        raise StageError(
            f"explain.filters.pool_size: must be at most {map_side}, the side of the feature maps of images of {size}, "
            f"got {pool_size}; reduce it or explain.filters.strides"
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
    """Draw hand-crafted and trained kernels, and the feature maps that they make of photos, as a PNG file."""
    hand_crafted = show_set_kernels(photos, names, kernel_size, strides, padding, pool_size)
    sheet = [SheetRow("Photos", photos, names), *hand_crafted, *show_trained_kernels(model, photos, names)]
    return draw_contact_sheet(sheet, SHOWN_FILTERS, sheet_width=SHEET_WIDTH)


def choose_photos(total: int, count: int | None, seed: int) -> Indices:
    """Choose `count` of `total` photos at random, or all; return their indices in ascending order."""
    if count is None or count >= total:
        return np.arange(total)
    return np.sort(np.random.default_rng(seed).choice(total, count, replace=False))


def measure_corruptions(
    robustness: Robustness, levels: Mapping[str, Sequence[int]], seed: int
) -> dict[str, list[RobustnessRow]]:
    """Measure robustness to each corruption: a row for the clean photos and one for each level."""
    curves: dict[str, list[RobustnessRow]] = {}
    with tqdm(total=sum(map(len, levels.values())), desc="explain", unit=" levels", disable=None) as bar:
        for name, chosen in levels.items():
            curves[name] = []
            for row in robustness.measure(CORRUPTIONS[name], chosen, seed):
                curves[name].append(row)
                if row.level != CORRUPTIONS[name].clean_level:
                    bar.update()
    return curves


def describe_worst(curves: Mapping[str, Sequence[RobustnessRow]]) -> str:
    """The corruption with the lowest accuracy; "" if no photo was corrupted."""
    rows = [(row.accuracy, name, row.level) for name, (_, *corrupted) in curves.items() for row in corrupted]
    if not rows:
        return ""
    accuracy, name, level = min(rows)
    return f", lowest {accuracy:.4f} with {name} at level {level}"


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
    shown = choose_examples([labels[class_id] for class_id in test.class_ids], FILTER_PHOTOS)
    names = [test.photos[index] for index in shown]
    kernels = draw_filters(model, list(images.take(test.rows[shown])), names, *settings)
    examples = draw_examples(gradcam, test, predicted, labels, params.examples)
    chosen = choose_photos(len(test.rows), params.robustness.photos, params.seed)
    levels = {name: getattr(params.robustness, name) for name in CORRUPTIONS}
    corrupted = draw_corrupted(gradcam, test, shown[0], labels, levels, params.seed)
    robustness = Robustness(
        gradcam, test.choose(chosen), [groups[index] for index in chosen], params.batch_size, params.confidence_level
    )
    curves = measure_corruptions(robustness, levels, params.seed)
    summary = summarize(curves)

    for name, rows in curves.items():
        write_rows(EXPLAIN_ROBUSTNESS[name], RobustnessRow, rows)
    write_bytes(EXPLAIN_GRADCAM, examples)
    write_bytes(EXPLAIN_FILTERS, kernels)
    write_bytes(EXPLAIN_CORRUPTIONS, corrupted)
    write_bytes(EXPLAIN_ROBUSTNESS_PLOT, draw_robustness(curves))
    write_json(EXPLAIN_METRICS, summary)
    print(
        f"explain: {len(chosen)} test photos, Grad-CAM at {gradcam.layer} -> {EXPLAIN_GRADCAM.parent}, accuracy "
        f"{summary['clean_accuracy']:.4f}{describe_worst(curves)}"
    )


if __name__ == "__main__":
    refuse_arguments("explain", __doc__)
    run_stage("explain", main)
