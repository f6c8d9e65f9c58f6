"""Tables as aligned text."""

from collections.abc import Sequence


def align(table: Sequence[Sequence[str]]) -> str:
    """Format rows of cells: the first column aligned left, all others right."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in table
    )
