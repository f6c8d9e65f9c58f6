"""Charts as PNG files, with the same bytes for the same values."""

import io
import warnings
from collections.abc import Callable

import matplotlib
from matplotlib.figure import Figure

DOTS_PER_INCH = 100


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
