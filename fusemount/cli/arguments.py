"""Law: what several verbs' command lines share: parser, image flags, directories."""

from __future__ import annotations

import argparse
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from fusemount.errors import UsageError
from fusemount.reference import FOREIGN_STORES, STORE, Reference, parse_reference
from fusemount.settings import (
    UNLIMITED,
    UNPACK_LIMIT,
    Directories,
    ImageOptions,
    UnpackLimit,
    UserMarks,
)

if TYPE_CHECKING:
    from fusemount.capture.changed import Asked
    from fusemount.store import Store


class _Formatter(argparse.HelpFormatter):
    """argparse's own asks shutil for the terminal's width, which takes 5 ms to import, for each
    flag that is added."""

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
    """argparse with our errors, and without guessing abbreviated flags."""

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


def add_unpack_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--max-unpacked", metavar="SIZE", default="",
                        help="what an image may unpack to (default 64G)")  # fmt: skip


def unpack_limit(text: str) -> UnpackLimit:
    """Of --max-unpacked: `64G`, `unlimited`; "" is the default.  Raises UsageError."""
    if not text:
        return UNPACK_LIMIT
    if text == "unlimited":
        return UNLIMITED
    found = re.fullmatch(r"([0-9]{1,18})([KMGTP]?)(?:I?B)?", text.upper())
    size = int(found[1]) << 10 * " KMGTP".index(found[2] or " ") if found else 0
    if not 0 < size < UNLIMITED.size:
        raise UsageError(f"--max-unpacked {text}: expected a size, like 64G, or unlimited")
    return UnpackLimit(size, ratio=0)


def add_changed(parser: argparse.ArgumentParser) -> None:
    """What diff and commit look at."""
    parser.add_argument("place", metavar="MOUNTPOINT|UPPER", type=Path)
    parser.add_argument("--base", metavar="IMAGE", help="the image below, where none is recorded")
    parser.add_argument("--symlink-parents", choices=("follow", "replace"),
                        help="how it was mounted, where that is not recorded")  # fmt: skip
    add_image_flags(parser)


def asked_of(args: argparse.Namespace) -> Asked:
    from fusemount.capture.changed import Asked

    return Asked(
        place=args.place,
        base=reference_of(args.base) if args.base else None,
        follow_symlink_parents=args.symlink_parents and args.symlink_parents == "follow",
        image_options=image_options_of(args),
    )


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
    """A name without a registry is one of the default registry's, where the store has that."""
    from fusemount.cli.registryflags import default_domain
    from fusemount.errors import ImgmountError
    from fusemount.store import Store

    store = Store(reference.path, default_domain=default_domain())
    try:
        name = str(store.name(reference.name or ""))
        store.find(name)
    except ImgmountError:  # who opens it says what is wrong
        return reference
    return replace(reference, name=name)


def open_store(*, create: bool = False, max_unpacked: str = "") -> Store:
    """The store of --root; create: made where it is not there, else it is then empty."""
    from fusemount.cli.registryflags import default_domain
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
    from fusemount.image import parse_platform

    chosen = parse_platform(platform) if platform else None
    return ImageOptions(chosen, verify, unpack_limit(max_unpacked))


def user_id() -> int:
    """Whose stores and directories are meant: inside `podman unshare`, where its user is root by
    name only, that user's (containers/storage, pkg/unshare)."""
    outside = os.environ.get("_CONTAINERS_ROOTLESS_UID", "")
    return int(outside) if outside.isascii() and outside.isdigit() else os.geteuid()


def directories() -> Directories:
    """IMGMOUNT_{CACHE,STATE,RUNTIME,ROOT}_DIR, else FHS for root, else XDG's base directories."""
    uid = user_id()
    if uid == 0:
        cache, state, runtime, store = (Path(p) for p in _ROOT)
    else:
        cache = _xdg("XDG_CACHE_HOME", "~/.cache/imgmount")
        state = _xdg("XDG_STATE_HOME", "~/.local/state/imgmount")
        runtime = _xdg("XDG_RUNTIME_DIR", _runtime_of(uid, state))
        store = _xdg("XDG_DATA_HOME", "~/.local/share/imgmount")
    return Directories(
        cache=_override("IMGMOUNT_CACHE_DIR", cache),
        state=_override("IMGMOUNT_STATE_DIR", state),
        runtime=_override("IMGMOUNT_RUNTIME_DIR", runtime),
        store=_override("IMGMOUNT_ROOT_DIR", store),
    )


_ROOT = ("/var/cache/imgmount", "/var/lib/imgmount", "/run/imgmount", "/var/lib/imgmount")


def _runtime_of(uid: int, state: Path) -> str:
    """Where XDG_RUNTIME_DIR is not set. Not in /tmp: there another user could make the directory
    first, and keep this one from mounting anything."""
    given = Path("/run/user", str(uid))  # by pam_systemd(8)
    try:
        ours = given.stat().st_uid in (uid, os.geteuid())
    except OSError:
        ours = False
    return str(given / "imgmount" if ours else state / "run")


def _xdg(variable: str, otherwise: str) -> Path:
    value = os.environ.get(variable, "")
    if value.startswith("/"):  # the specification: a relative path is to be ignored
        return Path(value, "imgmount")
    try:
        return Path(otherwise).expanduser()
    except RuntimeError as error:
        raise UsageError(f"no home directory: set HOME or {variable}") from error


def _override(variable: str, otherwise: Path) -> Path:
    value = os.environ.get(variable)
    return Path(value).absolute() if value else otherwise
