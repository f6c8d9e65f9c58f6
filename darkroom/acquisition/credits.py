"""CREDITS.md: creator, source and license of every photo."""

import re
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

from darkroom.acquisition.sources.opening import SOURCES
from darkroom.pipeline.dataset import PhotoRow
from darkroom.pipeline.text import quote_url, visible_line

UNSAFE_IN_LINKS = "()<>\\"
MARKDOWN_CHARACTERS = re.compile(r"([\\`*_{}\[\]<>#|!~&$])")
LIST_MARKER = re.compile(r"^(\d*)([-+.)])")  # a name may be the first text of a line


def write_credits(photos: Sequence[PhotoRow], permission: str | None) -> str:
    """Return Markdown with a section per source and license, and in it a line per creator with links to the photos.

    Args:
        photos: the selected photos, in any order.
        permission: what the source granted beyond its terms, as recorded by the user.
    """
    lines = ["# Credits", "", f"{format_photo_count(photos)}."]
    if permission:
        lines += ["", f"Permission on record: {escape_markdown(permission)}"]
    for source, of_source in group_rows(photos, lambda row: row.source).items():
        credit_line = SOURCES[source].credit_line or f"Photos from the source `{source}`"
        lines += ["", f"## {escape_markdown(source)}", "", credit_line]
        for license, of_license in group_rows(of_source, lambda row: row.license).items():
            lines += ["", f"### {escape_markdown(license) or 'license not known'}", ""]
            for creator, rows in group_rows(of_license, lambda row: (row.creator, row.creator_url)).items():
                lines.append(f"* {markdown_link(creator[0] or 'creator not known', creator[1])}: {link_photos(rows)}")
    return "\n".join(lines) + "\n"


def link_photos(rows: Sequence[PhotoRow]) -> str:
    """Link each photo that has its own page; photos that share a page, or have none, are counted."""
    parts = []
    for page, on_page in group_rows(rows, lambda row: row.page_url).items():
        if page and len(on_page) == 1:
            parts.append(markdown_link(on_page[0].photo, page))
        else:
            parts.append(markdown_link(format_photo_count(on_page), page))
    return ", ".join(parts)


def format_photo_count(rows: Sequence[PhotoRow]) -> str:
    return "1 photo" if len(rows) == 1 else f"{len(rows)} photos"


def group_rows(rows: Sequence[PhotoRow], key: Callable[[PhotoRow], Any]) -> dict[Any, list[PhotoRow]]:
    """Group rows by key; keys and rows are sorted."""
    ordered = sorted(rows, key=lambda row: (key(row), row))
    return {value: list(group) for value, group in groupby(ordered, key)}


def markdown_link(text: str, url: str) -> str:
    """Return a Markdown link, or the text alone if there is no web URL."""
    if not url.startswith(("https://", "http://")):
        return escape_markdown(text)
    return f"[{escape_markdown(text)}]({quote_url(url, UNSAFE_IN_LINKS)})"


def escape_markdown(text: str) -> str:
    """Escape a name so that Markdown shows it unchanged."""
    escaped = MARKDOWN_CHARACTERS.sub(r"\\\1", visible_line(text))
    return LIST_MARKER.sub(r"\1\\\2", escaped)
