"""Law: opens a mountpoint or an upper directory with its image, and compares the two.

A living mount's upper is read directly, without a request to the mount.  Before that, the kernel
writes out its dirty pages of the mount.  A change that is made meanwhile may be seen or not.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from fusemount import _native
from fusemount.daemon import mountrecords
from fusemount.daemon.chunkkeeper import keeping_beside
from fusemount.daemon.imagebase import base_of
from fusemount.daemon.mountid import mount_of, mount_root, sync_root
from fusemount.daemon.mountpoint import FSTYPE, find_mount
from fusemount.daemon.mountrecords import Record
from fusemount.dataclass import dataclass
from fusemount.errors import ImageNotFound, MountpointError, UpperError, translated
from fusemount.reference import Reference, parse_reference
from fusemount.settings import Directories, ImageOptions
from fusemount.walk import leads_to, open_walked

if TYPE_CHECKING:
    from fusemount.layer import OpenDirectory, OpenLayer, Progress
    from fusemount.rootfs import RootFs
    from fusemount.rootfs.base import Base
    from fusemount.rootfs.changes import Change
    from fusemount.rootfs.upper import Upper
    from fusemount.sources import Image

REQUESTS_SECONDS = 2.0

Warn = Callable[[str], None]


@dataclass(frozen=True)
class Asked:
    """What to open. path: the path of a mountpoint or of an upper.

    base: the image, None for the one in the upper's mark; follow_symlink_parents: how its layers
    are stacked, None for the way in the mark.
    """

    path: Path
    base: Reference | None
    follow_symlink_parents: bool | None
    image_options: ImageOptions


@dataclass(frozen=True)
class Changed:
    """rootfs: the layers with the upper on top, to read from. changes: from compare(), in its
    order. layers: those that are tars, lowest first."""

    upper: Path
    image: Image
    layers: Sequence[OpenLayer]
    rootfs: RootFs
    changes: Sequence[Change]


@dataclass(frozen=True)
class _FoundUpper:
    """record: of the mount that uses the upper, None if it is not mounted.  fd: of the upper, whose
    path is not looked up again."""

    upper: Path
    fd: int
    record: Record | None


def open_changed(
    asked: Asked, directories: Directories, progress: Progress, warn: Warn, stack: ExitStack
) -> Changed:
    """Raises every error of an image, MountpointError, UpperError, ImgmountError."""
    from fusemount.layer import open_directories, open_layers
    from fusemount.rootfs import RootFs
    from fusemount.rootfs.changes import compare
    from fusemount.rootfs.open import build_tree
    from fusemount.rootfs.upper import Upper
    from fusemount.sources import open_image

    found = _find(asked.path, directories, stack)
    if found.record is not None:
        _write_out(found.record)
    live, users = found.record is not None, asked.image_options.marks.overlay
    upper = Upper(
        found.upper, None, at=found.fd, live=live, userxattr=users,
        lock_directories=directories.lock_directories,
    )  # fmt: skip
    undo = stack.enter_context(ExitStack())
    undo.callback(upper.close)
    known = _known_base(upper, found)
    reference, image_options = _chosen(known, asked, found.upper, directories.store)
    try:
        image = stack.enter_context(open_image(reference, image_options, directories, progress))
    except ImageNotFound as error:
        if asked.base is not None:
            raise
        why = f"{error}; {found.upper} was made over it: say where it is now with --base"
        raise ImageNotFound(why) from error
    archived = [
        stack.enter_context(layer)
        for layer in open_layers(image, image_options, directories, progress)
    ]
    stack.enter_context(keeping_beside([a.packed for a in archived], directories.cache / "chunks"))
    layers: list[OpenLayer | OpenDirectory] = [
        *archived,
        *open_directories(image.directories, image_options.marks, image.origin),
    ]
    follow = asked.follow_symlink_parents
    if follow is None:
        follow = known is not None and known.follow_symlink_parents
    now = base_of(reference, image_options, follow, image, archived)
    _check_base(found.upper, known, now, warn)
    lower = build_tree(layers, follow_symlink_parents=follow, again=True)
    with translated(found.upper):
        rootfs = RootFs(build_tree(layers, follow_symlink_parents=follow), upper, read_only=True)
    undo.pop_all()
    stack.callback(rootfs.close)
    return Changed(found.upper, image, archived, rootfs, compare(lower, rootfs.tree))


def all_as_added(rootfs: RootFs) -> Sequence[Change]:
    """The changes from an empty tree to that one: each object is added."""
    from fusemount.rootfs.changes import compare

    nothing = _native.Tree()
    nothing.seal()
    return compare(nothing, rootfs.tree)


def _find(path: Path, directories: Directories, stack: ExitStack) -> _FoundUpper:
    """The stack closes the descriptor. Raises MountpointError: another user's mount, or a mount
    without an upper; UpperError."""
    _, entry, _ = find_mount(path, UpperError)
    record = mountrecords.find(directories.runtime, entry) if entry else None
    if record is None and entry is not None and entry.fstype == FSTYPE:
        raise MountpointError(f"{path}: no record of this mount in {directories.runtime}")
    if record is not None:
        if record.upper is None:
            raise MountpointError(f"{path}: mounted read-only: there is nothing to have changed")
        return _open_upper(Path(record.upper), record if record.alive else None, stack)
    try:
        found = _open_upper(path, None, stack)
    except UpperError as error:
        if isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
            why = f"{path}: neither a mount of ours nor an upper directory"
            raise UpperError(why) from error
        raise
    for mounted in mountrecords.listing(directories.runtime):
        recorded = mounted.record.upper
        if recorded and leads_to(Path(recorded), found.fd) and mounted.record.alive:
            return replace(found, record=mounted.record)
    return found


def _open_upper(path: Path, record: Record | None, stack: ExitStack) -> _FoundUpper:
    with translated(path, UpperError):
        upper, fd, _ = open_walked(path, make=False)
    stack.callback(os.close, fd)
    return _FoundUpper(upper, fd, record)


def _write_out(record: Record) -> None:
    """Syncs the mount: until then the kernel's cache has writes that are not in the upper."""
    failed = f"{record.mountpoint}: cannot be written out"
    with translated(failed, MountpointError), mount_root(Path(record.mountpoint)) as root:
        if mount_of(root).device != record.device:
            raise MountpointError(f"{failed}: it stands elsewhere by now")
        sync_root(root)
    _await_requests(record)


def _await_requests(record: Record) -> None:
    """Waits until the mount's requests are answered: syncfs(2) of FUSE may return before that.

    fusectl counts the open requests. A program that never stops writing must not keep us waiting
    for ever, and without fusectl this does not wait.
    """
    path = Path("/sys/fs/fuse/connections", record.device.rpartition(":")[2], "waiting")
    end = time.monotonic() + REQUESTS_SECONDS
    with suppress(OSError, ValueError):
        while int(path.read_text()) and time.monotonic() < end:
            time.sleep(0.002)


def _known_base(upper: Upper, found: _FoundUpper) -> Base | None:
    from fusemount.rootfs.base import Base, recorded_base

    known = recorded_base(upper)
    if known is None and found.record is not None:  # an old upper without a mark, mounted read-only
        return Base(found.record.image, found.record.image_id)
    return known


def _chosen(
    known: Base | None, asked: Asked, upper: Path, store: Path
) -> tuple[Reference, ImageOptions]:
    """The image to open, and how. Raises UpperError if neither the user nor the upper names it."""
    from fusemount.image import parse_platform
    from fusemount.sources import path_exists

    options = asked.image_options
    if known is not None and known.platform and options.platform is None:
        options = replace(options, platform=parse_platform(known.platform))
    if asked.base is not None:
        return asked.base, options
    if known is None:
        raise UpperError(f"{upper}: nothing says which image it belongs to: name it with --base")
    return parse_reference(known.image, path_exists, store), options


def _check_base(upper: Path, known: Base | None, now: Base, warn: Warn) -> None:
    """Raises UpperError if the upper was made over other layers."""
    from fusemount.rootfs.base import Fit, difference, fit

    if known is None:
        return
    found = fit(known, now)
    if found is Fit.OTHER:
        why = f"{upper}: {difference(known, now)}: "
        if known.follow_symlink_parents != now.follow_symlink_parents:
            raise UpperError(why + f"say so with --{known.stacking}, or mount it with --rebase")
        raise UpperError(
            why + "name its own image with --base, or mount it over this one with --rebase first"
        )
    if found is Fit.UNKNOWN and (str(known), str(now)) != (known.image, now.image):
        warn(f"{upper}: nothing tells whether it was made over {now}")
