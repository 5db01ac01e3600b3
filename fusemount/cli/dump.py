"""`imgmount dump IMAGE [PATH]`: prints the tree as text, one line for each inode; needs no FUSE."""

from __future__ import annotations

import os
import sys

from fusemount.cli.arguments import (
    Parser,
    add_image,
    image_options_of,
    reference_of,
)
from fusemount.cli.environment import directories
from fusemount.errors import UsageError


def parser() -> Parser:
    p = Parser("dump", "Print every inode of an image, a line each, sorted by path.")
    add_image(p)
    p.add_argument("path", nargs="?", default="/", help="a file or directory in the image")
    p.add_argument("--digest", action="store_true", help="add the sha256 of each file's contents")
    p.add_argument("--upper", metavar="DIR", help="with the changes that are kept there")
    p.add_argument("--layer", type=int, metavar="N", help="a layer's own members, bottom is 0")
    p.add_argument(
        "--points",
        action="store_true",
        help="with --layer: where reading its blob can begin, and what is decompressed",
    )
    p.add_argument("--symlink-parents", choices=("follow", "replace"), default="replace")
    return p


def run(argv: list[str]) -> int:
    args = parser().parse_args(argv)

    from fusemount.capture.dumpimage import dump_image, dump_layer, dump_points
    from fusemount.cli.bars import terminal_progress

    image = (reference_of(args.image), image_options_of(args), directories(), terminal_progress())
    if args.points:
        if args.layer is None:
            raise UsageError("--points needs --layer N")
        lines = dump_points(*image, args.layer)
    elif args.layer is not None:
        lines = dump_layer(*image, args.layer)
    else:
        lines = dump_image(
            *image,
            path=os.fsencode(args.path),
            digest=args.digest,
            upper=args.upper,
            follow_symlink_parents=args.symlink_parents == "follow",
        )
    for line in lines:
        sys.stdout.buffer.write(line if line.endswith(b"\n") else line + b"\n")
    sys.stdout.buffer.flush()
    return 0
