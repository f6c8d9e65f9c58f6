"""Pictures of what a training makes of some photos. Dims: N photos, H height, W width, C channels."""

from collections.abc import Sequence

import keras

from darkroom.contact_sheet import SheetRow, choose_examples, draw_contact_sheet
from darkroom.params.train import AugmentationParams
from darkroom.pipeline.arrays import Pixels, RowNumbers
from darkroom.pipeline.dataset import ImageRow
from darkroom.training.augmentation import draw_examples
from darkroom.training.normalization import draw_normalized

PREVIEW_PHOTOS = 6
PREVIEW_EPOCHS = 8


def list_examples(index: Sequence[ImageRow], rows: RowNumbers) -> list[int]:
    """Row numbers of some originals among `rows`, of as many labels as there are places for."""
    originals = [int(row) for row in rows if index[row].is_original]
    return [originals[place] for place in choose_examples([index[row].label for row in originals], PREVIEW_PHOTOS)]


def draw_augmented(titles: Sequence[str], pictures: Pixels, params: AugmentationParams, seed: int) -> bytes:
    """Draw what the network sees of some photos in its first epochs, as a PNG file."""
    seen = draw_examples(pictures, params, seed, PREVIEW_EPOCHS)
    captions = ["stored", *(f"epoch {epoch}" for epoch in range(1, PREVIEW_EPOCHS + 1))]
    sheet = [
        SheetRow(title, [picture, *seen[:, number]], captions)
        for number, (title, picture) in enumerate(zip(titles, pictures, strict=True))
    ]
    return draw_contact_sheet(sheet, len(captions))


def draw_before_and_after(titles: Sequence[str], pictures: Pixels, layers: Sequence[keras.layers.Layer]) -> bytes:
    """Draw photos before and after their normalization, as a PNG file."""
    normalized, low, high = draw_normalized(layers, pictures)
    captions = ["0 to 255", f"{low:.3g} to {high:.3g}"]
    sheet = [
        SheetRow(title, [before, after], captions)
        for title, before, after in zip(titles, pictures, normalized, strict=True)
    ]
    return draw_contact_sheet(sheet, len(captions))
