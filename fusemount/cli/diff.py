"""`imgmount diff MOUNTPOINT|UPPER`: what was added (A), changed (C) and deleted (D)."""

from __future__ import annotations

import json
import os
import re
import sys
from contextlib import ExitStack

from fusemount.cli.arguments import Parser, add_changed, asked_of, directories, warn

_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")


def parser() -> Parser:
    p = Parser("diff", "Print what was changed, a path a line: A added, C changed, D deleted.")
    add_changed(p)
    p.add_argument("--json", action="store_true", help="as a JSON array, every name exactly")
    return p


def run(argv: list[str]) -> int:
    args = parser().parse_args(argv)

    from fusemount.cli.progress import terminal_progress
    from fusemount.daemon.changed import open_changed
    from fusemount.rootfs.changes import shown

    with ExitStack() as stack:
        progress = terminal_progress()
        changed = open_changed(asked_of(args), directories(), progress, warn, stack)
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
