"""`imgmount tag SOURCE TARGET[:TAG]`: gives an image of the store one more name."""

from __future__ import annotations

from fusemount.cli.arguments import Parser, open_store


def parser() -> Parser:
    p = Parser("tag", "Give an image of the store one more name; who had that name loses it.")
    p.add_argument("source", metavar="SOURCE[:TAG]", help="a name, or the start of an ID")
    p.add_argument("target", metavar="TARGET[:TAG]")
    return p


def run(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    store = open_store()
    store.tag(args.source, store.name(args.target))
    return 0
