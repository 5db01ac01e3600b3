"""Law: `imgmount export` as functions: all that a mount, an upper or an image shows, as one tar."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from fusemount.capture.changed import Asked, Warn, all_as_added, open_changed
from fusemount.daemon.chunkkeeper import keeping_beside
from fusemount.daemon.mountpoint import FSTYPE, find_mount
from fusemount.daemon.openview import open_view
from fusemount.errors import UpperError, translated
from fusemount.reference import Reference
from fusemount.settings import Directories, MountOptions
from fusemount.sources.newfile import status
from fusemount.walk import open_found

if TYPE_CHECKING:
    from fusemount.layer import Progress
    from fusemount.rootfs import RootFs


def is_mount_or_upper(path: Path) -> bool:
    """Whether path is an imgmount mount, or a directory that is no OCI layout and so an upper.
    Raises UpperError for another user's symlink on it."""
    _, entry, _ = find_mount(path, UpperError)
    if entry is not None and entry.fstype == FSTYPE:
        return True
    with translated(path, UpperError):
        _, fd = open_found(path)
        if fd < 0:
            return False
        try:
            layout = ("oci-layout", "index.json")
            return stat.S_ISDIR(os.fstat(fd).st_mode) and all(
                status(fd, name) is None for name in layout
            )
        finally:
            os.close(fd)


def export_changed(
    asked: Asked, directories: Directories, progress: Progress, warn: Warn
) -> Iterator[bytes]:
    """The tar of all that a mount or an upper shows, in pieces.  Raises as open_changed does."""
    with ExitStack() as stack:
        changed = open_changed(asked, directories, progress, warn, stack)
        yield from _tar_of(changed.rootfs, asked, warn)


def export_image(
    reference: Reference, asked: Asked, directories: Directories, progress: Progress, warn: Warn
) -> Iterator[bytes]:
    """The tar of all that an image shows, in pieces.  Raises every error of an image."""
    follow = bool(asked.follow_symlink_parents)
    options = replace(MountOptions(read_only=True), follow_symlink_parents=follow)
    with ExitStack() as stack:
        view = open_view(reference, asked.image_options, options, directories, progress, stack)
        stack.enter_context(keeping_beside(view.packed, directories.cache / "chunks"))
        yield from _tar_of(view.rootfs, asked, warn)


def _tar_of(rootfs: RootFs, asked: Asked, warn: Warn) -> Iterator[bytes]:
    from fusemount.rootfs.layertar import layer_tar

    changes = all_as_added(rootfs)
    limit = asked.image_options.unpack
    yield from layer_tar(rootfs, changes, lambda what: warn(f"{what}: left out"), limit=limit)
