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

from stages.lib.arrays import Pixels

# Matplotlib brings it along; it has the letters of Latin, Greek and Cyrillic script.
FONT = Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf")
TITLE_SIZE, CAPTION_SIZE = 14, 11
TITLE_HEIGHT, CAPTION_HEIGHT = 24, 18
TITLE_COLOR, CAPTION_COLOR, FRAME_COLOR, PAPER = "black", "dimgray", "lightgray", "white"
# Pixels of a picture's longer side: smaller ones are enlarged to about the first, larger ones are shrunk to the second.
USUAL_SIDE, LARGEST_SIDE = 96, 160
# So wide is a column at least, and a sheet, for the sake of captions and titles.
LEAST_COLUMN, LEAST_SHEET = 84, 420
MARGIN, GAP = 16, 8
ELLIPSIS = "…"


class SheetRow(NamedTuple):
    """Pictures that belong together, each of uint8 (H, W, C), and a caption for each."""

    title: str
    pictures: Sequence[Pixels]
    captions: Sequence[str]


class Layout(NamedTuple):
    """Lengths in pixels."""

    columns: int
    column_width: int
    width: int


def draw_contact_sheet(rows: Iterable[SheetRow], columns: int) -> bytes:
    """Draw a contact sheet as a PNG file, the same bytes for the same rows.

    Args:
        rows: from top to bottom; of each only small copies are kept, so they may come one at a time.
        columns: so many pictures stand side by side at most; the others of a row follow below.

    Returns:
        the file's bytes.
    """
    small = [(row.title, [scale_picture(picture) for picture in row.pictures], row.captions) for row in rows]
    layout = lay_out([pictures for _, pictures, _ in small], columns)
    heights = [measure_row(pictures, layout.columns) for _, pictures, _ in small]
    sheet = Image.new("RGB", (layout.width, 2 * MARGIN + sum(heights)), PAPER)
    top = MARGIN
    for (title, pictures, captions), height in zip(small, heights, strict=True):
        draw_row(sheet, top, layout, title, pictures, captions)
        top += height
    file = io.BytesIO()
    sheet.save(file, "PNG")
    return file.getvalue()


def lay_out(rows: Sequence[Sequence[Image.Image]], columns: int) -> Layout:
    used = max([1, *(min(columns, len(pictures)) for pictures in rows)])
    column_width = max([LEAST_COLUMN, *(picture.width for pictures in rows for picture in pictures)])
    return Layout(used, column_width, max(LEAST_SHEET, 2 * MARGIN + used * (column_width + GAP) - GAP))


def measure_line(pictures: Sequence[Image.Image]) -> int:
    return max((picture.height for picture in pictures), default=0) + CAPTION_HEIGHT + GAP


def measure_row(pictures: Sequence[Image.Image], columns: int) -> int:
    return TITLE_HEIGHT + math.ceil(len(pictures) / columns) * measure_line(pictures) + GAP


def draw_row(
    sheet: Image.Image,
    top: int,
    layout: Layout,
    title: str,
    pictures: Sequence[Image.Image],
    captions: Sequence[str],
) -> None:
    draw = ImageDraw.Draw(sheet)
    write_line(draw, (MARGIN, top), title, TITLE_SIZE, TITLE_COLOR, layout.width - 2 * MARGIN)
    for number, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        line, column = divmod(number, layout.columns)
        left = MARGIN + column * (layout.column_width + GAP)
        bottom = top + TITLE_HEIGHT + (line + 1) * measure_line(pictures) - CAPTION_HEIGHT - GAP
        # All stand on the line of the captions, the less high ones too.
        upper = bottom - picture.height
        draw.rectangle((left - 1, upper - 1, left + picture.width, bottom), outline=FRAME_COLOR)
        sheet.paste(picture, (left, upper))
        write_line(draw, (left, bottom + 2), caption, CAPTION_SIZE, CAPTION_COLOR, layout.column_width)


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
