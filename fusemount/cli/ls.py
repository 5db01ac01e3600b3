"""`imgmount ls [REPOSITORY[:TAG]]`: lists the images of the store, newest first, as docker does.

Law: an image that cannot be read has a row too, and a warning.
"""

from __future__ import annotations

from fusemount.cli.arguments import Parser, open_store, warn
from fusemount.cli.filters import add_filter, parse_filters

KEYS = ("reference", "dangling", "label", "before", "since", "until")


def parser() -> Parser:
    p = Parser("ls", "List the images of the store, the newest first.")
    p.add_argument("repository", nargs="?", metavar="REPOSITORY[:TAG]")
    p.add_argument("-a", "--all", action="store_true", help="also what is no image (signatures)")
    p.add_argument("-q", "--quiet", action="store_true", help="image IDs alone")
    p.add_argument("--digests", action="store_true", help="show digests")
    p.add_argument("--no-trunc", action="store_true", help="do not shorten IDs")
    p.add_argument("--format", metavar="TEMPLATE", help="a Go template for each row")
    p.add_argument("--json", action="store_true", help="all that is known, as a JSON array")
    add_filter(p, KEYS, "-f")
    return p


def run(argv: list[str]) -> int:
    args = parser().parse_args(argv)

    from fusemount.cli.imagerows import HEADS, image_objects, image_rows
    from fusemount.cli.tables import is_table, print_rows, template_of
    from fusemount.store.listing import listing

    store = open_store()
    selection = parse_filters(args.filter, KEYS, store, args.repository)
    found = listing(store, selection, artifacts=args.all)
    if args.json:
        import json

        print(json.dumps(image_objects(found), indent=4))
        return 0
    columns = ("Repository", "Tag", *(("Digest",) if args.digests else ()), "ID",
               "CreatedSince", "Size")  # fmt: skip
    template = template_of(args.format, columns, quiet=args.quiet)
    digests = args.digests or ".Digest" in template
    dates = not is_table(args.format)
    rows = list(image_rows(found, no_trunc=args.no_trunc, digests=digests, dates=dates))
    print_rows(rows, HEADS, template)
    for each in found:
        if each.summary.error:
            warn(f"{each.summary.error} (imgmount verify)")
    return 0
