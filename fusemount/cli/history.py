"""`imgmount history IMAGE`: prints the steps of an image's build, newest first."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from fusemount.cli.ages import age, human_size, local_time
from fusemount.cli.arguments import (
    Parser,
    add_image,
    image_options_of,
    reference_of,
)
from fusemount.cli.environment import directories

if TYPE_CHECKING:
    from fusemount.image import HistoryRow

_CREATED_BY_COLUMNS = 45  # docker's


_HEADS = {
    "ID": "IMAGE",
    "CreatedSince": "CREATED",
    "CreatedAt": "CREATED AT",
    "CreatedBy": "CREATED BY",
    "Size": "SIZE",
    "Comment": "COMMENT",
}
_COLUMNS = ("ID", "CreatedSince", "CreatedBy", "Size", "Comment")


def parser() -> Parser:
    p = Parser("history", "Print how an image was built, newest step first.")
    add_image(p)
    p.add_argument("--format", metavar="TEMPLATE", help="a Go template for each step")
    p.add_argument("--json", action="store_true", help="a JSON array")
    p.add_argument("--no-trunc", action="store_true", help="do not shorten the commands")
    p.add_argument("-q", "--quiet", action="store_true", help="the image IDs alone")
    p.add_argument(
        "-H", "--human", choices=("true", "false"), default="true", help="ages and short sizes"
    )
    return p


def run(argv: list[str]) -> int:
    args = parser().parse_args(argv)

    from fusemount.cli.bars import terminal_progress
    from fusemount.cli.tables import print_rows, template_of
    from fusemount.image import history_rows
    from fusemount.sources import open_image
    from fusemount.sources.stored import kept_layers

    with open_image(
        reference_of(args.image), image_options_of(args), directories(), terminal_progress()
    ) as image:
        rows = history_rows(image.described(), kept_layers(image))
        image_id = image.image_id or "<none>"
    if args.json:
        print(json.dumps([asdict(row) for row in rows], indent=4))
        return 0
    # Only the last step of the build has an ID: the image's. Docker prints `<missing>` for others.
    shown_id = image_id if args.no_trunc else image_id.removeprefix("sha256:")[:12]
    ids = [shown_id if i == 0 else "<missing>" for i in range(len(rows))]
    columns = [c.replace("Since", "At") if args.human == "false" else c for c in _COLUMNS]
    fields = [
        _fields(ident, row, human=args.human == "true", no_trunc=args.no_trunc)
        for ident, row in zip(ids, rows, strict=True)
    ]
    print_rows(fields, _HEADS, template_of(args.format, columns, quiet=args.quiet))
    return 0


def _fields(ident: str, row: HistoryRow, *, human: bool, no_trunc: bool) -> dict[str, str]:
    return {
        "ID": ident,
        "CreatedSince": age(row.created, datetime.now(UTC)) if human else local_time(row.created),
        "CreatedAt": local_time(row.created),
        "CreatedBy": row.created_by if no_trunc else _shortened(row.created_by),
        "Size": human_size(row.size) if human else str(row.size),
        "Comment": row.comment,
    }


def _shortened(text: str) -> str:
    return text if len(text) <= _CREATED_BY_COLUMNS else text[: _CREATED_BY_COLUMNS - 1] + "…"
