"""`imgmount diff MOUNTPOINT|UPPER`: what was added (A), changed (C) and deleted (D)."""

from __future__ import annotations

import json
import os
import re
import sys
from contextlib import ExitStack
from pathlib import Path

from fusemount.cli.arguments import (
    Parser,
    add_image_flags,
    directories,
    image_options_of,
    reference_of,
)

_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")


def parser() -> Parser:
    p = Parser("diff", "Print what was changed, a path a line: A added, C changed, D deleted.")
    p.add_argument("place", metavar="MOUNTPOINT|UPPER", type=Path)
    p.add_argument("--base", metavar="IMAGE", help="the image below, where none is recorded")
    p.add_argument("--json", action="store_true", help="as a JSON array, every name exactly")
    add_image_flags(p)
    return p


def warn(message: str) -> None:
    from fusemount.cli.table import printable

    sys.stderr.write(f"imgmount: warning: {printable(message)}\n")


def run(argv: list[str]) -> int:
    args = parser().parse_args(argv)

    from fusemount.cli.progress import terminal_progress
    from fusemount.daemon.changed import open_changed
    from fusemount.rootfs.changes import shown

    base = reference_of(args.base) if args.base else None
    with ExitStack() as stack:
        changed = open_changed(
            args.place, base, image_options_of(args), directories(), terminal_progress(), warn,
            stack,
        )  # fmt: skip
        changes = shown(changed.changes)
    if args.json:
        rows = [{"kind": c.kind, "path": os.fsdecode(b"/" + c.path)} for c in changes]
        print(json.dumps(rows, indent=4))
        return 0
    for change in changes:
        sys.stdout.buffer.write(b"%s /%s\n" % (change.kind.encode(), _line(change.path)))
    sys.stdout.buffer.flush()
    return 0


def _line(path: bytes) -> bytes:
    """As it is, save that it stays one line and cannot drive a terminal."""
    return _CONTROL.sub(lambda match: b"\\x%02x" % match.group()[0], path)
