"""Law: `imgmount umount` as one function; works on dead mounts and without a record too."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from fusemount import _native
from fusemount.daemon import registry
from fusemount.daemon.background import ended, pidfd_ended
from fusemount.daemon.holders import holders
from fusemount.daemon.mountinfo import mount_at
from fusemount.daemon.mountpoint import FSTYPE, resolve, unmount
from fusemount.daemon.registry import Record
from fusemount.daemon.scratch import drop, is_scratch
from fusemount.errors import ImgmountError, MountpointError
from fusemount.settings import Directories

# The kernel has let go by then; what remains is dropping the upper, a matter of files to delete.
END_SECONDS = 60.0

# A daemon whose mount is gone from everywhere has ended by then, but for a large upper to drop; and
# so have most processes that are just being started in a mount namespace of their own, which has a
# copy of every mount until they take those away.
SOON_SECONDS = 2.0


def umount_image(mountpoint: Path, directories: Directories, *, lazy: bool = False) -> str | None:
    """Unmounts and waits until the daemon has ended and its upper is dropped or complete.

    Where another mount namespace has a copy of the mount, the daemon goes on for that one, and
    loses nothing: then it is not waited for, and what is returned says who holds it.
    lazy: detaches a busy mount and does not wait.  A dead mount is cleared, and what its daemon
    could no longer drop is dropped.  Raises MountpointError (not ours, busy), NotPermitted.
    """
    target = resolve(mountpoint)
    entry = mount_at(target)
    record = registry.find(directories.runtime, entry) if entry else None
    if entry is None or (entry.fstype != FSTYPE and record is None):
        gone = _detached(target, directories)
        if gone is None or ended(gone.pid, SOON_SECONDS):
            raise MountpointError(f"{mountpoint}: no imgmount mount is there")
        return _held(mountpoint, gone) or _served(mountpoint, gone)
    pidfd = _open_pidfd(record)
    try:
        if pidfd >= 0:
            _write_out(target)
        unmount(target, lazy=lazy)
        if record is None or lazy:
            return None
        if pidfd >= 0 and not pidfd_ended(os.dup(pidfd), SOON_SECONDS):
            held = _held(mountpoint, record)
            if held is not None:
                return held
            if not pidfd_ended(os.dup(pidfd), END_SECONDS):
                raise ImgmountError(
                    f"{mountpoint}: unmounted, but its daemon (process {record.pid}) has not ended"
                )
        _clear(record, directories)
        return None
    finally:
        if pidfd >= 0:
            os.close(pidfd)


def _write_out(target: Path) -> None:
    """As the kernel does with the last mount; copies of this one would keep it from that."""
    with suppress(OSError):
        fd = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _native.syncfs(fd)
        finally:
            os.close(fd)


def _detached(target: Path, directories: Directories) -> Record | None:
    """Of a mount that was there, and whose daemon lives."""
    for mounted in reversed(registry.listing(directories.runtime)):
        if mounted.state == "detached" and mounted.record.mountpoint == str(target):
            return mounted.record
    return None


def _held(mountpoint: Path, record: Record) -> str | None:
    """What to say where other mount namespaces have a copy; None where none is known to."""
    found = holders(record.device)
    if not found:
        return None
    names = ", ".join(map(str, found))
    return (
        f"{mountpoint}: unmounted here; in another mount namespace it is mounted for {names}: "
        f"its daemon (process {record.pid}) ends with the last of them"
    )


def _served(mountpoint: Path, record: Record) -> str:
    return (
        f"{mountpoint}: unmounted, but still in use: its daemon (process {record.pid}) ends with "
        "its last user"
    )


def _open_pidfd(record: Record | None) -> int:
    """A pidfd of the record's daemon; -1 when it is dead. Holds against reuse of the pid."""
    if record is None:
        return -1
    try:
        pidfd = os.pidfd_open(record.pid)
    except ProcessLookupError:
        return -1
    if record.alive:
        return pidfd
    os.close(pidfd)
    return -1


def _clear(record: Record, directories: Directories) -> None:
    """What a daemon that was killed left; nothing after an orderly end."""
    registry.forget(directories.runtime, record)
    if record.scratch and is_scratch(record.scratch, directories.state):
        drop(Path(record.scratch))
