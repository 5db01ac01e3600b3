r"""Prints rows of named fields as docker does: as a table, or with a Go template for each row.

Law: every cell is printable and one line; a line has no trailing blanks.

`table ` before a template makes a table with its columns, below their heads.  `\t` and `\n` in a
template are a tab and a line's end (docker's formatter.go).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from fusemount.cli.template import Template
from fusemount.errors import UsageError
from fusemount.escape import printable

Row = Mapping[str, str]


def is_table(given: str | None) -> bool:
    """given: the value of --format.  True: the verb prints its own columns."""
    return (given or "table") == "table"


def template_of(given: str | None, columns: Sequence[str], *, quiet: bool = False) -> str:
    """The template for --format; without one, a table of `columns`, or the IDs with --quiet."""
    if given and not is_table(given):
        return given
    return "{{.ID}}" if quiet else "table " + "\t".join(f"{{{{.{name}}}}}" for name in columns)


def print_rows(rows: Sequence[Row], heads: Mapping[str, str], template: str) -> None:
    """Prints formatted(); nothing, not even a line's end, if that is empty."""
    text = formatted(rows, heads, template)
    if text:
        print(text)


def formatted(rows: Sequence[Row], heads: Mapping[str, str], template: str) -> str:
    """heads: every field that a row has, and the head of its column.

    Raises UsageError for another field, also if there are no rows.
    """
    in_table, text = False, template.strip(" ")
    if text == "json":
        text = "{{json .}}"
    if text.startswith("table"):
        in_table, text = True, text[5:].strip(" ")
    text = text.replace("\\t", "\t").replace("\\n", "\n")
    filled = Template(text)
    for name in filled.fields - heads.keys():
        there = ", ".join(f".{each}" for each in heads)
        raise UsageError(f"--format: there is no .{name}, only {there}")
    lines = [filled.fill(dict(sorted(row.items()))) for row in rows]
    if not in_table:
        return "\n".join(lines)
    head = Template(_bare(text)).fill(dict(heads))
    return docker_table([line.split("\t") for line in (head, *lines)])


def _bare(text: str) -> str:
    """The template without functions, for the heads: `{{json .ID}}` is a column ID too."""
    return re.sub(r"\{\{[^}]*?(\.\w+)[^}]*\}\}", r"{{\1}}", text)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns that are three blanks apart."""
    cells = [list(heads), *([printable(cell) for cell in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(heads))]
    lines = (
        "   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in cells
    )
    return "\n".join(line.rstrip() for line in lines)


def docker_table(rows: Sequence[Sequence[str]]) -> str:
    """Columns as docker aligns them (text/tabwriter): at least ten characters, three of them blank.

    Rows may differ in length.
    """
    cells = [[printable(cell) for cell in row] for row in rows]
    widths = [
        max(10, 3 + max(len(row[i]) for row in cells if i < len(row)))
        for i in range(max(map(len, cells)))
    ]
    lines = ("".join(map(str.ljust, row, widths)) for row in cells)
    return "\n".join(line.rstrip() for line in lines)
