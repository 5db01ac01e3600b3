"""`imgmount rm NAME...`: names go, and with its last name an image; as `docker rmi`."""

from __future__ import annotations

import sys

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

    from fusemount.cli.table import printable
    from fusemount.store.removal import broken_by, remove

    store = open_store()
    failed: list[ImgmountError] = []
    for name in args.name:
        try:
            for line in broken_by(store, name) if args.force else ():
                warn(line)
            removed = remove(store, name, force=args.force)
        except ImgmountError as error:  # the others go all the same, as in docker
            failed.append(error)
            continue
        for text in removed.untagged:
            print(f"Untagged: {text}")
        for digest in removed.deleted:
            print(f"Deleted: {digest}")
    sys.stdout.flush()
    for each in failed[:-1]:
        sys.stderr.write(f"imgmount: {printable(str(each))}\n")
    if failed:
        raise failed[-1]
    return 0
