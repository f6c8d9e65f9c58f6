"""Contact sheets of what a network looks at. Dims: N photos, H height, W width, C channels, K classes."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from darkroom.contact_sheet import SheetRow, choose_examples, draw_contact_sheet
from darkroom.explanation.corruptions import CORRUPTIONS, NOTHING, corrupt_images
from darkroom.explanation.gradcam import GradCam, lay_over
from darkroom.pipeline.arrays import ClassIds, Indices, Pixels
from darkroom.scores.trained_model import LabelledImages

# Pairs of a photo and its map, and photos with two maps, both fill this.
COLUMNS = 6
CAPTION_WIDTH, SHEET_WIDTH = 170, 1000  # pixels; titles take the latter
LEGEND = "red speaks most for it, gray not at all"


class Captioned(NamedTuple):
    """A picture (H, W, 1 or 3) and what stands below it."""

    picture: Pixels
    caption: str


def explain_photo(
    gradcam: GradCam, pixels: Pixels, caption: str, labels: Sequence[str], asked: Sequence[int] = ()
) -> Iterator[Captioned]:
    """Give a photo, and after it what speaks for each label that is asked about.

    Args:
        gradcam: of the network.
        pixels: of the photo (H, W, C).
        caption: of the photo.
        labels: K labels.
        asked: class IDs; none asks about the likeliest label.
    """
    yield Captioned(pixels, caption)
    for number in asked or (None,):
        explanation = gradcam.explain(pixels[None], None if number is None else np.array([number]))
        row = explanation.probabilities[0]
        label = int(row.argmax()) if number is None else number
        yield Captioned(lay_over(pixels, explanation.maps[0]), f"for {labels[label]}\nprobability {row[label]:.3f}")


def make_row(title: str, pictures: Iterable[Captioned]) -> SheetRow:
    shown = list(pictures)
    return SheetRow(title, [picture for picture, _ in shown], [caption for _, caption in shown])


def draw_explained(title: str, pictures: Iterable[Captioned]) -> bytes:
    """Draw what `explain_photo` gave of several photos as a PNG file."""
    return draw_contact_sheet([make_row(f"{title} ({LEGEND})", pictures)], COLUMNS, CAPTION_WIDTH, SHEET_WIDTH)


def draw_examples(
    gradcam: GradCam, photos: LabelledImages, predicted: ClassIds, labels: Sequence[str], examples: int
) -> bytes:
    """Draw photos with their maps as a PNG file: ones that were told right, and ones that were told wrong.

    Args:
        gradcam: of the network.
        photos: N photos.
        predicted: the class IDs that they were told as (N,).
        labels: K labels.
        examples: so many of each at most, of all labels in turn.
    """
    titles = {
        True: "Told right: the photo, and what speaks for its label",
        False: "Told wrong: the photo, what speaks for the label that it was told as, and for the true one",
    }
    rows = []
    for is_right, title in titles.items():
        chosen = np.flatnonzero((predicted == photos.class_ids) == is_right)
        places = chosen[choose_examples([labels[number] for number in photos.class_ids[chosen]], examples)]
        pictures = list_explained(gradcam, photos, places, predicted, labels)
        rows.append(make_row(f"{title} ({LEGEND})" if len(places) else f"{title}: none", pictures))
    return draw_contact_sheet(rows, COLUMNS, CAPTION_WIDTH, SHEET_WIDTH)


def list_explained(
    gradcam: GradCam, photos: LabelledImages, places: Indices, predicted: ClassIds, labels: Sequence[str]
) -> Iterator[Captioned]:
    """Some of the photos, each with a map for the predicted label, and for the true one if that is another."""
    for place in places:
        target = int(photos.class_ids[place])
        pixels = photos.images.take(photos.rows[[place]])[0]
        asked = list(dict.fromkeys((int(predicted[place]), target)))
        yield from explain_photo(gradcam, pixels, f"{photos.photos[place]}\ntrue: {labels[target]}", labels, asked)


def draw_corrupted(
    gradcam: GradCam,
    photos: LabelledImages,
    place: int,
    labels: Sequence[str],
    levels: Mapping[str, Sequence[int]],
    seed: int,
) -> bytes:
    """Draw a photo at each level of each corruption, with what speaks for the label that it is then told as.

    Args:
        gradcam: of the network.
        photos: N photos.
        place: of the photo among them.
        labels: K labels.
        levels: by corruption; one without any is left out.
        seed: of what is drawn at random.
    """
    row = photos.rows[[place]]
    original = photos.images.take(row)
    title = f"{photos.photos[place]}, disturbed, and what speaks for the label that it is then told as ({LEGEND})"
    rows = [make_row(title if any(levels.values()) else NOTHING, [])]
    clean = list(explain_photo(gradcam, original[0], "as it is", labels))
    for name, chosen in levels.items():
        if not chosen:
            continue
        corruption = CORRUPTIONS[name]
        pictures = [*clean]
        for level in corruption.order(chosen):
            disturbed = corrupt_images(original, corruption, level, seed, row)[0]
            pictures += explain_photo(gradcam, disturbed, str(level), labels)
        rows.append(make_row(f"{name} ({corruption.axis_label})", pictures))
    return draw_contact_sheet(rows, max((len(row.pictures) for row in rows), default=1), CAPTION_WIDTH, SHEET_WIDTH)
