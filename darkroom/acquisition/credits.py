"""CREDITS.md: whose photos these are, where each came from and under which licence."""

import re
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

from darkroom.acquisition.sources.opening import SOURCES
from darkroom.pipeline.dataset import PhotoRow

IN_ADDRESS = str.maketrans({" ": "%20", "(": "%28", ")": "%29", "<": "%3C", ">": "%3E"})
MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#|!~])")


def write_credits(photos: Sequence[PhotoRow], permission: str | None) -> str:
    """Write Markdown with a section per source and licence, and in it a line per creator with links to the photos.

    Args:
        photos: what was taken; the order makes no difference.
        permission: what the source granted beyond its terms, as the user recorded it.
    """
    lines = ["# Credits", "", f"{count_photos(photos)}."]
    if permission:
        lines += ["", f"Permission on record: {escape(permission)}"]
    for source, of_source in grouped(photos, lambda row: row.source).items():
        credit_line = SOURCES[source].credit_line or f"Photos from the source `{source}`"
        lines += ["", f"## {escape(source)}", "", credit_line]
        for licence, of_licence in grouped(of_source, lambda row: row.licence).items():
            lines += ["", f"### {escape(licence) or 'licence not known'}", ""]
            for creator, rows in grouped(of_licence, lambda row: (row.creator, row.creator_url)).items():
                lines.append(f"* {link(creator[0] or 'creator not known', creator[1])}: {list_photos(rows)}")
    return "\n".join(lines) + "\n"


def list_photos(rows: Sequence[PhotoRow]) -> str:
    """Link each photo that has a page of its own; photos that share a page, or have none, are counted."""
    parts = []
    for page, on_page in grouped(rows, lambda row: row.page_url).items():
        if page and len(on_page) == 1:
            parts.append(link(on_page[0].photo, page))
        else:
            parts.append(link(count_photos(on_page), page))
    return ", ".join(parts)


def count_photos(rows: Sequence[PhotoRow]) -> str:
    return "1 photo" if len(rows) == 1 else f"{len(rows)} photos"


def grouped(rows: Sequence[PhotoRow], key: Callable[[PhotoRow], Any]) -> dict[Any, list[PhotoRow]]:
    """Put rows with the same key together; keys and rows are sorted."""
    ordered = sorted(rows, key=lambda row: (key(row), row))
    return {value: list(group) for value, group in groupby(ordered, key)}


def link(text: str, address: str) -> str:
    """A Markdown link, or the text alone where there is no address."""
    if not address.startswith(("https://", "http://")):
        return escape(text)
    return f"[{escape(text)}]({address.translate(IN_ADDRESS)})"


def escape(text: str) -> str:
    """Keep Markdown from reading a name as anything but a name."""
    return MARKDOWN.sub(r"\\\1", " ".join(text.split()))
