"""`imgmount import FILE|- [NAME[:TAG]]`: makes an image in the store from a root file system's
tar."""

from __future__ import annotations

import sys
import time

from fusemount.cli.arguments import (
    Parser,
    add_history_flags,
    add_unpack_flag,
    open_store,
    platform_of,
)
from fusemount.cli.environment import default_domain, source_date_epoch
from fusemount.errors import UsageError


def parser() -> Parser:
    p = Parser("import", "Make an image of one layer from a root file system's tar; print its ID.")
    p.add_argument("file", metavar="FILE|-", help="compressed or not; - is standard input")
    p.add_argument("name", nargs="?", metavar="NAME[:TAG]")
    add_history_flags(p)
    p.add_argument("--platform", metavar="OS/ARCH[/VARIANT]", help="what it is for")
    p.add_argument("-q", "--quiet", action="store_true", help="print the ID alone")
    add_unpack_flag(p)
    return p


def run(argv: list[str]) -> int:
    args = parser().parse_args(argv)

    from fusemount.cli.transfers import shown_transfers
    from fusemount.imagename import parse_name
    from fusemount.layer import BlobFile
    from fusemount.transfer.importing import ImportOptions, import_tar

    epoch = source_date_epoch()
    options = ImportOptions(
        created_ns=time.time_ns() if epoch is None else epoch * 10**9,
        changes=tuple(args.change),
        message=args.message,
        platform=platform_of(args.platform),
    )
    name = parse_name(args.name, default_domain()) if args.name else None
    if name is not None and name.digest is not None:
        raise UsageError(f"{args.name}: what is made gets a tag, its digest is what it is")
    if args.file == "-":
        source = sys.stdin.buffer
    else:
        file = BlobFile(args.file)
        source = open(file.fd, "rb", buffering=0, closefd=False)
    store = open_store(create=True, max_unpacked=args.max_unpacked)
    with shown_transfers(quiet=True) as progress:
        what = "standard input" if args.file == "-" else args.file
        image = import_tar(store, source.read, what, name, options, progress)
    print(image.image_id)
    return 0
