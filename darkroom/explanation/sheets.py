"""Contact sheets of photos with Grad-CAM's maps. Dims: N photos, H height, W width, C channels, K classes."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from darkroom.contact_sheet import SheetRow, choose_examples, draw_contact_sheet
from darkroom.explanation.corruptions import CORRUPTIONS, NO_CORRUPTIONS, corrupt_images
from darkroom.explanation.gradcam import GradCam, lay_over
from darkroom.pipeline.arrays import ClassIds, Indices, Pixels
from darkroom.scores.trained_model import LabelledImages

# A multiple of 2 and 3: a photo has one map or two.
COLUMNS = 6
CAPTION_WIDTH, SHEET_WIDTH = 170, 1000  # pixels; titles need the latter
LEGEND = "red: strongest evidence, gray: none"


class Captioned(NamedTuple):
    """An image (H, W, 1 or 3) and its caption."""

    image: Pixels
    caption: str


def explain_photo(
    gradcam: GradCam, pixels: Pixels, caption: str, labels: Sequence[str], class_ids: Sequence[int] = ()
) -> Iterator[Captioned]:
    """Yield a photo, followed by Grad-CAM's map for each of the given classes.

    Args:
        gradcam: the network.
        pixels: the photo's pixels (H, W, C).
        caption: the photo's caption.
        labels: K labels.
        class_ids: the classes to explain; if empty, the predicted class.
    """
    yield Captioned(pixels, caption)
    for chosen in class_ids or (None,):
        explanation = gradcam.explain(pixels[None], None if chosen is None else np.array([chosen]))
        row = explanation.probabilities[0]
        class_id = int(row.argmax()) if chosen is None else chosen
        map_caption = f"for {labels[class_id]}\nprobability {row[class_id]:.3f}"
        yield Captioned(lay_over(pixels, explanation.maps[0]), map_caption)


def make_row(title: str, captioned: Iterable[Captioned]) -> SheetRow:
    shown = list(captioned)
    return SheetRow(title, [image for image, _ in shown], [caption for _, caption in shown])


def draw_explained(title: str, captioned: Iterable[Captioned]) -> bytes:
    """Draw the output of `explain_photo` for one or more photos as a PNG file."""
    return draw_contact_sheet([make_row(f"{title} ({LEGEND})", captioned)], COLUMNS, CAPTION_WIDTH, SHEET_WIDTH)


def draw_examples(
    gradcam: GradCam, photos: LabelledImages, predicted: ClassIds, labels: Sequence[str], examples: int
) -> bytes:
    """Draw correct and misclassified photos with their maps as a PNG file.

    Args:
        gradcam: the network.
        photos: N photos.
        predicted: the predicted class IDs (N,).
        labels: K labels.
        examples: the maximum number of each kind, taken from all labels in turn.
    """
    titles = {
        True: "Correct: photo, evidence for its class",
        False: "Misclassified: photo, evidence for the predicted class, evidence for the true class",
    }
    rows = []
    for is_correct, title in titles.items():
        chosen = np.flatnonzero((predicted == photos.class_ids) == is_correct)
        indices = chosen[choose_examples([labels[class_id] for class_id in photos.class_ids[chosen]], examples)]
        explained = list_explained(gradcam, photos, indices, predicted, labels)
        rows.append(make_row(f"{title} ({LEGEND})" if len(indices) else f"{title}: none", explained))
    return draw_contact_sheet(rows, COLUMNS, CAPTION_WIDTH, SHEET_WIDTH)


def list_explained(
    gradcam: GradCam, photos: LabelledImages, indices: Indices, predicted: ClassIds, labels: Sequence[str]
) -> Iterator[Captioned]:
    """Yield the photos at `indices`, each with a map for the predicted class, and for the true one if it differs."""
    for index in indices:
        true_id = int(photos.class_ids[index])
        pixels = photos.images.take(photos.rows[[index]])[0]
        class_ids = list(dict.fromkeys((int(predicted[index]), true_id)))
        yield from explain_photo(gradcam, pixels, f"{photos.photos[index]}\ntrue: {labels[true_id]}", labels, class_ids)


def draw_corrupted(
    gradcam: GradCam,
    photos: LabelledImages,
    index: int,
    labels: Sequence[str],
    levels: Mapping[str, Sequence[int]],
    seed: int,
) -> bytes:
    """Draw a photo at each level of each corruption, with Grad-CAM's map for the class predicted there.

    Args:
        gradcam: the network.
        photos: N photos.
        index: the photo's index.
        labels: K labels.
        levels: by corruption; corruptions without levels are left out.
        seed: seed of the random corruptions.
    """
    row = photos.rows[[index]]
    original = photos.images.take(row)
    title = f"{photos.photos[index]}, clean and corrupted, with the evidence for the predicted class ({LEGEND})"
    rows = [make_row(title if any(levels.values()) else NO_CORRUPTIONS, [])]
    clean = list(explain_photo(gradcam, original[0], "clean", labels))
    for name, chosen in levels.items():
        if not chosen:
            continue
        corruption = CORRUPTIONS[name]
        explained = [*clean]
        for level in corruption.order(chosen):
            corrupted = corrupt_images(original, corruption, level, seed, row)[0]
            explained += explain_photo(gradcam, corrupted, str(level), labels)
        rows.append(make_row(f"{name} ({corruption.axis_label})", explained))
    return draw_contact_sheet(rows, max((len(row.images) for row in rows), default=1), CAPTION_WIDTH, SHEET_WIDTH)
