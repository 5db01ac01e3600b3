"""Law: `mount -o remount,...` as one function: it changes the kernel's flags of a mount only.

mount(8) passes all options that the mount shall have, those of mountinfo included.  So a word that
is not in FLAG_WORDS cannot ask for a change.  A direct call may pass some words only; then the
other flags keep their values.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from fusemount import _native
from fusemount.beneath import fd_path
from fusemount.daemon import mountrecords
from fusemount.daemon.channel import FLAG_WORDS, mount_flags
from fusemount.daemon.mountid import entry_of
from fusemount.daemon.mountpoint import FSTYPE
from fusemount.errors import MountpointError, NotPermitted, UpperError, translated
from fusemount.settings import Directories
from fusemount.walk import open_found


def remount(
    mountpoint: Path, words: Iterable[str], directories: Directories, *, bind: bool = False
) -> None:
    """words: keys of FLAG_WORDS, later ones win.  bind: only this mount changes, not the file
    system that other mounts show too (mount(8), `remount,bind`).

    Raises MountpointError (not ours, busy), UpperError (rw where nothing can be written),
    NotPermitted.
    """
    with ExitStack() as stack:
        with translated(mountpoint, MountpointError):
            _, root = open_found(mountpoint)
        if root >= 0:
            stack.callback(os.close, root)
        entry = entry_of(root) if root >= 0 else None
        record = mountrecords.find(directories.runtime, entry) if entry else None
        if entry is None or (not entry.fstype.startswith(FSTYPE) and record is None):
            raise MountpointError(f"{mountpoint}: no imgmount mount is there")
        flags = mount_flags((*(word for word in entry.options if word in FLAG_WORDS), *words))
        read_only = bool(flags & _native.MS_RDONLY)
        if not read_only and record and not (record.upper and record.writable):
            raise UpperError(
                f"{mountpoint}: mounted without a place for changes: it cannot become rw"
            )
        flags |= _native.MS_REMOUNT | (_native.MS_BIND if bind else 0)
        try:
            _native.mount("none", fd_path(root), "none", flags, "")
        except OSError as error:
            raise _refused(mountpoint, error) from error
    if record and not bind:
        mountrecords.register(directories.runtime, replace(record, read_only=read_only))


def _refused(mountpoint: Path, error: OSError) -> MountpointError | NotPermitted:
    if error.errno in (errno.EPERM, errno.EACCES):
        return NotPermitted(f"{mountpoint}: remounting is not permitted")
    if error.errno == errno.EBUSY:
        return MountpointError(f"{mountpoint}: busy: a file is open for writing")
    return MountpointError(f"{mountpoint}: cannot remount: {os.strerror(error.errno or 0)}")
