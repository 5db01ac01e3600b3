"""`imgmount push NAME [DESTINATION]`: uploads an image of the store to a registry."""

from __future__ import annotations

from fusemount.cli.arguments import Parser, open_store
from fusemount.cli.environment import default_domain
from fusemount.cli.registryflags import access_of, add_registry_flags


def parser() -> Parser:
    p = Parser("push", "Bring an image of the store to a registry.")
    p.add_argument("name", metavar="NAME[:TAG]")
    p.add_argument("destination", nargs="?", metavar="NAME[:TAG]", help="its name there")
    p.add_argument("--compress", choices=("gzip", "zstd", "none"), default="gzip",
                   help="layers that the store has uncompressed")  # fmt: skip
    p.add_argument("--digestfile", metavar="FILE", help="write the manifest's digest to it")
    p.add_argument("-q", "--quiet", action="store_true", help="print the name alone")
    add_registry_flags(p)
    return p


def run(argv: list[str]) -> int:
    args = parser().parse_args(argv)

    from fusemount.cli.transfers import shown_transfers
    from fusemount.compression import Compression
    from fusemount.errors import translated
    from fusemount.imagename import parse_name
    from fusemount.namedfile import open_named, replace_named
    from fusemount.transfer.push import PushOptions, push

    store = open_store()
    image = store.find(args.name)
    text = args.destination or args.name
    name = parse_name(text.removeprefix("docker://"), default_domain()).tagged()
    options = PushOptions(access_of(args), Compression(args.compress))
    with shown_transfers(quiet=args.quiet) as progress:
        progress.note(f"The push refers to repository [{name.repository}]")
        pushed = push(store, image, name, options, progress)
        progress.note(f"{name.reference}: digest: {pushed.digest} size: {pushed.size}")
    if args.quiet:
        print(name)
    if args.digestfile:
        with translated(f"{args.digestfile}: cannot be written", full=args.digestfile):
            replace_named(open_named(args.digestfile), pushed.digest.encode())
    return 0
