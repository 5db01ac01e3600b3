"""`imgmount [mount] IMAGE MOUNTPOINT`: mounts an image.  mount.fuse3 calls this verb too."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fusemount.cli.arguments import (
    IMAGE_HELP,
    Parser,
    add_cache_size,
    add_image_flags,
    reference_of,
)
from fusemount.cli.environment import directories
from fusemount.cli.mountoptions import (
    Words,
    image_options_of,
    mount_options,
    parse_options,
    take,
)
from fusemount.errors import UsageError
from fusemount.escape import escape
from fusemount.reference import Reference, directories_reference

if TYPE_CHECKING:
    import argparse


def parser() -> Parser:
    usage = (
        "%(prog)s IMAGE MOUNTPOINT [OPTION...]\n"
        "       %(prog)s -o lowerdir=DIR[:DIR...],... [SOURCE] MOUNTPOINT"
    )
    p = Parser("", "Show an image as a root file system, without unpacking it.", usage)
    p.add_argument("image", nargs="?", help=IMAGE_HELP)
    p.add_argument("mountpoint", type=Path)
    add_image_flags(p)
    p.add_argument("-o", metavar="OPTIONS", action="append", default=[], dest="options",
                   help="as for mount(8); see docs/options.md")  # fmt: skip
    p.add_argument("-f", "--foreground", action="store_true", help="do not go to the background")
    p.add_argument("-d", "--debug", action="store_true", help="say what happens (implies -f)")
    p.add_argument("--upper", metavar="DIR", help="where changes go, in overlayfs' format")
    p.add_argument("--work", metavar="DIR", help="overlayfs' work directory, beside the upper")
    p.add_argument("--rebase", action="store_true",
                   help="let an upper of another image belong to this one")  # fmt: skip
    p.add_argument("--dry-run", action="store_true",
                   help="with --rebase: say what it drops, and mount nothing")  # fmt: skip
    p.add_argument("--keep", action="store_true", help="keep changes made without --upper")
    p.add_argument("--read-only", action="store_true")
    add_cache_size(p)
    p.add_argument("--log", metavar="FILE", type=Path, help="instead of the journal")
    return p


def run(argv: list[str]) -> int:
    args = parser().parse_intermixed_args(argv)
    words = parse_options(args.options)
    if words.remount:
        return _remount(args.mountpoint, words)
    _take_flags(words, args)
    reference = _reference(args.image, words)
    if args.dry_run and not args.rebase:
        raise UsageError("--dry-run: of what? It goes with --rebase")
    if args.rebase and not words.upper:
        raise UsageError("--rebase: which upper? Name it with --upper")
    options = mount_options(
        words,
        foreground=args.foreground or args.debug,
        debug=args.debug,
        log=args.log.absolute() if args.log else None,
        rebase=args.rebase,
    )

    from fusemount.cli.bars import terminal_progress
    from fusemount.daemon.mount import mount_image, would_drop

    if args.dry_run:
        lost = would_drop(
            reference, image_options_of(words), options, directories(), terminal_progress()
        )
        _tell(lost)
        if not lost:
            print("nothing would be dropped")
        return 0

    result = mount_image(
        reference,
        args.mountpoint,
        image_options_of(words),
        options,
        directories(),
        terminal_progress(),
    )
    _tell(result.dropped)
    if result.upper:
        print(f"changes are kept in {result.upper}")
    return 0


def _take_flags(words: Words, args: argparse.Namespace) -> None:
    """Puts the flags into the words of -o that mean the same."""
    words.read_only = args.read_only or words.read_only
    words.keep = args.keep or words.keep
    words.upper = args.upper or words.upper
    words.work = args.work or words.work
    words.platform = args.platform or words.platform
    words.max_unpacked = args.max_unpacked or words.max_unpacked
    if args.cache_size:
        take(words, f"cache-size={args.cache_size}")
    words.verify = words.verify and not args.no_verify
    words.userxattr = words.userxattr or args.userxattr
    if args.override_stat:
        words.override_stat = args.override_stat == "on"
    _check(words)


def _tell(dropped: Sequence[tuple[bytes, str]]) -> None:
    for path, what in dropped:
        print(f"{escape(b'/' + path).decode()}: {what}")


def _remount(mountpoint: Path, words: Words) -> int:
    from fusemount.daemon.remount import remount

    flags = [word for word in words.kernel if "=" not in word and word != "nonempty"]
    for name, setting in (("suid", words.suid), ("dev", words.dev)):
        flags += [] if setting is None else [name if setting else f"no{name}"]
    flags += [] if words.read_only is None else ["ro" if words.read_only else "rw"]
    remount(mountpoint, flags, directories(), bind=words.bind)
    return 0


def _reference(image: str | None, words: Words) -> Reference:
    """The image or the directories to mount.  For directories, words get overlayfs' defaults."""
    if words.lower is None:
        if image is None:
            raise UsageError("which image, and where? (imgmount --help)")
        return reference_of(image)
    if words.upper is None:
        words.read_only = True
    if image is None:
        # A program calls us instead of fuse-overlayfs, and reads the upper as plain files.
        words.metacopy = bool(words.metacopy)
        words.redirect = bool(words.redirect)
    words.kernel.insert(0, f"fsname={image or 'imgmount'}")
    return directories_reference(words.lower)


def _check(words: Words) -> None:
    if words.work and not words.upper:
        raise UsageError("a work directory needs an upper (--upper DIR)")
    if words.keep and words.upper:
        raise UsageError("--keep is for mounts without --upper, which is always kept")
    if words.keep and words.lower:
        raise UsageError("--keep is for images; with lowerdir= give an upperdir=")
