"""Contact sheets of example images after augmentation and normalization.

Dims: N images, H height, W width, C channels.
"""

from collections.abc import Sequence

import keras

from darkroom.contact_sheet import SheetRow, choose_examples, draw_contact_sheet
from darkroom.params.train import AugmentationParams
from darkroom.pipeline.arrays import Pixels, RowNumbers
from darkroom.pipeline.dataset import ImageRow
from darkroom.training.augmentation import augment_for_preview
from darkroom.training.normalization import normalize_for_preview

PREVIEW_PHOTOS = 6
PREVIEW_EPOCHS = 8


def list_examples(index: Sequence[ImageRow], row_numbers: RowNumbers) -> list[int]:
    """Choose row numbers of originals among `row_numbers`, from as many different labels as possible."""
    originals = [int(number) for number in row_numbers if index[number].is_original]
    chosen = choose_examples([index[number].label for number in originals], PREVIEW_PHOTOS)
    return [originals[position] for position in chosen]


def draw_augmented(titles: Sequence[str], images: Pixels, params: AugmentationParams, seed: int) -> bytes:
    """Draw the images as the network sees them in its first epochs, as a PNG file."""
    augmented = augment_for_preview(images, params, seed, PREVIEW_EPOCHS)
    captions = ["stored", *(f"epoch {epoch}" for epoch in range(1, PREVIEW_EPOCHS + 1))]
    rows = [
        SheetRow(title, [image, *augmented[:, number]], captions)
        for number, (title, image) in enumerate(zip(titles, images, strict=True))
    ]
    return draw_contact_sheet(rows, len(captions))


def draw_before_and_after(titles: Sequence[str], images: Pixels, layers: Sequence[keras.layers.Layer]) -> bytes:
    """Draw the images before and after normalization, as a PNG file."""
    normalized, low, high = normalize_for_preview(layers, images)
    captions = ["0 to 255", f"{low:.3g} to {high:.3g}"]
    rows = [
        SheetRow(title, [before, after], captions)
        for title, before, after in zip(titles, images, normalized, strict=True)
    ]
    return draw_contact_sheet(rows, len(captions))
