import io

import matplotlib
import numpy as np
import pytest
from PIL import Image

from darkroom.evaluation.calibration import ConfidenceBin
from darkroom.evaluation.score_charts import (
    LONGEST_LABEL,
    MOST_CLASSES_SHOWN,
    choose_shown,
    draw_confusion,
    draw_reliability,
)
from darkroom.pipeline.arrays import ClassIds, Pixels

pytestmark = pytest.mark.slow

TITLES = ("as trained, calibration error 0.123", "temperature 2.31, error 0.045")
BINS = [ConfidenceBin(0.125, 0, None, None), ConfidenceBin(0.375, 4, 0.4, 0.0)]
SCALED = [ConfidenceBin(0.125, 1, 0.2, 1.0), ConfidenceBin(0.375, 3, 0.3, 1 / 3)]
# A user's settings that would change any chart.
LARGE_AND_DARK = {
    "font.size": 25,
    "figure.facecolor": "black",
    "savefig.facecolor": "black",
    "savefig.pad_inches": 1,
    "axes.grid": True,
    "image.cmap": "hot",
    "axes.prop_cycle": matplotlib.cycler(color=["red"]),
}
LONG = "a label that is very long, {} with $dollars$ and $5"


def read_chart(content: bytes) -> Pixels:
    image = Image.open(io.BytesIO(content))
    assert image.format == "PNG"
    return np.asarray(image.convert("RGB"))


def assert_nothing_is_cut_off(content: bytes) -> None:
    chart, frame = read_chart(content), 4
    inner = chart[frame:-frame, frame:-frame]
    assert (inner != 255).any()
    assert (chart != 255).sum() == (inner != 255).sum()


def draw_labels(labels: list[str]) -> bytes:
    class_ids, predicted = predict_photos(len(labels))
    return draw_confusion(class_ids, predicted, labels)


def predict_photos(classes: int) -> tuple[ClassIds, ClassIds]:
    random = np.random.default_rng(classes)
    class_ids = random.integers(0, classes, 100)
    return class_ids, np.where(random.random(100) < 0.7, class_ids, random.integers(0, classes, 100))


class TestConfusion:
    CLASS_IDS, PREDICTED, LABELS = np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1]), ("cat", "dog")

    @pytest.fixture(scope="class")
    def chart(self) -> bytes:
        return draw_confusion(self.CLASS_IDS, self.PREDICTED, self.LABELS)

    def test_the_same_predictions_give_the_same_bytes(self, chart: bytes) -> None:
        assert draw_confusion(self.CLASS_IDS, self.PREDICTED, self.LABELS) == chart
        assert draw_confusion(self.CLASS_IDS[::-1], self.PREDICTED[::-1], self.LABELS) == chart

    @pytest.mark.parametrize(
        ("class_ids", "predicted", "labels"),
        [
            ([0, 0, 1, 1], [0, 1, 1, 0], LABELS),
            ([0, 1, 1, 1], [0, 0, 1, 1], LABELS),  # the other way round
            ([0, 0, 1, 1], [0, 1, 1, 1], ("cat", "dot")),
        ],
    )
    def test_other_predictions_or_labels_give_another_chart(
        self, chart: bytes, class_ids: list[int], predicted: list[int], labels: list[str]
    ) -> None:
        one = read_chart(chart)
        other = read_chart(draw_confusion(np.array(class_ids), np.array(predicted), labels))
        assert one.shape != other.shape or (one != other).any()

    def test_the_users_settings_do_not_matter(self, chart: bytes) -> None:
        with matplotlib.rc_context(LARGE_AND_DARK):
            assert draw_confusion(self.CLASS_IDS, self.PREDICTED, self.LABELS) == chart
            assert matplotlib.rcParams["font.size"] == 25

    @pytest.mark.parametrize("classes", [2, 11, MOST_CLASSES_SHOWN + 1])
    def test_nothing_is_cut_off(self, classes: int) -> None:
        assert_nothing_is_cut_off(draw_labels([f"a $label$ {number}" for number in range(classes)]))

    @pytest.mark.filterwarnings("ignore")  # see the next test
    @pytest.mark.parametrize("classes", [2, 11, MOST_CLASSES_SHOWN + 1])
    def test_long_labels_are_not_cut_off(self, classes: int) -> None:
        assert_nothing_is_cut_off(draw_labels([LONG.format(number) for number in range(classes)]))

    def test_long_labels_leave_room_for_a_few_cells(self) -> None:
        # Matplotlib warns if a layout does not fit, and pytest turns warnings into errors.
        draw_labels([LONG.format(number) for number in range(2)])

    def test_labels_of_any_script_are_drawn_without_a_warning(self) -> None:
        assert_nothing_is_cut_off(draw_labels(["日本", "cat"]))

    @pytest.mark.parametrize("label", ["$", "$$", r"$\frac{", "a_b^c", "%d {}", "_hidden"])
    def test_a_label_is_never_parsed_as_a_formula(self, label: str) -> None:
        assert_nothing_is_cut_off(draw_labels([label, "cat"]))
        if "$" in label:
            assert draw_labels([label, "cat"]) != draw_labels([label.replace("$", ""), "cat"])

    def test_the_labels_of_the_most_confused_pairs_are_shown_first(self) -> None:
        matrix = np.diag(np.full(1000, 50))
        matrix[700, 20] = 9
        matrix[3, 700] = 8
        matrix[999, 4] = 8  # of a label with fewer photos
        matrix[999, 999] = 2
        shown = choose_shown(matrix, [f"{number:04}" for number in range(1000)])
        assert shown[:5] == [700, 20, 999, 4, 3]
        assert shown[5:8] == [0, 1, 2]
        assert len(set(shown)) == len(shown) == MOST_CLASSES_SHOWN

    def test_few_labels_keep_their_order(self) -> None:
        matrix = np.arange(MOST_CLASSES_SHOWN**2).reshape(MOST_CLASSES_SHOWN, -1)
        assert choose_shown(matrix, [str(number) for number in range(MOST_CLASSES_SHOWN)]) == list(
            range(MOST_CLASSES_SHOWN)
        )

    def test_the_chart_of_a_thousand_labels_is_no_larger_than_that_of_a_few_dozen(self) -> None:
        random = np.random.default_rng(0)
        class_ids, predicted = random.integers(0, 1000, (2, 20_000))
        width, height = Image.open(io.BytesIO(draw_confusion(class_ids, predicted, list(map(str, range(1000)))))).size
        assert width <= 4000
        assert height <= 2000

    def test_a_long_label_keeps_its_beginning_and_end(self) -> None:
        same = "x" * LONGEST_LABEL
        charts = [draw_labels([label, "cat"]) for label in (same, f"{same}x", f"{same}y", f"y{same}")]
        assert len(set(charts)) == len(charts)

    @pytest.mark.filterwarnings("error")
    def test_a_label_without_photos_has_a_row(self, chart: bytes) -> None:
        two = read_chart(chart)
        three = read_chart(draw_confusion(self.CLASS_IDS, self.PREDICTED, [*self.LABELS, "eel"]))
        assert three.shape[0] > two.shape[0]


class TestReliability:
    @pytest.fixture(scope="class")
    def chart(self) -> bytes:
        return draw_reliability(BINS, SCALED, TITLES)

    def test_the_same_bins_give_the_same_bytes_and_others_another_chart(self, chart: bytes) -> None:
        assert draw_reliability(BINS, SCALED, TITLES) == chart
        assert draw_reliability(SCALED, BINS, TITLES) != chart
        assert draw_reliability(BINS, BINS, TITLES) != chart
        assert draw_reliability(BINS, SCALED, TITLES[::-1]) != chart

    def test_the_users_settings_do_not_matter(self, chart: bytes) -> None:
        with matplotlib.rc_context(LARGE_AND_DARK):
            assert draw_reliability(BINS, SCALED, TITLES) == chart

    @pytest.mark.filterwarnings("error")
    @pytest.mark.parametrize("bins", [1, 15, 100])
    def test_nothing_is_cut_off_and_bins_may_be_empty(self, bins: int) -> None:
        rows = [ConfidenceBin((number + 0.5) / bins, 0, None, None) for number in range(bins)]
        rows[-1] = ConfidenceBin(rows[-1].middle, 123_456, 1.0, 1.0)
        assert_nothing_is_cut_off(draw_reliability(rows, rows, TITLES))

    def test_a_bin_without_correct_photos_differs_from_an_empty_bin(self, chart: bytes) -> None:
        empty = [BINS[0], ConfidenceBin(0.375, 0, None, None)]
        upper = slice(0, 350)  # above the numbers of photos
        wrong, without = (read_chart(each)[upper] for each in (chart, draw_reliability(empty, SCALED, TITLES)))
        assert (wrong != without).any()
