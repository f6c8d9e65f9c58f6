"""Contact sheets: pages of many small images with captions, in rows with titles.

Dims: H height, W width, C channels (3 for RGB, 1 for gray).
"""

import io
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from darkroom.pipeline.arrays import Pixels

# Part of Matplotlib; it has the letters of the Latin, Greek and Cyrillic scripts.
FONT = Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf")
TITLE_SIZE, CAPTION_SIZE = 14, 11
TITLE_HEIGHT, CAPTION_HEIGHT = 24, 14
TITLE_COLOR, CAPTION_COLOR, FRAME_COLOR, PAPER = "black", "dimgray", "lightgray", "white"
# Pixels of an image's longer side: smaller images are enlarged to about the first, larger ones shrunk to the second.
USUAL_SIDE, LARGEST_SIDE = 96, 160
# The minimum widths of a column and of a sheet, which leave room for captions and titles.
LEAST_COLUMN, LEAST_SHEET = 84, 420
MARGIN, GAP = 16, 8
CAPTION_ROOM = 4 + GAP  # above and below the lines of a caption
ELLIPSIS = "…"


class SheetRow(NamedTuple):
    """Images under one title, each of uint8 (H, W, C), with a caption for each, of one line or more."""

    title: str
    images: Sequence[Pixels]
    captions: Sequence[str]


class ScaledRow(NamedTuple):
    """A row ready to draw: the images in their final size, and the lines of their captions."""

    title: str
    images: Sequence[Image.Image]
    captions: Sequence[Sequence[str]]

    @property
    def line_height(self) -> int:
        """The height of one line of images with their captions."""
        lines = max(map(len, self.captions), default=0)
        return max((image.height for image in self.images), default=0) + lines * CAPTION_HEIGHT + CAPTION_ROOM

    def height(self, columns: int) -> int:
        return TITLE_HEIGHT + math.ceil(len(self.images) / columns) * self.line_height + GAP


class Layout(NamedTuple):
    """Lengths in pixels."""

    columns: int
    column_width: int
    width: int


def draw_contact_sheet(
    rows: Iterable[SheetRow], columns: int, column_width: int = LEAST_COLUMN, sheet_width: int = LEAST_SHEET
) -> bytes:
    """Draw a contact sheet as a PNG file, the same bytes for the same rows.

    Args:
        rows: from top to bottom; only scaled copies stay in memory, so an iterator may load one row at a time.
        columns: the maximum number of images side by side; a row with more continues below.
        column_width: minimum width of a column in pixels, for its captions.
        sheet_width: minimum width of the sheet in pixels, for titles, including the margins.

    Returns:
        the file's bytes.
    """
    scaled = [scale_row(row) for row in rows]
    layout = lay_out(scaled, columns, column_width, sheet_width)
    heights = [row.height(layout.columns) for row in scaled]
    sheet = Image.new("RGB", (layout.width, 2 * MARGIN + sum(heights)), PAPER)
    top = MARGIN
    for row, height in zip(scaled, heights, strict=True):
        draw_row(sheet, top, layout, row)
        top += height
    file = io.BytesIO()
    sheet.save(file, "PNG")
    return file.getvalue()


def scale_row(row: SheetRow) -> ScaledRow:
    images = [scale_image(pixels) for pixels in row.images]
    return ScaledRow(row.title, images, [caption.split("\n") for caption in row.captions])


def lay_out(rows: Sequence[ScaledRow], columns: int, column_width: int, sheet_width: int) -> Layout:
    used = max([1, *(min(columns, len(row.images)) for row in rows)])
    column_width = max([column_width, *(image.width for row in rows for image in row.images)])
    return Layout(used, column_width, max(sheet_width, 2 * MARGIN + used * (column_width + GAP) - GAP))


def draw_row(sheet: Image.Image, top: int, layout: Layout, row: ScaledRow) -> None:
    draw = ImageDraw.Draw(sheet)
    write_line(draw, (MARGIN, top), row.title, TITLE_SIZE, TITLE_COLOR, layout.width - 2 * MARGIN)
    image_height = max((image.height for image in row.images), default=0)
    for number, (image, caption) in enumerate(zip(row.images, row.captions, strict=True)):
        line, column = divmod(number, layout.columns)
        left = MARGIN + column * (layout.column_width + GAP)
        bottom = top + TITLE_HEIGHT + line * row.line_height + image_height
        # All images are aligned at the bottom, above the captions.
        upper = bottom - image.height
        draw.rectangle((left - 1, upper - 1, left + image.width, bottom), outline=FRAME_COLOR)
        sheet.paste(image, (left, upper))
        for line_number, text in enumerate(caption):
            position = (left, bottom + 2 + line_number * CAPTION_HEIGHT)
            write_line(draw, position, text, CAPTION_SIZE, CAPTION_COLOR, layout.column_width)


def write_line(
    draw: ImageDraw.ImageDraw, position: tuple[int, int], text: str, size: int, color: str, width: int
) -> None:
    # Pillow's basic layout engine: the other one exists on some machines only, and positions letters differently.
    font = ImageFont.truetype(FONT, size, layout_engine=ImageFont.Layout.BASIC)
    draw.text(position, shorten_line(text, font, width), fill=color, font=font)


def shorten_line(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """Join a text to one line, and truncate it with an ellipsis to at most `width` pixels."""
    line = " ".join(text.split())
    if font.getlength(line) <= width:
        return line
    shortened = line[:width]  # no letter is narrower than a pixel
    while shortened and font.getlength(shortened.rstrip() + ELLIPSIS) > width:
        shortened = shortened[:-1]
    return shortened.rstrip() + ELLIPSIS


def scale_image(pixels: Pixels) -> Image.Image:
    """Scale pixels of shape (H, W, C) to the size in which they are shown, as RGB.

    Small images are enlarged by a whole factor, so that each pixel becomes a square.
    """
    # "contiguous": an array that is memory-mapped from a file is copied here, so that nothing keeps the map open.
    image = Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)).convert("RGB")
    longer = max(image.size)
    if longer > LARGEST_SIDE:
        width, height = (max(1, round(side * LARGEST_SIDE / longer)) for side in image.size)
        return image.resize((width, height), Image.Resampling.LANCZOS)
    times = max(1, round(USUAL_SIDE / longer))
    return image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)


def choose_examples(labels: Sequence[str], count: int) -> list[int]:
    """Choose `count` indices into `labels`: the first of each label, then the second of each, and so on; sorted."""
    indices: dict[str, list[int]] = defaultdict(list)
    for index, label in enumerate(labels):
        indices[label].append(index)
    round_robin = (index for nth_indices in zip_longest(*indices.values()) for index in nth_indices)
    return sorted([index for index in round_robin if index is not None][:count])
