"""Charts of scores as PNG files. Dims: N photos, K classes."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import ConfusionMatrixDisplay, confusion_matrix

from darkroom.evaluation.calibration import ConfidenceBin
from darkroom.pipeline.arrays import ClassIds
from darkroom.scores.charts import draw_chart

# With more classes, the cells of a confusion matrix have no numbers and are smaller.
MOST_NUMBERED_CLASSES = 30
CELL, SMALL_CELL, LETTER, LEAST_MARGIN = 0.5, 0.2, 0.11, 2.5  # inches


def draw_confusion(class_ids: ClassIds, predicted: ClassIds, labels: Sequence[str]) -> bytes:
    """Plot the confusion matrix, a row per true label: numbers of photos, and fractions of the label's photos.

    Args:
        class_ids, predicted: true and predicted class IDs (N,).
        labels: K labels.
    """
    is_numbered = len(labels) <= MOST_NUMBERED_CLASSES
    margin = max(LEAST_MARGIN, LETTER * max(map(len, labels)))
    side = margin + (CELL if is_numbered else SMALL_CELL) * len(labels)

    def draw(figure: Figure) -> None:
        panels = figure.subplots(1, 2)
        for axes, normalize, title in zip(
            panels, (None, "true"), ("photos", "fraction of the label's photos"), strict=True
        ):
            counts = confusion_matrix(class_ids, predicted, labels=range(len(labels)), normalize=normalize)
            display = ConfusionMatrixDisplay(counts, display_labels=labels)
            display.plot(
                ax=axes,
                cmap="Blues",
                xticks_rotation="vertical",
                include_values=is_numbered,
                values_format=".2f" if normalize else "d",
                text_kw={"fontsize": 8},
                im_kw={"vmin": 0},
                colorbar=not is_numbered,
            )
            axes.set_title(title)
            for text in (*axes.get_xticklabels(), *axes.get_yticklabels()):
                text.set_parse_math(False)  # a label may have dollar signs

    return draw_chart(draw, 2 * (side + 1), side)


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
