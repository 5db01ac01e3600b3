"""`imgmount prune`: removes images without a name, and blobs and files that nothing leads to."""

from __future__ import annotations

import sys

from fusemount.cli.arguments import Parser, open_store
from fusemount.cli.environment import directories
from fusemount.cli.filters import add_filter, parse_filters

KEYS = ("until", "label")


def parser() -> Parser:
    p = Parser("prune", "Remove images that have no name, and what nothing in the store leads to.")
    p.add_argument("-a", "--all", action="store_true", help="all images that no mount shows")
    p.add_argument("-f", "--force", action="store_true", help="do not ask")
    add_filter(p, KEYS)
    return p


def run(argv: list[str]) -> int:
    args = parser().parse_args(argv)

    from fusemount.cli.ages import human_size
    from fusemount.layer.cache import Cache
    from fusemount.store.collection import Removed
    from fusemount.store.listing import listed_of
    from fusemount.store.removal import prune

    store, cache = open_store(), Cache(directories().cache)
    selection = parse_filters(args.filter, KEYS, store)
    removed = Removed()
    if args.force or _agreed(everything=args.all):
        removed = prune(
            store,
            everything=args.all,
            chunks=cache.chunks,
            wanted=lambda image, known: selection.narrowed(listed_of(image, known)) is not None,
        )
    lines = [f"untagged: {text}" for text in removed.untagged]
    lines += [f"deleted: {digest}" for digest in removed.deleted]
    if lines:
        print("Deleted Images:", *lines, "", sep="\n")
    print(f"Total reclaimed space: {human_size(removed.freed)}")
    return 0


def _agreed(*, everything: bool) -> bool:
    """Asks docker's question; an empty answer means no."""
    what = "all images that no mount shows" if everything else "all images without a name"
    print(f"WARNING! This will remove {what}.")
    print("Are you sure you want to continue? [y/N] ", end="", flush=True)
    answer = sys.stdin.readline()
    if not answer.endswith("\n"):
        print()
    return answer.strip().lower() == "y"
