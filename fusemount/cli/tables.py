r"""Law: rows of named fields as docker prints them: a table of columns, or a template for each row.

With `table ` before the template the rows are aligned, below the heads that the columns have.
`\t` and `\n` in it are a tab and a line's end (docker's formatter.go).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from fusemount.cli.table import docker_table
from fusemount.cli.template import Template
from fusemount.errors import UsageError

Row = Mapping[str, str]


def shown(rows: Sequence[Row], heads: Mapping[str, str], template: str) -> str:
    """heads: a column's field and what stands above it, all that there are.  Raises UsageError."""
    is_table, text = False, template.strip(" ")
    if text == "json":
        text = "{{json .}}"
    if text.startswith("table"):
        is_table, text = True, text[5:].strip(" ")
    text = text.replace("\\t", "\t").replace("\\n", "\n")
    filled = Template(text)
    for name in filled.fields - heads.keys():  # an error also where there are no rows
        there = ", ".join(f".{each}" for each in heads)
        raise UsageError(f"--format: there is no .{name}, only {there}")
    lines = [filled.fill(dict(sorted(row.items()))) for row in rows]
    if not is_table:
        return "\n".join(lines)
    head = Template(_bare(text)).fill(dict(heads))
    return docker_table([line.split("\t") for line in (head, *lines)])


def _bare(text: str) -> str:
    """A template without functions, for the heads: `{{json .ID}}` is a column ID too."""
    return re.sub(r"\{\{[^}]*?(\.\w+)[^}]*\}\}", r"{{\1}}", text)


def default_table(names: Sequence[str]) -> str:
    return "table " + "\t".join(f"{{{{.{name}}}}}" for name in names)
