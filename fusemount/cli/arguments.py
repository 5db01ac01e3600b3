"""The parser, the flags that several verbs share, and the values of these flags.

Law: a flag that means the same in two verbs is defined and parsed here once; the flags for
registries are in registryflags.py.
"""

from __future__ import annotations

import argparse
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from fusemount.cli.environment import default_domain, directories, user_id
from fusemount.errors import UsageError
from fusemount.reference import FOREIGN_STORES, STORE, Reference, parse_reference
from fusemount.settings import (
    UNLIMITED,
    UNPACK_LIMIT,
    ImageOptions,
    Platform,
    UnpackLimit,
    UserMarks,
)

if TYPE_CHECKING:
    from fusemount.capture.changed import Asked
    from fusemount.store import Store


class _Formatter(argparse.HelpFormatter):
    """Finds the terminal's width without shutil.

    argparse's own formatter gets the width from shutil for every flag that is added, and importing
    shutil takes 5 ms.
    """

    def __init__(self, prog: str) -> None:
        columns = os.environ.get("COLUMNS", "")
        if columns.isdecimal() and int(columns):
            width = int(columns)
        else:
            try:
                width = os.get_terminal_size(1).columns or 80
            except OSError:
                width = 80
        super().__init__(prog, width=width - 2)


class Parser(argparse.ArgumentParser):
    """argparse with our errors; an abbreviated flag is an error."""

    def __init__(self, verb: str, description: str, usage: str | None = None) -> None:
        super().__init__(
            prog=f"imgmount {verb}".rstrip(),
            description=description,
            usage=usage,
            allow_abbrev=False,
            formatter_class=_Formatter,
        )

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} ({self.prog} --help)")


IMAGE_HELP = "FILE, FILE:NAME:TAG, docker-archive:, oci:, tar:, dir:, docker:NAME ..."


def add_image(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", help=IMAGE_HELP)
    add_image_flags(parser)


def add_image_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--platform", metavar="OS/ARCH[/VARIANT]", help="which variant to take")
    parser.add_argument("--no-verify", action="store_true", help="do not check digests")
    add_unpack_flag(parser)
    parser.add_argument("--userxattr", action="store_true",
                        help="as root too: obey marks that a user can set")  # fmt: skip
    parser.add_argument("--override-stat", choices=("on", "off"),
                        help="owners stand in user.containers.override_stat")  # fmt: skip


def add_history_flags(parser: argparse.ArgumentParser) -> None:
    """How a new image's config differs: its fields, and a message in its history."""
    parser.add_argument("-c", "--change", metavar="LINE", action="append", default=[],
                        help="CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER, VOLUME or "
                             "WORKDIR, as in a Dockerfile")  # fmt: skip
    parser.add_argument("-m", "--message", default="", help="for the image's history")


def add_unpack_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--max-unpacked", metavar="SIZE", default="",
                        help="what an image may unpack to (default 64G)")  # fmt: skip


def unpack_limit(text: str) -> UnpackLimit:
    """Parses --max-unpacked: `64G`, `unlimited`; "" is the default.  Raises UsageError."""
    if not text:
        return UNPACK_LIMIT
    if text == "unlimited":
        return UNLIMITED
    size = size_of(text)
    if not size:
        raise UsageError(f"--max-unpacked {text}: expected a size, like 64G, or unlimited")
    return UnpackLimit(size, ratio=0)


def size_of(text: str) -> int | None:
    """Bytes of `64G`, `500MiB` or `1000`; None if it is no size."""
    found = re.fullmatch(r"([0-9]{1,18})([KMGTP]?)(?:I?B)?", text.upper())
    size = int(found[1]) << 10 * " KMGTP".index(found[2] or " ") if found else UNLIMITED.size
    return size if size < UNLIMITED.size else None


def add_cache_size(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cache-size", metavar="SIZE", default="",
                        help="of what compressed layers were decompressed to (default: a tenth of "
                             "the disk, at most 10G)")  # fmt: skip


def cache_size_of(word: str, value: str) -> int:
    """The bytes.  word: what was written, for the error."""
    size = size_of(value)
    if size is None:
        raise UsageError(f"{word}: expected a size, like 2G")
    return size


def add_changed(parser: argparse.ArgumentParser) -> None:
    """The arguments of verbs that read a mount or an upper: diff, commit, export."""
    parser.add_argument("path", metavar="MOUNTPOINT|UPPER", type=Path)
    parser.add_argument("--base", metavar="IMAGE", help="the image below, where none is recorded")
    parser.add_argument("--symlink-parents", choices=("follow", "replace"),
                        help="how it was mounted, where that is not recorded")  # fmt: skip
    add_image_flags(parser)


def asked_of(args: argparse.Namespace) -> Asked:
    from fusemount.capture.changed import Asked

    return Asked(
        path=args.path,
        base=reference_of(args.base) if args.base else None,
        follow_symlink_parents=follows_symlink_parents(args),
        image_options=image_options_of(args),
    )


def follows_symlink_parents(args: argparse.Namespace) -> bool | None:
    """--symlink-parents; None if it is not given."""
    return None if args.symlink_parents is None else args.symlink_parents == "follow"


def reference_of(text: str) -> Reference:
    from fusemount.sources import path_exists

    reference = parse_reference(text, path_exists, directories().store)
    if reference.transport in FOREIGN_STORES:
        from fusemount.sources.storages import located

        reference = located(reference, os.environ, user_id())
    if reference.transport == STORE and os.environ.get("IMGMOUNT_DEFAULT_REGISTRY"):
        reference = _in_full(reference)
    return reference


def _in_full(reference: Reference) -> Reference:
    """Puts the default registry before a name without a registry, if the store has that image."""
    from fusemount.errors import ImgmountError
    from fusemount.store import Store

    store = Store(reference.path, default_domain=default_domain())
    try:
        name = str(store.name(reference.name or ""))
        store.find(name)
    except ImgmountError:  # the caller opens the reference, and gets the same error then
        return reference
    return replace(reference, name=name)


def open_store(*, create: bool = False, max_unpacked: str = "") -> Store:
    """The store of --root.  create: make it if it does not exist; else a missing store is empty."""
    from fusemount.store import Store

    return Store(
        directories().store, create=create, default_domain=default_domain(),
        unpack=unpack_limit(max_unpacked),
    )  # fmt: skip


def warn(message: str) -> None:
    from fusemount.cli.terminal import tell

    tell(f"warning: {message}")


def image_options_of(args: argparse.Namespace) -> ImageOptions:
    chosen = image_options(args.platform, args.max_unpacked, verify=not args.no_verify)
    return replace(chosen, marks=marks_of(args))


def marks_of(args: argparse.Namespace) -> UserMarks:
    return UserMarks(args.userxattr, None if not args.override_stat else args.override_stat == "on")


def image_options(platform: str | None, max_unpacked: str, *, verify: bool) -> ImageOptions:
    return ImageOptions(platform_of(platform), verify, unpack_limit(max_unpacked))


def platform_of(text: str | None) -> Platform | None:
    """Parses --platform; None if it is not given.  Raises UsageError."""
    from fusemount.image import parse_platform

    return parse_platform(text) if text else None
