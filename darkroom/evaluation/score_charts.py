"""Charts of scores as PNG files. Dims: N photos, K classes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import confusion_matrix

from darkroom.evaluation.calibration import ConfidenceBin
from darkroom.evaluation.mistakes import rank_confused
from darkroom.pipeline.arrays import ClassIds
from darkroom.pipeline.paths import EVALUATE_CLASSES
from darkroom.scores.charts import draw_chart, has_letters, shorten_middle

# A confusion matrix of more classes shows those of the most confused pairs, so that the chart's size is bounded.
MOST_CLASSES_SHOWN = 30
LONGEST_LABEL = 40  # characters
CELL, LETTER, LEAST_MARGIN = 0.5, 0.11, 2.5  # inches
COLORS = colormaps["Blues"]
OTHERS = "(others)"


def draw_confusion(class_ids: ClassIds, predicted: ClassIds, labels: Sequence[str]) -> bytes:
    """Plot the confusion matrix, a row per true label: numbers of photos, and fractions of the label's photos.

    Of many labels, those of the most confused pairs are shown, with a column for the photos predicted as any other one.

    Args:
        class_ids, predicted: true and predicted class IDs (N,).
        labels: K labels.
    """
    matrix = confusion_matrix(class_ids, predicted, labels=range(len(labels)))
    shown = choose_shown(matrix, labels)
    names = {class_id: shorten_middle(labels[class_id], LONGEST_LABEL) for class_id in shown}
    boxes = {class_id for class_id, name in names.items() if not has_letters(name)}
    rows = [f"no. {class_id + 1}: {name}" if class_id in boxes else name for class_id, name in names.items()]
    columns, counts = rows, matrix[np.ix_(shown, shown)]
    titles = ["photos", "fraction of the label's photos"]
    if len(shown) < len(labels):
        others = matrix[shown].sum(axis=1) - counts.sum(axis=1)
        columns, counts = [*rows, OTHERS], np.column_stack([counts, others])
        titles = [f"{title}\n{len(shown)} of {len(labels):,} labels, the most confused pairs first" for title in titles]
    if boxes:
        titles = [f"{title}\n(no.: the label's row in {EVALUATE_CLASSES})" for title in titles]
    fractions = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    margin = max(LEAST_MARGIN, LETTER * max(map(len, columns)))
    height, width = (margin + CELL * len(names) for names in (rows, columns))

    def draw(figure: Figure) -> None:
        left, right = figure.subplots(1, 2)
        draw_matrix(left, titles[0], counts, "d", rows, columns)
        draw_matrix(right, titles[1], fractions, ".2f", rows, columns)

    return draw_chart(draw, 2 * (width + 1), height)


def choose_shown(matrix: npt.NDArray[np.int64], labels: Sequence[str]) -> list[int]:
    """Choose the class IDs to show of a confusion matrix (K, K), in the order in which they are shown.

    That is all in their own order, or, of many, those of the pairs with the most misclassified photos, and then the
    first others.
    """
    if len(matrix) <= MOST_CLASSES_SHOWN:
        return list(range(len(matrix)))
    ranked = dict.fromkeys([*rank_confused(matrix, labels).flat, *range(len(matrix))])
    return [int(class_id) for class_id in ranked][:MOST_CLASSES_SHOWN]


def draw_matrix(
    axes: Axes, title: str, values: npt.NDArray[Any], number_format: str, rows: Sequence[str], columns: Sequence[str]
) -> None:
    """Plot values (rows, columns) as colors, and those that are not 0 as numbers too."""
    axes.imshow(values, cmap=COLORS, vmin=0)
    middle = values.max() / 2
    for row, column in np.argwhere(values):
        value = values[row, column]
        color = COLORS(0.0) if value > middle else COLORS(1.0)
        text = axes.text(column, row, f"{value:{number_format}}", ha="center", va="center", color=color, fontsize=8)
        text.set_in_layout(False)  # it is inside the axes; measuring it takes most of the time
    axes.set_xticks(range(len(columns)), columns, rotation="vertical")
    axes.set_yticks(range(len(rows)), rows)
    axes.set(title=title, xlabel="Predicted label", ylabel="True label")
    for text in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        text.set_parse_math(False)  # a label may have dollar signs


def draw_reliability(bins: Sequence[ConfidenceBin], scaled: Sequence[ConfidenceBin], titles: Sequence[str]) -> bytes:
    """Plot two reliability diagrams: the accuracy of each bin, and below it the number of photos.

    Args:
        bins: bins of the model's probabilities.
        scaled: bins after temperature scaling.
        titles: the titles of the two diagrams.
    """

    def draw(figure: Figure) -> None:
        panels = figure.subplots(2, 2, sharex=True, height_ratios=(3, 1))
        for column, (rows, title) in enumerate(zip((bins, scaled), titles, strict=True)):
            draw_bins(panels[0, column], panels[1, column], rows, title)
        handles, names = panels[0, 0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=len(names))

    return draw_chart(draw, 9, 5.5)


def draw_bins(upper: Axes, lower: Axes, rows: Sequence[ConfidenceBin], title: str) -> None:
    width = 1 / len(rows)
    filled = [row for row in rows if row.photos]
    middles = [row.middle for row in filled]
    upper.bar(middles, [row.accuracy or 0 for row in filled], width, edgecolor="white", label="accuracy")
    upper.plot(
        [row.confidence or 0 for row in filled], [row.accuracy or 0 for row in filled], "k.", label="mean probability"
    )
    upper.plot([0, 1], [0, 1], color="gray", linestyle="--", label="perfectly calibrated")
    upper.set(title=title, ylabel="accuracy", xlim=(0, 1), ylim=(-0.02, 1.04))
    lower.bar([row.middle for row in rows], [row.photos for row in rows], width, color="gray", edgecolor="white")
    lower.set(xlabel="probability of the predicted label", ylabel="photos")
