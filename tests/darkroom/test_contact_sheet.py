import io

import numpy as np
import pytest
from PIL import Image, ImageFont

from darkroom.contact_sheet import (
    CAPTION_HEIGHT,
    FONT,
    GAP,
    LARGEST_SIDE,
    LEAST_SHEET,
    MARGIN,
    SheetRow,
    choose_examples,
    draw_contact_sheet,
    scale_image,
    shorten_line,
)
from darkroom.pipeline.arrays import Pixels
from tests.examples import noise

RED, GREEN = (255, 0, 0), (0, 255, 0)


def read_sheet(content: bytes) -> Pixels:
    image = Image.open(io.BytesIO(content))
    assert (image.format, image.mode) == ("PNG", "RGB")
    return np.asarray(image)


def filled(color: tuple[int, int, int], height: int = 100, width: int = 100) -> Pixels:
    return np.full((height, width, 3), color, np.uint8)


def find_color(sheet: Pixels, color: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """The box around all pixels of a color: left, top, right, bottom; all pixels in it must have the color."""
    y, x = np.nonzero((sheet == color).all(axis=2))
    box = (x.min(), y.min(), x.max() + 1, y.max() + 1)
    assert len(x) == (box[2] - box[0]) * (box[3] - box[1])
    return tuple(int(side) for side in box)


class TestSheet:
    def test_images_are_side_by_side_and_the_rest_below(self) -> None:
        blue = (0, 0, 255)
        row = SheetRow("a photo", [filled(RED), filled(GREEN), filled(blue)], ["red", "green", "blue"])
        sheet = read_sheet(draw_contact_sheet([row], columns=2))
        red, green, below = (find_color(sheet, color) for color in (RED, GREEN, blue))
        assert red[1] == green[1]
        assert green[0] >= red[2]
        assert below[0] == red[0]
        assert below[1] >= red[3]
        for box in (red, green, below):
            assert (box[2] - box[0], box[3] - box[1]) == (100, 100)

    def test_rows_are_below_one_another_and_have_titles(self) -> None:
        rows = [SheetRow("one", [filled(RED)], ["first"]), SheetRow("two", [filled(GREEN)], ["second"])]
        sheet = read_sheet(draw_contact_sheet(rows, columns=5))
        assert find_color(sheet, GREEN)[1] > find_color(sheet, RED)[3]
        plain = read_sheet(draw_contact_sheet([row._replace(title="") for row in rows], columns=5))
        assert sheet.shape == plain.shape
        changed = np.nonzero((sheet != plain).any(axis=(1, 2)))[0]
        assert changed.min() < find_color(sheet, RED)[1]
        assert find_color(sheet, RED)[3] < changed.max() < find_color(sheet, GREEN)[1]

    def test_a_row_of_low_images_needs_less_space(self) -> None:
        low, high = SheetRow("low", [filled(RED, 20, 100)], [""]), SheetRow("high", [filled(GREEN)], [""])
        one, both = (read_sheet(draw_contact_sheet(rows, 1)) for rows in ([high], [low, high, low]))
        assert both.shape[0] < 2.5 * one.shape[0]
        assert find_color(both, GREEN)[3] - find_color(both, GREEN)[1] == 100

    def test_the_same_rows_give_the_same_bytes(self) -> None:
        rows = [SheetRow("Ωμέγα Жук", [noise(20, 30), noise(50, 400)], ["one", "two"])]
        assert draw_contact_sheet(rows, 3) == draw_contact_sheet(iter(rows), 3)

    def test_the_file_has_no_metadata(self) -> None:
        content = draw_contact_sheet([SheetRow("a", [filled(RED)], ["b"])], 1)
        assert not Image.open(io.BytesIO(content)).info

    def test_long_titles_and_captions_are_truncated(self) -> None:
        long = "a label that is very long " * 20
        row = SheetRow(long, [filled(RED), filled(GREEN)], [long, long])
        sheet = read_sheet(draw_contact_sheet([row], columns=2))
        short = read_sheet(draw_contact_sheet([SheetRow("", row.images, ["", ""])], columns=2))
        assert sheet.shape == short.shape
        written = np.nonzero((sheet != short).any(axis=2))
        assert written[1].max() < sheet.shape[1] - 10
        red, green = find_color(sheet, RED), find_color(sheet, GREEN)
        captions = sheet[red[3] + 1 :]
        assert (captions[:, red[2] + 2 : green[0] - 2] == 255).all()  # white between the two captions

    def test_a_sheet_without_rows_is_an_empty_page(self) -> None:
        assert (read_sheet(draw_contact_sheet([], 10)) == 255).all()

    def test_a_single_small_image_leaves_room_for_a_title(self) -> None:
        sheet = read_sheet(draw_contact_sheet([SheetRow("x", [filled(RED)], [""])], 10))
        assert sheet.shape[1] == LEAST_SHEET

    def test_a_caption_per_image_is_required(self) -> None:
        with pytest.raises(ValueError, match="zip"):
            draw_contact_sheet([SheetRow("x", [filled(RED)], [])], 1)


class TestCaptions:
    LINES = ("first", "second", "third")

    def draw(self, *captions: str, columns: int = 5, column_width: int = 84) -> Pixels:
        images = [filled(RED), filled(GREEN), filled((0, 0, 255))][: len(captions)]
        return read_sheet(draw_contact_sheet([SheetRow("a title", images, captions)], columns, column_width))

    def test_each_line_is_below_the_previous_one(self) -> None:
        sheet = self.draw("\n".join(self.LINES))
        bottom = find_color(sheet, RED)[3]
        drawn = []
        for removed in range(3):
            other = self.draw("\n".join("" if number == removed else line for number, line in enumerate(self.LINES)))
            assert other.shape == sheet.shape
            y, _ = np.nonzero((sheet != other).any(axis=2))
            drawn.append((int(y.min()), int(y.max())))
        assert bottom < drawn[0][0]
        assert drawn[0][1] < drawn[1][0]
        assert drawn[1][1] < drawn[2][0]
        assert drawn[2][1] < sheet.shape[0] - MARGIN

    @pytest.mark.parametrize("lines", [2, 3, 6])
    def test_each_line_increases_the_height(self, lines: int) -> None:
        one, more = self.draw("x"), self.draw("\n".join("x" * lines))
        assert more.shape == (one.shape[0] + (lines - 1) * CAPTION_HEIGHT, *one.shape[1:])

    def test_the_longest_caption_determines_the_height_of_each_line_of_images(self) -> None:
        uneven, one = self.draw("x", "x\nx\nx", "x", columns=2), self.draw("x", "x", "x", columns=2)
        assert uneven.shape[0] == one.shape[0] + 2 * 2 * CAPTION_HEIGHT
        red, green, below = (find_color(uneven, color) for color in (RED, GREEN, (0, 0, 255)))
        assert red[1] == green[1]
        assert below[1] - red[1] == find_color(one, (0, 0, 255))[1] - red[1] + 2 * CAPTION_HEIGHT

    def test_the_heights_of_other_rows_do_not_change(self) -> None:
        rows = [SheetRow("one", [filled(RED)], ["x"]), SheetRow("two", [filled(GREEN)], ["x"])]
        plain = read_sheet(draw_contact_sheet(rows, 1))
        long = read_sheet(draw_contact_sheet([rows[0], rows[1]._replace(captions=["x\nx\nx"])], 1))
        assert long.shape[0] == plain.shape[0] + 2 * CAPTION_HEIGHT
        assert find_color(long, GREEN) == find_color(plain, GREEN)
        first = read_sheet(draw_contact_sheet([rows[0]._replace(captions=["x\nx\nx"]), rows[1]], 1))
        assert find_color(first, RED) == find_color(plain, RED)
        assert find_color(first, GREEN)[1] == find_color(plain, GREEN)[1] + 2 * CAPTION_HEIGHT

    @pytest.mark.parametrize("width", [150, 200, 400])
    def test_columns_have_the_given_width(self, width: int) -> None:
        sheet = self.draw("x", "x", "x", column_width=width)
        red, green = find_color(sheet, RED), find_color(sheet, GREEN)
        assert green[0] - red[0] == width + GAP
        assert sheet.shape[1] == max(LEAST_SHEET, 2 * MARGIN + 3 * width + 2 * GAP)

    def test_no_column_is_narrower_than_an_image(self) -> None:
        assert (self.draw("x", "x", column_width=20) == self.draw("x", "x", column_width=100)).all()

    def test_a_wider_column_shows_more_of_a_long_caption(self) -> None:
        long = "a label that is much longer than a column"
        narrow, wide = (self.draw(f"{long}\n{long}", "", column_width=width) for width in (100, 250))
        for sheet, width in ((narrow, 100), (wide, 250)):
            red = find_color(sheet, RED)
            captions = sheet[red[3] + 1 :, :, :]
            _, x = np.nonzero((captions != 255).any(axis=2))
            assert red[0] + 0.8 * width < x.max() <= red[0] + width


class TestScaling:
    @pytest.mark.parametrize(
        ("size", "shown"),
        [
            ((16, 16), (96, 96)),
            ((28, 28), (84, 84)),
            ((1, 1), (96, 96)),
            ((100, 100), (100, 100)),
            ((160, 160), (160, 160)),
            ((4096, 2048), (160, 80)),
            ((100, 400), (40, 160)),
            ((1, 4096), (1, 160)),
        ],
    )
    @pytest.mark.parametrize("channels", [1, 3])
    def test_the_size_in_which_an_image_is_shown(
        self, size: tuple[int, int], shown: tuple[int, int], channels: int
    ) -> None:
        image = scale_image(np.zeros((*size, channels), np.uint8))
        assert (image.height, image.width, image.mode) == (*shown, "RGB")
        assert max(image.size) <= LARGEST_SIDE

    def test_each_pixel_of_a_small_image_becomes_a_square(self) -> None:
        pixels = noise(16, 16)
        np.testing.assert_array_equal(np.asarray(scale_image(pixels)), pixels.repeat(6, axis=0).repeat(6, axis=1))

    def test_gray_stays_gray(self) -> None:
        pixels = noise(100, 100, 1)
        np.testing.assert_array_equal(np.asarray(scale_image(pixels)), pixels.repeat(3, axis=2))


class TestShortening:
    @pytest.mark.parametrize("width", [0, 5, 20, 60, 200])
    def test_a_shortened_line_fits(self, width: int) -> None:
        font = ImageFont.truetype(FONT, 11)
        line = shorten_line("a label that is very long, much longer than the given width", font, width)
        assert line.endswith("…")
        assert line == "…" or font.getlength(line) <= width

    def test_a_line_that_fits_is_not_changed(self) -> None:
        assert shorten_line("short", ImageFont.truetype(FONT, 11), 200) == "short"

    def test_lines_are_joined(self) -> None:
        assert shorten_line(" two\nlines\t", ImageFont.truetype(FONT, 11), 200) == "two lines"

    @pytest.mark.parametrize("text", ["Größe", "Ωμέγα", "Жук", "naïve – ½"])
    def test_the_font_has_the_letters_of_european_scripts(self, text: str) -> None:
        font = ImageFont.truetype(FONT, 20)
        missing = font.getmask("\U0010ffff").getbbox(), bytes(font.getmask("\U0010ffff"))
        for letter in text.replace(" ", ""):
            assert (font.getmask(letter).getbbox(), bytes(font.getmask(letter))) != missing


class TestExamples:
    @pytest.mark.parametrize(
        ("labels", "count", "chosen"),
        [
            (["a", "a", "b", "b", "c"], 3, [0, 2, 4]),
            (["a", "a", "b", "b", "c"], 4, [0, 1, 2, 4]),
            (["a", "a", "b", "b", "c"], 9, [0, 1, 2, 3, 4]),
            (["b", "a", "c", "d"], 2, [0, 1]),
            (["a", "a", "a"], 2, [0, 1]),
            ([], 6, []),
            (["a"], 0, []),
        ],
    )
    def test_all_labels_in_turn(self, labels: list[str], count: int, chosen: list[int]) -> None:
        assert choose_examples(labels, count) == chosen
