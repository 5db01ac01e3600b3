"""`imgmount commit MOUNTPOINT|UPPER NAME [-o FILE]`: makes an image with the changes as its new
layer."""

from __future__ import annotations

from fusemount.cli.arguments import (
    Parser,
    add_changed,
    add_history_flags,
    asked_of,
    warn,
)
from fusemount.cli.environment import default_domain, directories, source_date_epoch
from fusemount.errors import UsageError


def parser() -> Parser:
    p = Parser("commit", "Write what was changed as an image with one layer more; print its ID.")
    add_changed(p)
    p.add_argument("name", metavar="NAME[:TAG]", help="the new image's name")
    p.add_argument("-o", "--output", metavar="FILE",
                   help="FILE, oci-archive:FILE, docker-archive:FILE or oci:DIR; default: the "
                        "store")  # fmt: skip
    p.add_argument("--format", choices=("oci-archive", "docker-archive", "oci"),
                   help="of FILE; default oci-archive, which docker loads too")  # fmt: skip
    p.add_argument("--compress", choices=("gzip", "zstd", "none"),
                   help="the new layer; default gzip, in a docker-archive none")  # fmt: skip
    add_history_flags(p)
    p.add_argument("-a", "--author", default="")
    p.add_argument("-q", "--quiet", action="store_true", help="print no image ID and no progress")
    p.add_argument("--rewrite-timestamp", action="store_true",
                   help="no file is younger than SOURCE_DATE_EPOCH")  # fmt: skip
    return p


def run(argv: list[str]) -> int:
    args = parser().parse_args(argv)

    from fusemount.capture.commitchanges import CommitOptions, commit
    from fusemount.cli.bars import terminal_progress
    from fusemount.compression import Compression
    from fusemount.layer import SilentProgress
    from fusemount.sources.writing import parse_target

    if args.format and args.output is None:
        raise UsageError("--format: of which file? Name it with -o")
    epoch = source_date_epoch()
    if args.rewrite_timestamp and epoch is None:
        raise UsageError("--rewrite-timestamp: to which time? Set SOURCE_DATE_EPOCH")
    for word, text in (("--message", args.message), ("--author", args.author)):
        _check_text(word, text)
    options = CommitOptions(
        name=_image_name(args.name, stored=args.output is None),
        target=parse_target(args.output, args.format) if args.output is not None else None,
        changes=tuple(args.change),
        author=args.author,
        message=args.message,
        epoch_s=epoch,
        rewrite_timestamp=args.rewrite_timestamp,
        compression=Compression(args.compress) if args.compress else None,
    )
    image_id = commit(
        asked_of(args),
        options,
        directories(),
        SilentProgress() if args.quiet else terminal_progress(),
        warn,
    )
    if not args.quiet:
        print(image_id)
    return 0


def _image_name(text: str, *, stored: bool) -> str:
    """The name with a tag; stored: also with its registry, as the store keeps names."""
    from fusemount.imagename import parse_name
    from fusemount.reference import tagged_name

    name = tagged_name(text)
    return str(parse_name(name, default_domain())) if stored else name


def _check_text(word: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{word}: not UTF-8") from None
