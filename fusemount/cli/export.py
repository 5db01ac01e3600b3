"""`imgmount export MOUNTPOINT|UPPER|IMAGE [-o FILE]`: writes the whole root file system as one
tar."""

from __future__ import annotations

import sys
from pathlib import Path

from fusemount.cli.arguments import (
    Parser,
    add_changed,
    asked_of,
    reference_of,
    warn,
)
from fusemount.cli.environment import directories
from fusemount.errors import UsageError


def parser() -> Parser:
    p = Parser("export", "Write all that a mount, an upper or an image shows as one tar.")
    add_changed(p)
    p.add_argument("-o", "--output", metavar="FILE", type=Path, help="instead of standard output")
    return p


def run(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    if args.output is None and sys.stdout.isatty():
        raise UsageError("a tar is not for a terminal: -o FILE, or redirect it")

    from fusemount.capture.exportroot import export_changed, export_image, is_mount_or_upper
    from fusemount.cli.bars import terminal_progress
    from fusemount.sources.output import PlainOutput

    asked, progress = asked_of(args), terminal_progress()
    if is_mount_or_upper(args.path):
        pieces = export_changed(asked, directories(), progress, warn)
    else:
        if args.base:
            raise UsageError("--base: an image has no other one below it")
        reference = reference_of(str(args.path))
        pieces = export_image(reference, asked, directories(), progress, warn)
    if args.output is None:
        for piece in pieces:
            sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
        return 0
    with PlainOutput(args.output) as out:
        for piece in pieces:
            out.write(piece)
    return 0
