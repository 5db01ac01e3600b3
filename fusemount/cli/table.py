"""Law: columns for a terminal, three spaces apart, as docker prints them."""

from __future__ import annotations

from collections.abc import Sequence

from fusemount.escape import printable


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """No trailing spaces; unprintable characters are escaped, so that a cell is one line."""
    cells = [list(heads), *([printable(cell) for cell in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(heads))]
    lines = (
        "   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in cells
    )
    return "\n".join(line.rstrip() for line in lines)


def docker_table(rows: Sequence[Sequence[str]]) -> str:
    """As docker aligns (text/tabwriter): a column takes ten characters at least, three of them
    blank; rows may differ in length."""
    cells = [[printable(cell) for cell in row] for row in rows]
    widths = [
        max(10, 3 + max(len(row[i]) for row in cells if i < len(row)))
        for i in range(max(map(len, cells)))
    ]
    lines = ("".join(map(str.ljust, row, widths)) for row in cells)
    return "\n".join(line.rstrip() for line in lines)
