"""`imgmount rm NAME...`: removes names, and an image with its last name, as `docker rmi` does."""

from __future__ import annotations

import sys
from contextlib import suppress

from fusemount.cli.arguments import Parser, open_store, warn
from fusemount.errors import ImgmountError


def parser() -> Parser:
    p = Parser("rm", "Take names away, and images with their last name; print what went.")
    p.add_argument("name", nargs="+", metavar="NAME|ID")
    p.add_argument("-f", "--force", action="store_true",
                   help="also what a mount shows, or what has several names")  # fmt: skip
    return p


def run(argv: list[str]) -> int:
    args = parser().parse_args(argv)

    from fusemount.cli.terminal import tell
    from fusemount.store.removal import broken_by, remove_all

    store = open_store()
    for name in args.name if args.force else ():
        with suppress(ImgmountError):  # remove_all() returns the same error
            for line in broken_by(store, name):
                warn(line)
    failed: list[ImgmountError] = []
    for removed in remove_all(store, args.name, force=args.force):
        if isinstance(removed, ImgmountError):  # the other names are removed, as in docker
            failed.append(removed)
            continue
        for text in removed.untagged:
            print(f"Untagged: {text}")
        for digest in removed.deleted:
            print(f"Deleted: {digest}")
    sys.stdout.flush()
    for each in failed[:-1]:
        tell(str(each))
    if failed:
        raise failed[-1]
    return 0
