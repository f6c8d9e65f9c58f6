"""Scribbles over a photo, like a child's with pens, that cover a given fraction of it.

Dims: H height, W width, C channels (3 for RGB, 1 for gray), S strokes of a pen, P points of a stroke.
"""

from bisect import bisect_left
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from darkroom.pipeline.arrays import Pixels

StrokeNumbers = npt.NDArray[np.int32]  # (H, W), the stroke that is visible at each pixel, 1 to S; 0 is uncovered

PEN_WIDTHS = (0.02, 0.04)  # of the shorter side
STROKE_CORNERS = (5, 9)  # of the polyline that a stroke smooths; the second number is excluded
# The corners lie in the photo or up to this far outside, in fractions of its sides: a curve stays inside its corners,
# and must be able to reach the photo's own corners.
BEYOND = 0.3
CURVE_POINTS = 32  # per corner, before they are spaced evenly
POINT_SHIFT = 4  # OpenCV takes coordinates as whole numbers, of 16ths of a pixel


class Stroke(NamedTuple):
    points: npt.NDArray[np.int32]  # (P, 2), x and y in 16ths of a pixel, at most half a pen's width or a pixel apart
    width: int  # of the pen, in pixels
    color: Pixels  # (3,)


def scribble(pixels: Pixels, percent: int, random: np.random.Generator) -> Pixels:
    """Draw curved pen strokes of random colors over a photo, until this percentage of its area is covered.

    With a generator in the same state, a higher percentage keeps the strokes of a lower one and adds more.

    Args:
        pixels: shape (H, W, C).
        percent: the area to cover, 0 to 100. The result covers at least this, and at most about a dot of the pen more.
        random: the random generator.

    Returns:
        shape (H, W, C).
    """
    height, width, channels = pixels.shape
    numbers, colors = draw_strokes(height, width, percent, random)
    return np.where(numbers[..., None] > 0, colors[numbers, :channels], pixels)


def draw_strokes(height: int, width: int, percent: int, random: np.random.Generator) -> tuple[StrokeNumbers, Pixels]:
    """Draw strokes until they cover `percent` of the area; the last one is cut there.

    Returns:
        the number of the stroke at each pixel, and the colors, of shape (S + 1, 3); the first stands for no stroke.
    """
    numbers = np.zeros((height, width), np.int32)
    colors = [np.zeros(3, np.uint8)]
    while not is_covered(numbers, percent):
        stroke, before = draw_stroke(height, width, random), numbers
        colors.append(stroke.color)
        numbers = trace_stroke(before, stroke, len(stroke.points), len(colors) - 1)
        if is_covered(numbers, percent):
            numbers = cut_stroke(before, stroke, len(colors) - 1, percent)
    return numbers, np.stack(colors)


def is_covered(numbers: StrokeNumbers, percent: int) -> bool:
    return 100 * int(np.count_nonzero(numbers)) >= percent * numbers.size


def cut_stroke(numbers: StrokeNumbers, stroke: Stroke, number: int, percent: int) -> StrokeNumbers:
    """Trace the shortest part of a stroke with which `percent` of the area is covered."""
    counts = range(len(stroke.points) + 1)
    enough = bisect_left(
        counts, True, lo=1, key=lambda count: is_covered(trace_stroke(numbers, stroke, count, number), percent)
    )
    return trace_stroke(numbers, stroke, enough, number)


def trace_stroke(numbers: StrokeNumbers, stroke: Stroke, count: int, number: int) -> StrokeNumbers:
    """Trace the first `count` points of a stroke on a copy, without anti-aliasing: each pixel is covered or not."""
    drawn = numbers.copy()
    cv2.polylines(drawn, [stroke.points[:count]], False, number, stroke.width, cv2.LINE_8, POINT_SHIFT)
    return drawn


def draw_stroke(height: int, width: int, random: np.random.Generator) -> Stroke:
    """Draw a long curve across a photo: quadratic Bézier curves through the midpoints of a random polyline's segments.

    The values drawn from `random` do not depend on the size, so photos of all sizes get the same strokes.
    """
    count = random.integers(*STROKE_CORNERS)
    corners = random.uniform(-BEYOND, 1 + BEYOND, (count, 2)) * (width, height)
    pen = max(1, round(random.uniform(*PEN_WIDTHS) * min(height, width)))
    color = random.integers(0, 256, 3, np.uint8)
    middles = (corners[1:] + corners[:-1]) / 2
    part = np.linspace(0, 1, CURVE_POINTS, endpoint=False)[:, None]
    starts, bends, ends = middles[:-1, None], corners[1:-1, None], middles[1:, None]
    curve = ((1 - part) ** 2 * starts + 2 * part * (1 - part) * bends + part**2 * ends).reshape(-1, 2)
    return Stroke(np.rint(space_points(curve, max(1, pen / 2)) * 2**POINT_SHIFT).astype(np.int32), pen, color)


def space_points(curve: npt.NDArray[np.float64], distance: float) -> npt.NDArray[np.float64]:
    """Resample a curve (P, 2) to points at equal distances along it, from its start."""
    walked = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(curve, axis=0).T))])
    stops = np.arange(0, walked[-1], distance)
    return np.stack([np.interp(stops, walked, curve[:, axis]) for axis in (0, 1)], axis=1)
