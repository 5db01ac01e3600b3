"""`imgmount copy SOURCE DESTINATION`: copies an image between registries, stores, archives and
layouts."""

from __future__ import annotations

from fusemount.cli.arguments import (
    Parser,
    add_unpack_flag,
    platform_of,
    reference_of,
    unpack_limit,
)
from fusemount.cli.environment import default_domain, directories
from fusemount.cli.registryflags import access_of, add_platform_flags, add_registry_flags
from fusemount.errors import UsageError

_ENDS = "docker://NAME, NAME of the store, oci:DIR[:NAME], oci-archive:FILE, docker-archive:FILE"


def parser() -> Parser:
    p = Parser("copy", "Copy an image between registries, stores, archives and layouts.")
    p.add_argument("source", help=_ENDS)
    p.add_argument("destination", help="likewise")
    add_platform_flags(p)
    p.add_argument("--compress", choices=("gzip", "zstd", "none"), default="gzip",
                   help="uncompressed layers that go to a registry")  # fmt: skip
    p.add_argument("-q", "--quiet", action="store_true", help="print nothing")
    add_unpack_flag(p)
    add_registry_flags(p)
    return p


def run(argv: list[str]) -> int:
    args = parser().parse_args(argv)

    from fusemount.cli.transfers import shown_transfers
    from fusemount.compression import Compression
    from fusemount.transfer.copying import CopyOptions, copy, source_end, target_end
    from fusemount.transfer.pull import PullOptions
    from fusemount.transfer.push import PushOptions

    access = access_of(args)
    options = CopyOptions(
        PullOptions(access, platform_of(args.platform), args.all_platforms),
        PushOptions(access, Compression(args.compress)),
        default_domain(),
        unpack_limit(args.max_unpacked),
    )
    own = directories()
    source = source_end(args.source, reference_of, default_domain())
    target = target_end(args.destination, own.store, default_domain())
    ends = {end.name.domain for end in (source, target) if end.name is not None}
    if args.creds and len(ends) > 1:
        raise UsageError("--creds: one password for two registries; log in to each of them instead")
    with shown_transfers(quiet=args.quiet) as progress:
        image_id = copy(source, target, options, own, progress)
    if not args.quiet:
        print(image_id)
    return 0
