"""`imgmount diff MOUNTPOINT|UPPER`, `imgmount diff IMAGE IMAGE`: prints the paths that were added,
changed and deleted (A, C, D)."""

from __future__ import annotations

import json
import os
import re
import sys
from contextlib import ExitStack

from fusemount.cli.arguments import (
    Parser,
    add_changed,
    asked_of,
    reference_of,
    warn,
)
from fusemount.cli.environment import directories
from fusemount.errors import UsageError
from fusemount.escape import printable

_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")


def parser() -> Parser:
    p = Parser("diff", "Print what was changed, a path a line: A added, C changed, D deleted.",
               "imgmount diff [OPTIONS] MOUNTPOINT|UPPER\n"
               "       imgmount diff [OPTIONS] IMAGE IMAGE")  # fmt: skip
    add_changed(p)
    p.add_argument("other", nargs="?", metavar="IMAGE",
                   help="the first is an image too, the older of the two")  # fmt: skip
    p.add_argument("--json", action="store_true", help="as a JSON array, every name exactly")
    return p


def run(argv: list[str]) -> int:
    args = parser().parse_args(argv)

    from fusemount.capture.changed import open_changed
    from fusemount.cli.bars import terminal_progress
    from fusemount.rootfs.changes import shown

    progress = terminal_progress()
    if args.other is not None:
        if args.base:
            raise UsageError("--base: of two images neither has another one below it")
        from fusemount.capture.diffimages import diff_images

        first, second = reference_of(str(args.path)), reference_of(args.other)
        changes = diff_images(first, second, asked_of(args), directories(), progress)
    else:
        with ExitStack() as stack:
            changed = open_changed(asked_of(args), directories(), progress, warn, stack)
            changes = [(change.kind, change.path) for change in shown(changed.changes)]
    if args.json:
        rows = [{"kind": kind, "path": os.fsdecode(b"/" + path)} for kind, path in changes]
        print(json.dumps(rows, indent=4))
        return 0
    for kind, path in changes:
        if sys.stdout.isatty():
            print(f"{kind} /{printable(os.fsdecode(path))}")
        else:
            sys.stdout.buffer.write(b"%s /%s\n" % (kind.encode(), _line(path)))
    sys.stdout.flush()
    return 0


def _line(path: bytes) -> bytes:
    """For a pipe: the path with control characters escaped, so that it is one line."""
    return _CONTROL.sub(lambda match: b"\\x%02x" % match.group()[0], path)
