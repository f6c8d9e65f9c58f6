"""Show why the trained network answers as it does: where it looks, what its filters do, and what disturbs it.

Reads   params.yaml                        explain
        data/acquire/photos.csv            the test photos
        data/augment/images.npy            uint8 pixels (rows, height, width, channels)
        data/augment/images.csv            photo and label of each row
        data/split/test.npy                row numbers, originals only
        data/split/photos.csv              the group of each photo
        data/train/model.keras             pixels in, probabilities out
        data/train/labels.json             the labels in the order of the outputs
        data/evaluate/predictions.csv      what each test photo was told as
Writes  metrics/explain.json               accuracy, and how far Grad-CAM moves, in the mean over each disturbance
        metrics/explain/<disturbance>.csv  the same by level: scribbles, noise, blur, rotation, jpeg
        data/explain/gradcam.png           what speaks for a label, on photos told right and on ones told wrong
        data/explain/filters.png           kernels, feature maps and pooled maps
        data/explain/disturbed.png         a photo at each level of each disturbance, and what speaks for its label
        data/explain/robustness.png        the tables as curves
Run as  python -m stages.explain
"""

from collections.abc import Mapping, Sequence

import keras
import numpy as np
from tqdm import tqdm

from stages.lib.arrays import ClassNumbers, Pixels
from stages.lib.backend import make_deterministic
from stages.lib.contact_sheet import SheetRow, choose_examples, draw_contact_sheet
from stages.lib.dataset import write_rows
from stages.lib.disturbances import DISTURBANCES
from stages.lib.explanation_sheets import draw_disturbed, draw_examples
from stages.lib.files import write_bytes, write_json
from stages.lib.filter_pictures import SHOWN_FILTERS, show_set_kernels, show_trained_kernels
from stages.lib.gradcam import GradCam
from stages.lib.labelled_images import read_origins
from stages.lib.params import ExplainParams, FilterParams, read_params
from stages.lib.paths import (
    EXPLAIN_DISTURBED,
    EXPLAIN_FILTERS,
    EXPLAIN_GRADCAM,
    EXPLAIN_METRICS,
    EXPLAIN_ROBUSTNESS,
    EXPLAIN_ROBUSTNESS_PLOT,
)
from stages.lib.predictions import read_predicted
from stages.lib.robustness import Robustness, RobustnessRow, draw_robustness, summarize
from stages.lib.stage import StageError, run_stage
from stages.lib.trained_model import read_trained_model

FILTER_PHOTOS = 2


def draw_filters(model: keras.Model, photos: Sequence[Pixels], names: Sequence[str], settings: FilterParams) -> bytes:
    """Draw kernels that are set by hand and those of the network, and what they make of photos, as a PNG file.

    Raises:
        StageError: the photos are smaller than the kernels or the pool of the params.
    """
    try:
        by_hand = show_set_kernels(photos, names, **settings.model_dump())
    except ValueError as error:
        raise StageError(f"explain.filters: {error}, in the params or as augment.image_size") from None
    originals = SheetRow("The photos", photos, names)
    return draw_contact_sheet(
        [originals, *by_hand, *show_trained_kernels(model, photos, names)], SHOWN_FILTERS, sheet_width=800
    )


def choose_photos(total: int, count: int | None, seed: int) -> ClassNumbers:
    """Draw `count` of `total` photos, or all, in their order."""
    if count is None or count >= total:
        return np.arange(total)
    return np.sort(np.random.default_rng(seed).choice(total, count, replace=False))


def measure(robustness: Robustness, levels: Mapping[str, Sequence[int]], seed: int) -> dict[str, list[RobustnessRow]]:
    """Measure the rows of each disturbance."""
    curves: dict[str, list[RobustnessRow]] = {}
    with tqdm(total=sum(map(len, levels.values())), desc="explain", unit="level", disable=None) as bar:
        for name, chosen in levels.items():
            curves[name] = []
            for row in robustness.measure(DISTURBANCES[name], chosen, seed):
                curves[name].append(row)
                bar.update(row.level != DISTURBANCES[name].undisturbed_level)
    return curves


def main() -> None:
    params = read_params("explain", ExplainParams)

    make_deterministic(params.seed, params.threads)
    trained = read_trained_model()
    model, images, labels = trained.model, trained.images, trained.labels
    test = trained.subset("test")
    predicted = read_predicted(test.photos, labels)
    _, groups = read_origins(test.photos)

    gradcam = GradCam(model)
    shown = choose_examples([labels[number] for number in test.targets], FILTER_PHOTOS)
    filters = draw_filters(
        model, list(images.take(test.rows[shown])), [test.photos[place] for place in shown], params.filters
    )
    examples = draw_examples(gradcam, test, predicted, labels, params.examples)
    chosen = choose_photos(len(test.rows), params.robustness.photos, params.seed)
    levels = {name: getattr(params.robustness, name) for name in DISTURBANCES}
    disturbed = draw_disturbed(gradcam, test, shown[0], labels, levels, params.seed)
    robustness = Robustness(
        gradcam, test.choose(chosen), [groups[place] for place in chosen], params.batch_size, params.confidence_level
    )
    curves = measure(robustness, levels, params.seed)
    summary = summarize(curves)

    for name, rows in curves.items():
        write_rows(EXPLAIN_ROBUSTNESS[name], RobustnessRow, rows)
    write_bytes(EXPLAIN_GRADCAM, examples)
    write_bytes(EXPLAIN_FILTERS, filters)
    write_bytes(EXPLAIN_DISTURBED, disturbed)
    write_bytes(EXPLAIN_ROBUSTNESS_PLOT, draw_robustness(curves))
    write_json(EXPLAIN_METRICS, summary)
    worst = min((rows[-1].accuracy, name, rows[-1].level) for name, rows in curves.items())
    print(
        f"explain: {len(chosen)} test photos, Grad-CAM at {gradcam.layer} -> {EXPLAIN_GRADCAM.parent}, accuracy "
        f"{summary['undisturbed_accuracy']:.4f}, worst {worst[0]:.4f} with {worst[1]} of {worst[2]}"
    )


if __name__ == "__main__":
    run_stage("explain", main)
