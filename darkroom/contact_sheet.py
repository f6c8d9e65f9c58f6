"""A contact sheet, as photographers call a page of many small pictures: rows with a title, each picture with a caption.

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

# Matplotlib brings it along; it has the letters of Latin, Greek and Cyrillic script.
FONT = Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf")
TITLE_SIZE, CAPTION_SIZE = 14, 11
TITLE_HEIGHT, CAPTION_HEIGHT = 24, 14
TITLE_COLOR, CAPTION_COLOR, FRAME_COLOR, PAPER = "black", "dimgray", "lightgray", "white"
# Pixels of a picture's longer side: smaller ones are enlarged to about the first, larger ones are shrunk to the second.
USUAL_SIDE, LARGEST_SIDE = 96, 160
# So wide is a column at least, and a sheet, for the sake of captions and titles.
LEAST_COLUMN, LEAST_SHEET = 84, 420
MARGIN, GAP = 16, 8
CAPTION_ROOM = 4 + GAP  # above and below the lines of a caption
ELLIPSIS = "…"


class SheetRow(NamedTuple):
    """Pictures that belong together, each of uint8 (H, W, C), and a caption for each, of one line or more."""

    title: str
    pictures: Sequence[Pixels]
    captions: Sequence[str]


class SmallRow(NamedTuple):
    """A row as it is drawn: the pictures in the size in which they are shown, and the lines of their captions."""

    title: str
    pictures: Sequence[Image.Image]
    captions: Sequence[Sequence[str]]

    @property
    def line_height(self) -> int:
        """Of a line of pictures with their captions."""
        lines = max(map(len, self.captions), default=0)
        return max((picture.height for picture in self.pictures), default=0) + lines * CAPTION_HEIGHT + CAPTION_ROOM

    def height(self, columns: int) -> int:
        return TITLE_HEIGHT + math.ceil(len(self.pictures) / columns) * self.line_height + GAP


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
        rows: from top to bottom; of each only small copies are kept, so they may come one at a time.
        columns: so many pictures stand side by side at most; the others of a row follow below.
        column_width: pixels that a caption has at least.
        sheet_width: pixels that a title has at least, with the margins.

    Returns:
        the file's bytes.
    """
    small = [shrink_row(row) for row in rows]
    layout = lay_out(small, columns, column_width, sheet_width)
    heights = [row.height(layout.columns) for row in small]
    sheet = Image.new("RGB", (layout.width, 2 * MARGIN + sum(heights)), PAPER)
    top = MARGIN
    for row, height in zip(small, heights, strict=True):
        draw_row(sheet, top, layout, row)
        top += height
    file = io.BytesIO()
    sheet.save(file, "PNG")
    return file.getvalue()


def shrink_row(row: SheetRow) -> SmallRow:
    pictures = [scale_picture(picture) for picture in row.pictures]
    return SmallRow(row.title, pictures, [caption.split("\n") for caption in row.captions])


def lay_out(rows: Sequence[SmallRow], columns: int, column_width: int, sheet_width: int) -> Layout:
    used = max([1, *(min(columns, len(row.pictures)) for row in rows)])
    column_width = max([column_width, *(picture.width for row in rows for picture in row.pictures)])
    return Layout(used, column_width, max(sheet_width, 2 * MARGIN + used * (column_width + GAP) - GAP))


def draw_row(sheet: Image.Image, top: int, layout: Layout, row: SmallRow) -> None:
    draw = ImageDraw.Draw(sheet)
    write_line(draw, (MARGIN, top), row.title, TITLE_SIZE, TITLE_COLOR, layout.width - 2 * MARGIN)
    picture_height = max((picture.height for picture in row.pictures), default=0)
    for number, (picture, caption) in enumerate(zip(row.pictures, row.captions, strict=True)):
        line, column = divmod(number, layout.columns)
        left = MARGIN + column * (layout.column_width + GAP)
        bottom = top + TITLE_HEIGHT + line * row.line_height + picture_height
        # All stand on the line of the captions, the less high ones too.
        upper = bottom - picture.height
        draw.rectangle((left - 1, upper - 1, left + picture.width, bottom), outline=FRAME_COLOR)
        sheet.paste(picture, (left, upper))
        for place, text in enumerate(caption):
            under = (left, bottom + 2 + place * CAPTION_HEIGHT)
            write_line(draw, under, text, CAPTION_SIZE, CAPTION_COLOR, layout.column_width)


def write_line(draw: ImageDraw.ImageDraw, place: tuple[int, int], text: str, size: int, color: str, width: int) -> None:
    # Pillow's own layout of letters: the other one is there on some machines only, and places them otherwise.
    font = ImageFont.truetype(FONT, size, layout_engine=ImageFont.Layout.BASIC)
    draw.text(place, shorten_line(text, font, width), fill=color, font=font)


def shorten_line(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """Cut a text at its end, with an ellipsis, so that it is at most `width` pixels wide; it becomes one line."""
    line = " ".join(text.split())
    if font.getlength(line) <= width:
        return line
    kept = line[:width]  # no letter is narrower than a pixel
    while kept and font.getlength(kept.rstrip() + ELLIPSIS) > width:
        kept = kept[:-1]
    return kept.rstrip() + ELLIPSIS


def scale_picture(pixels: Pixels) -> Image.Image:
    """Bring pixels of shape (H, W, C) to the size in which they are shown, as RGB.

    A small picture is enlarged by a whole factor, so that each of its pixels is a square.
    """
    # "contiguous": a row that is mapped from a file is copied here, and nothing keeps the map.
    image = Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)).convert("RGB")
    longer = max(image.size)
    if longer > LARGEST_SIDE:
        width, height = (max(1, round(side * LARGEST_SIDE / longer)) for side in image.size)
        return image.resize((width, height), Image.Resampling.LANCZOS)
    times = max(1, round(USUAL_SIDE / longer))
    return image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)


def choose_examples(labels: Sequence[str], count: int) -> list[int]:
    """Choose `count` indices into `labels`: the first of each label, then the second of each, and so on; sorted."""
    places: dict[str, list[int]] = defaultdict(list)
    for place, label in enumerate(labels):
        places[label].append(place)
    in_turn = (place for places_of_turn in zip_longest(*places.values()) for place in places_of_turn)
    return sorted([place for place in in_turn if place is not None][:count])
