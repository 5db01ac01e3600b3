"""`imgmount history IMAGE`: the steps of its build, newest first."""

from __future__ import annotations

import json
from dataclasses import asdict

from fusemount.cli.arguments import (
    Parser,
    add_image,
    directories,
    image_options_of,
    reference_of,
)
from fusemount.cli.table import table

_CREATED_BY_COLUMNS = 45  # docker's


def parser() -> Parser:
    p = Parser("history", "Print how an image was built, newest step first.")
    add_image(p)
    p.add_argument("--json", action="store_true", help="a JSON array")
    p.add_argument("--no-trunc", action="store_true", help="do not shorten the commands")
    p.add_argument("-q", "--quiet", action="store_true", help="the commands alone")
    return p


def run(argv: list[str]) -> int:
    args = parser().parse_args(argv)

    from fusemount.cli.progress import terminal_progress
    from fusemount.image import history_rows
    from fusemount.sources import open_image

    with open_image(
        reference_of(args.image), image_options_of(args), directories(), terminal_progress()
    ) as image:
        rows = history_rows(image)
    if args.json:
        print(json.dumps([asdict(row) for row in rows], indent=4))
        return 0
    shortened = [row.created_by if args.no_trunc else _shortened(row.created_by) for row in rows]
    if args.quiet:
        print("\n".join(shortened))
        return 0
    lines = [
        (row.created, command, human_size(row.size), row.comment)
        for row, command in zip(rows, shortened, strict=True)
    ]
    print(table(("CREATED", "CREATED BY", "SIZE", "COMMENT"), lines))
    return 0


def _shortened(text: str) -> str:
    return text if len(text) <= _CREATED_BY_COLUMNS else text[: _CREATED_BY_COLUMNS - 1] + "…"


def human_size(size: int) -> str:
    """Docker's units.HumanSize: powers of 1000, three significant digits."""
    value = float(size)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 999.5 or unit == "TB":
            break
        value /= 1000
    return f"{value:.3g}{unit}"
