"""How a network bears disturbed photos: how often it is right, and whether it still looks at the same places.

Dims: N photos, B images of a batch, H height, W width, h and w of Grad-CAM's maps.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from darkroom.explanation.corruptions import CORRUPTIONS, NOTHING, Corruption, corrupt_images
from darkroom.explanation.gradcam import GradCam, Maps, spread
from darkroom.pipeline.arrays import ClassIds, Pixels
from darkroom.scores.charts import draw_chart
from darkroom.scores.scores import measure_accuracy
from darkroom.scores.trained_model import LabelledImages

PANEL = 3.4  # inches


class RobustnessRow(NamedTuple):
    """A row of metrics/explain/<corruption>.csv: the accuracy at a level, with its interval, and which share of
    Grad-CAM's map lies elsewhere than on the clean photo, in the mean; all 0 to 1."""

    level: int
    photos: int
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    gradcam_shift: float


class Robustness:
    """Disturbs photos of a subset, and asks a network about them."""

    def __init__(
        self, gradcam: GradCam, photos: LabelledImages, groups: Sequence[str], batch_size: int, confidence_level: float
    ) -> None:
        """Ask about the clean photos.

        Args:
            gradcam: of the network.
            photos: N photos.
            groups: the group of each.
            batch_size: images that are asked about at a time.
            confidence_level: of the intervals.
        """
        self.gradcam = gradcam
        self.photos = photos
        self.groups = groups
        self.batch_size = batch_size
        self.confidence_level = confidence_level
        self.predicted, self.maps = self.ask(lambda pixels, _: pixels, None)

    def measure(self, corruption: Corruption, levels: Sequence[int], seed: int) -> Iterator[RobustnessRow]:
        """Give a row for the clean photos, and one for each level, the worst last.

        Args:
            corruption: what is done to the photos.
            levels: how strongly.
            seed: decides what is drawn at random.
        """
        yield self.score(corruption.clean_level, self.predicted, 0.0)
        for level in corruption.order(levels):

            def disturb(pixels: Pixels, places: slice, level: int = level) -> Pixels:
                return corrupt_images(pixels, corruption, level, seed, self.photos.rows[places])

            predicted, maps = self.ask(disturb, self.predicted)
            yield self.score(level, predicted, self.measure_moves(corruption, level, maps))

    def ask(self, disturb: Callable[[Pixels, slice], Pixels], asked: ClassIds | None) -> tuple[ClassIds, Maps]:
        """What is predicted for each photo (N,), and what speaks for the label that it is asked about, (N, h, w).

        Args:
            disturb: what is done to the pixels of a batch, given its place among the photos.
            asked: class IDs (N,); None asks about what is predicted.
        """
        predicted, maps = [], []
        for start in range(0, len(self.photos.rows), self.batch_size):
            places = slice(start, start + self.batch_size)
            pixels = disturb(self.photos.images.take(self.photos.rows[places]), places)
            explanation = self.gradcam.explain(pixels, None if asked is None else asked[places])
            predicted.append(explanation.probabilities.argmax(axis=1))
            maps.append(explanation.maps)
        return np.concatenate(predicted), np.concatenate(maps)

    def measure_moves(self, corruption: Corruption, level: int, maps: Maps) -> float:
        """Which share of the maps lies elsewhere than on the clean photos, in the mean; what the corruption
        itself moves counts as being in its place."""
        height, width = self.photos.images.image_shape[:2]
        shares = []
        # At the size of the photos: a map of few places would be moved by being turned alone.
        for before, after in zip(self.maps, maps, strict=True):
            expected, found = (draw_map(weights, height, width) for weights in (before, after))
            if corruption.moves_pixels:
                expected = corruption.apply(expected[..., None], level, np.random.default_rng(0))[..., 0]
            shares.append(moved_share(expected, found))
        return float(np.mean(shares))

    def score(self, level: int, predicted: ClassIds, gradcam_shift: float) -> RobustnessRow:
        accuracy = measure_accuracy(predicted == self.photos.class_ids, self.groups, self.confidence_level)
        value, low, high, photos = accuracy
        return RobustnessRow(level, photos, value, low, high, gradcam_shift)


def draw_map(weights: npt.NDArray[np.float32], height: int, width: int) -> Pixels:
    """Draw a map (h, w) as a gray picture of the size of its photo (H, W), its strongest place in white."""
    return np.rint(255 * spread(weights / (weights.max() or 1), height, width)).clip(0, 255).astype(np.uint8)


def moved_share(expected: Pixels, found: Pixels) -> float:
    """Which share of a map (H, W) lies elsewhere than expected, 0 to 1: the total variation distance of the two as
    distributions. One that is black is apart from all others."""
    masses = [float(picture.sum()) for picture in (expected, found)]
    if not all(masses):
        return float(any(masses))
    ours, theirs = (picture / mass for picture, mass in zip((expected, found), masses, strict=True))
    return float(np.abs(ours - theirs).sum() / 2)


def summarize(curves: Mapping[str, Sequence[RobustnessRow]]) -> dict[str, float]:
    """The accuracy on clean photos, and accuracy and Grad-CAM's moves in the mean over a corruption's levels."""
    summary = {"clean_accuracy": next(iter(curves.values()))[0].accuracy}
    for name, (_, *rows) in curves.items():
        if rows:
            summary[f"{name}_accuracy"] = float(np.mean([row.accuracy for row in rows]))
            summary[f"{name}_gradcam_shift"] = float(np.mean([row.gradcam_shift for row in rows]))
    return summary


def draw_robustness(curves: Mapping[str, Sequence[RobustnessRow]]) -> bytes:
    """Draw accuracy, and how much of Grad-CAM's maps moves, against the levels of each corruption as a PNG file.

    A corruption without levels is left out.
    """
    shown = {name: rows for name, rows in curves.items() if len(rows) > 1}

    def draw(figure: Figure) -> None:
        if not shown:
            figure.text(0.5, 0.5, NOTHING, ha="center", va="center")
            return
        panels = np.atleast_1d(figure.subplots(1, len(shown), sharey=True))
        for axes, (name, rows) in zip(panels, shown.items(), strict=True):
            places = range(len(rows))
            accuracy = [row.accuracy for row in rows]
            ends = [
                [row.accuracy - row.accuracy_low for row in rows],
                [row.accuracy_high - row.accuracy for row in rows],
            ]
            axes.errorbar(places, accuracy, ends, marker="o", capsize=3, label="accuracy, with its interval")
            moved = [row.gradcam_shift for row in rows]
            axes.plot(places, moved, marker="s", linestyle=":", label="share of Grad-CAM's map that moves")
            axes.set_xticks(places, ["none", *(str(row.level) for row in rows[1:])])
            axes.set(title=name, xlabel=CORRUPTIONS[name].axis_label, ylim=(0, 1.02))
            axes.margins(x=0.1)
            axes.grid(alpha=0.3)
        panels[0].set_ylabel("share, 0 to 1")
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=len(names))

    return draw_chart(draw, 0.6 + PANEL * max(1, len(shown)), PANEL + 0.6)
