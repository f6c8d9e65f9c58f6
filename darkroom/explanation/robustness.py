"""Robustness to corruptions: the accuracy on corrupted photos, and how far Grad-CAM's maps shift.

Dims: N photos, B images of a batch, H height, W width, h and w of Grad-CAM's maps.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from darkroom.explanation.corruptions import CORRUPTIONS, NO_CORRUPTIONS, Corruption, corrupt_images
from darkroom.explanation.gradcam import GradCam, Maps, resize_map
from darkroom.pipeline.arrays import ClassIds, Pixels
from darkroom.scores.charts import draw_chart
from darkroom.scores.scores import measure_accuracy
from darkroom.scores.trained_model import LabelledImages

PANEL = 3.4  # inches


class RobustnessRow(NamedTuple):
    """A row of metrics/explain/<corruption>.csv: the accuracy at a level, with its interval, and the mean shift of
    Grad-CAM's maps from those of the clean photos; all 0 to 1."""

    level: int
    photos: int
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    gradcam_shift: float


class Robustness:
    """Corrupts the photos of a subset, and compares a network's predictions with those of the clean photos."""

    def __init__(
        self, gradcam: GradCam, photos: LabelledImages, groups: Sequence[str], batch_size: int, confidence_level: float
    ) -> None:
        """Predict and explain the clean photos.

        Args:
            gradcam: the network.
            photos: N photos.
            groups: the group of each photo.
            batch_size: images per batch.
            confidence_level: confidence level of the intervals.
        """
        self.gradcam = gradcam
        self.photos = photos
        self.groups = groups
        self.batch_size = batch_size
        self.confidence_level = confidence_level
        self.predicted, self.maps = self.explain(lambda pixels, _: pixels, None)

    def measure(self, corruption: Corruption, levels: Sequence[int], seed: int) -> Iterator[RobustnessRow]:
        """Yield a row for the clean photos, and one for each level, the strongest last.

        Args:
            corruption: how to corrupt the photos.
            levels: the strengths.
            seed: seed of the random corruptions.
        """
        yield self.score(corruption.clean_level, self.predicted, 0.0)
        for level in corruption.order(levels):

            def corrupt(pixels: Pixels, batch: slice, level: int = level) -> Pixels:
                return corrupt_images(pixels, corruption, level, seed, self.photos.rows[batch])

            predicted, maps = self.explain(corrupt, self.predicted)
            yield self.score(level, predicted, self.measure_shift(corruption, level, maps))

    def explain(self, corrupt: Callable[[Pixels, slice], Pixels], class_ids: ClassIds | None) -> tuple[ClassIds, Maps]:
        """Predict the class of each photo (N,), and compute Grad-CAM's map for one class of each, (N, h, w).

        Args:
            corrupt: corrupts the pixels of a batch, given the slice of the photos that are in it.
            class_ids: the class to explain in each photo (N,); None explains the predicted class.
        """
        predicted, maps = [], []
        for start in range(0, len(self.photos.rows), self.batch_size):
            batch = slice(start, start + self.batch_size)
            pixels = corrupt(self.photos.images.take(self.photos.rows[batch]), batch)
            explanation = self.gradcam.explain(pixels, None if class_ids is None else class_ids[batch])
            predicted.append(explanation.probabilities.argmax(axis=1))
            maps.append(explanation.maps)
        return np.concatenate(predicted), np.concatenate(maps)

    def measure_shift(self, corruption: Corruption, level: int, maps: Maps) -> float:
        """The mean shift of the maps from those of the clean photos, 0 to 1. If the corruption moves pixels, the clean
        maps are moved with them."""
        height, width = self.photos.images.image_shape[:2]
        shifts = []
        # At the size of the photos: rotating a map of few pixels would shift it by interpolation alone.
        for before, after in zip(self.maps, maps, strict=True):
            expected, found = (draw_map(weights, height, width) for weights in (before, after))
            if corruption.moves_pixels:
                expected = corruption.apply(expected[..., None], level, np.random.default_rng(0))[..., 0]
            shifts.append(total_variation(expected, found))
        return float(np.mean(shifts))

    def score(self, level: int, predicted: ClassIds, gradcam_shift: float) -> RobustnessRow:
        accuracy = measure_accuracy(predicted == self.photos.class_ids, self.groups, self.confidence_level)
        value, low, high, photos = accuracy
        return RobustnessRow(level, photos, value, low, high, gradcam_shift)


def draw_map(weights: npt.NDArray[np.float32], height: int, width: int) -> Pixels:
    """Draw a map (h, w) as gray pixels in the size of its photo (H, W), with its maximum in white."""
    return np.rint(255 * resize_map(weights / (weights.max() or 1), height, width)).clip(0, 255).astype(np.uint8)


def total_variation(expected: Pixels, found: Pixels) -> float:
    """The total variation distance, 0 to 1, of two maps (H, W) as distributions: the fraction of the one that lies
    elsewhere in the other. A black map has distance 1 from all maps that are not black."""
    masses = [float(pixels.sum()) for pixels in (expected, found)]
    if not all(masses):
        return float(any(masses))
    first, second = (pixels / mass for pixels, mass in zip((expected, found), masses, strict=True))
    return float(np.abs(first - second).sum() / 2)


def summarize(curves: Mapping[str, Sequence[RobustnessRow]]) -> dict[str, float]:
    """The clean accuracy, and for each corruption the mean accuracy and mean shift of Grad-CAM over its levels."""
    summary = {"clean_accuracy": next(iter(curves.values()))[0].accuracy}
    for name, (_, *rows) in curves.items():
        if rows:
            summary[f"{name}_accuracy"] = float(np.mean([row.accuracy for row in rows]))
            summary[f"{name}_gradcam_shift"] = float(np.mean([row.gradcam_shift for row in rows]))
    return summary


def draw_robustness(curves: Mapping[str, Sequence[RobustnessRow]]) -> bytes:
    """Plot accuracy and Grad-CAM's shift against the levels of each corruption, as a PNG file.

    Corruptions without levels are left out.
    """
    shown = {name: rows for name, rows in curves.items() if len(rows) > 1}

    def draw(figure: Figure) -> None:
        if not shown:
            figure.text(0.5, 0.5, NO_CORRUPTIONS, ha="center", va="center")
            return
        panels = np.atleast_1d(figure.subplots(1, len(shown), sharey=True))
        for axes, (name, rows) in zip(panels, shown.items(), strict=True):
            positions = range(len(rows))
            accuracy = [row.accuracy for row in rows]
            ends = [
                [row.accuracy - row.accuracy_low for row in rows],
                [row.accuracy_high - row.accuracy for row in rows],
            ]
            axes.errorbar(positions, accuracy, ends, marker="o", capsize=3, label="accuracy with confidence interval")
            shifts = [row.gradcam_shift for row in rows]
            axes.plot(positions, shifts, marker="s", linestyle=":", label="shift of Grad-CAM's map")
            axes.set_xticks(positions, ["none", *(str(row.level) for row in rows[1:])])
            axes.set(title=name, xlabel=CORRUPTIONS[name].axis_label, ylim=(0, 1.02))
            axes.margins(x=0.1)
            axes.grid(alpha=0.3)
        panels[0].set_ylabel("accuracy and shift, 0 to 1")
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=len(names))

    return draw_chart(draw, 0.6 + PANEL * max(1, len(shown)), PANEL + 0.6)
