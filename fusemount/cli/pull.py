"""`imgmount pull NAME...`: downloads images from a registry into the store."""

from __future__ import annotations

from fusemount.cli.arguments import (
    Parser,
    add_unpack_flag,
    open_store,
    platform_of,
)
from fusemount.cli.environment import default_domain
from fusemount.cli.registryflags import access_of, add_platform_flags, add_registry_flags
from fusemount.errors import UsageError


def parser() -> Parser:
    p = Parser("pull", "Bring images from a registry into the store.")
    p.add_argument("name", nargs="+", metavar="NAME[:TAG|@DIGEST]")
    add_platform_flags(p)
    p.add_argument("-a", "--all-tags", action="store_true", help="every tag of the repository")
    p.add_argument("-q", "--quiet", action="store_true", help="print the names alone")
    add_unpack_flag(p)
    add_registry_flags(p)
    return p


def run(argv: list[str]) -> int:
    args = parser().parse_args(argv)

    from fusemount.cli.transfers import shown_transfers
    from fusemount.imagename import parse_name
    from fusemount.transfer.pull import PullOptions, all_tags, pull

    options = PullOptions(access_of(args), platform_of(args.platform), args.all_platforms)
    names = [parse_name(text, default_domain()) for text in args.name]
    if args.all_tags:
        if any(name.tag or name.digest for name in names):
            raise UsageError("--all-tags: the name must have neither a tag nor a digest")
        names = [tagged for name in names for tagged in all_tags(name, options)]
    store = open_store(create=True, max_unpacked=args.max_unpacked)
    for name in (each.tagged() for each in names):
        with shown_transfers(quiet=args.quiet) as progress:
            progress.note(f"{name.reference}: Pulling from {name.path}")
            pulled = pull(store, name, options, progress)
            what = "Downloaded newer image" if pulled.new else "Image is up to date"
            progress.note(f"Digest: {pulled.digest}")
            progress.note(f"Status: {what} for {name.familiar}")
        print(name)
    return 0
