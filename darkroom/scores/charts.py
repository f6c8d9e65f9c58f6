"""Charts as PNG files, with the same bytes for the same values."""

import io
import warnings
from collections.abc import Callable

import matplotlib
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font

DOTS_PER_INCH = 100
FONT = "DejaVu Sans"
ELLIPSIS = "…"


def draw_chart(draw: Callable[[Figure], None], width: float, height: float) -> bytes:
    """Draw a chart as a PNG file; letters that DejaVu Sans lacks become boxes, the same on every machine.

    Args:
        draw: draws on the given figure.
        width, height: in inches of 100 pixels.
    """
    # Not the user's settings: they would change the bytes.
    with matplotlib.rc_context(matplotlib.rcParamsDefault), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure)
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=DOTS_PER_INCH, bbox_inches="tight")
    return file.getvalue()


def shorten_middle(text: str, length: int) -> str:
    """Join a text to one line, and replace the middle of a longer one by an ellipsis: names often differ at the end."""
    line = " ".join(text.split())
    half = (length - 1) // 2
    return line if len(line) <= length else f"{line[: length - 1 - half]}{ELLIPSIS}{line[-half:]}"


def has_letters(text: str) -> bool:
    """Whether the font of the charts has all letters of a text."""
    font = get_font(findfont(FontProperties(family=FONT)))
    return all(font.get_char_index(ord(letter)) for letter in text)
