import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darkroom.pipeline.text import neutralize_formula, quote_url, visible_line


class TestVisibleLine:
    @pytest.mark.parametrize(
        ("text", "line"),
        [
            ("two\nlines\r\n", "two lines"),
            ("tab\tand\u2028more\x85here", "tab and more here"),
            ("nul \x00 bell \x07 end", "nul bell end"),
            ("\x1b[2J\x1b[31mred", "[2J[31mred"),
            ("\u202egnp.exe\u202c", "gnp.exe"),
            ("left\u200e \u2066right\u2069", "left right"),
            ("soft\u00adhyphen, byte order\ufeffmark, tag\U000e0041", "softhyphen, byte ordermark, tag"),
            ("half \ud800 a pair", "half ? a pair"),
            ("Zoë 日本 O'Neil", "Zoë 日本 O'Neil"),
            ("می\u200cخواهم", "می\u200cخواهم"),
            ("👩\u200d💻", "👩\u200d💻"),
            ("\u202e", ""),
        ],
        ids=ascii,
    )
    def test_only_what_is_visible_stays(self, text: str, line: str) -> None:
        assert visible_line(text) == line

    def test_a_long_one_is_cut(self) -> None:
        assert visible_line("x" * 10, 10) == "x" * 10
        assert visible_line("x" * 11, 10) == "x" * 9 + "…"

    @given(text=st.text(st.characters()))
    def test_any_text_becomes_one_line_that_can_be_written(self, text: str) -> None:
        line = visible_line(text, 50)
        assert len(line) <= 50
        line.encode()
        assert line.splitlines() in ([], [line])
        assert line == line.strip()
        assert not [char for char in line if unicodedata.category(char) in ("Cc", "Cf") and char not in "\u200c\u200d"]
        assert visible_line(line, 50) == line


class TestFormulas:
    @pytest.mark.parametrize("cell", ["=1+1", "+1", "-=DJ=-", "@SUM(A1)", "\t=1", "\r=1", "＝1", "－1"])  # noqa: RUF001
    def test_a_cell_that_a_spreadsheet_would_run_gets_an_apostrophe(self, cell: str) -> None:
        assert neutralize_formula(cell) == f"'{cell}"

    @pytest.mark.parametrize("cell", ["", "A. Person", "a=b", "'quoted'", "日本", "7", "https://example.org/?a=b"])
    def test_others_stay(self, cell: str) -> None:
        assert neutralize_formula(cell) == cell


class TestQuoteUrl:
    def test_the_given_characters_and_invisible_ones_are_quoted(self) -> None:
        url = "https://example.org/a(b)%20c d\\\u202e\x07ü?e=1&f=[2]#~g"
        assert quote_url(url, "()\\") == "https://example.org/a%28b%29%20c%20d%5C%E2%80%AE%07ü?e=1&f=[2]#~g"
