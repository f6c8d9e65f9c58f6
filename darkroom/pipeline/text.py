"""Text from elsewhere, made safe to show in a line, a terminal or a spreadsheet."""

import unicodedata
from collections.abc import Collection
from urllib.parse import quote

# Control and format characters: they move the cursor, hide text or reverse its direction.
INVISIBLE_CATEGORIES = ("Cc", "Cf")
# Format characters that are a part of words in Persian and Indian scripts, and of emoji.
JOINERS = "\u200c\u200d"
# A spreadsheet takes a cell that begins with one of these for a formula, which may run a program or send data.
FORMULA_STARTS = tuple("=+-@\t\r＝＋－＠")  # noqa: RUF001 - the wide forms count too


def visible_line(text: str, limit: int | None = None) -> str:
    """Return text on one line, without invisible characters and at most `limit` characters long."""
    # Half a surrogate pair, which JSON may contain, cannot be written to a file.
    words = map(remove_invisible, text.encode(errors="replace").decode().split())
    line = " ".join(word for word in words if word)
    return line if limit is None or len(line) <= limit else f"{line[: limit - 1]}…"


def remove_invisible(text: str) -> str:
    return "".join(char for char in text if char in JOINERS or not is_invisible(char))


def is_invisible(char: str) -> bool:
    # Not str.isprintable: whether it knows a new emoji depends on the version of Python.
    return unicodedata.category(char) in INVISIBLE_CATEGORIES


def quote_url(url: str, characters: Collection[str]) -> str:
    """Quote `characters`, white space and invisible characters of a URL; what is quoted already stays as it is."""
    return "".join(
        quote(char, safe="", errors="replace") if char in characters or char.isspace() or is_invisible(char) else char
        for char in url
    )


def neutralize_formula(cell: str) -> str:
    """Put an apostrophe before a cell that a spreadsheet would take for a formula, so that it is shown as text.

    Only for text that is displayed: a reader of the table gets the apostrophe too.
    """
    return f"'{cell}" if cell.startswith(FORMULA_STARTS) else cell
