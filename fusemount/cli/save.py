"""`imgmount save IMAGE...`: writes images of the store as one archive or layout, as `docker save`
does."""

from __future__ import annotations

import sys

from fusemount.cli.arguments import Parser, open_store, platform_of
from fusemount.errors import UsageError

FORMS = ("docker-archive", "oci-archive", "oci")


def parser() -> Parser:
    p = Parser("save", "Write images of the store as one archive or OCI layout.")
    p.add_argument("image", nargs="+", help="NAME:TAG; NAME: all its tags; an ID: without a name")
    p.add_argument("-o", "--output", metavar="FILE",
                   help="FILE, or oci:DIR, oci-archive:FILE; default standard output")  # fmt: skip
    p.add_argument("--format", choices=FORMS,
                   help="default docker-archive, as docker writes it; oci-archive keeps manifests "
                        "and compression, and docker loads it too")  # fmt: skip
    p.add_argument("--platform", metavar="OS/ARCH[/VARIANT]", help="which variant, of several")
    p.add_argument("-q", "--quiet", action="store_true", help="show no progress")
    return p


def run(argv: list[str]) -> int:
    args = parser().parse_args(argv)

    from fusemount.cli.transfers import shown_transfers
    from fusemount.sources.writing import Target, parse_target
    from fusemount.transfer.save import chosen, save, save_stream

    output, form = args.output or "-", args.format
    if output == "-":
        form = form or FORMS[0]
        if form == "oci":
            raise UsageError("save: a layout is a directory: name it with -o")
        if sys.stdout.isatty():
            raise UsageError("save: an archive is no text for a terminal: use -o FILE, or redirect")
    elif not output.startswith(tuple(f"{each}:" for each in FORMS)):
        form = form or FORMS[0]
    platform = platform_of(args.platform)
    target: Target | None = None if output == "-" else parse_target(output, form)
    store = open_store()
    images = chosen(store, args.image, platform)
    with shown_transfers(quiet=args.quiet or not sys.stderr.isatty()) as progress:
        if target is not None:
            save(store, images, target, progress)
        else:
            sys.stdout.flush()
            save_stream(store, images, form, sys.stdout.fileno(), progress)
    return 0
