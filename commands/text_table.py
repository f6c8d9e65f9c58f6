"""Tables for people, as text."""

from collections.abc import Sequence


def align(table: Sequence[Sequence[str]]) -> str:
    """Lay out rows of cells: the first column to the left, all others to the right."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in table
    )
