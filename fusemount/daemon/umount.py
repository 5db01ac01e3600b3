"""Law: `imgmount umount` as one function; a mount may be dead, or have no record."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from fusemount.daemon import mountrecords
from fusemount.daemon.background import ended, pidfd_ended
from fusemount.daemon.control import ask
from fusemount.daemon.holders import holders
from fusemount.daemon.mountid import Mount, mount_on, sync_mount
from fusemount.daemon.mountpoint import FSTYPE, find_mount, unmount
from fusemount.daemon.mountrecords import Record
from fusemount.daemon.scratch import drop, is_scratch
from fusemount.errors import ImgmountError, MountpointError
from fusemount.mountinfo import MountEntry, mounts
from fusemount.rootfs.upperlock import sweep
from fusemount.settings import Directories

# For a daemon whose mount is gone: what remains is to drop the upper, which is deleting files.
END_SECONDS = 60.0

# If a daemon answers although its mount seems to be gone from everywhere, the news of the mount's
# end may just not have reached it yet.
HEARD_SECONDS = 1.0

# A daemon whose mount is gone from everywhere has ended after this time, unless it drops a large
# upper.  And most processes that are just being started in a mount namespace of their own have
# unmounted their copies by then; a new namespace has a copy of every mount.
SOON_SECONDS = 2.0


def umount_image(
    mountpoint: Path, directories: Directories, *, lazy: bool = False, force: bool = False
) -> str | None:
    """Unmounts and waits until the daemon has ended and its upper is dropped or complete.

    If the mount has a copy (a bind mount, or one in another mount namespace), the daemon goes on
    serving the copy and loses nothing.  Then this does not wait, and returns a line that names the
    users of the copy.
    lazy: detaches a busy mount and does not wait.  force: ends the mount for all users (force.py);
    if its daemon cannot be found, as lazy.  A dead mount is unmounted, and the scratch that its
    daemon left is dropped.  Raises MountpointError (no imgmount mount, busy), NotPermitted.
    """
    target, entry, mount = find_mount(mountpoint)
    record = mountrecords.find(directories.runtime, entry) if entry else None
    here = entry is not None and (entry.fstype == FSTYPE or record is not None)
    if force:
        meant = record if here else _detached(target, directories)
        has_ended = _force_end(target, mount if here else None, meant, directories)
        if has_ended and not (here and mount_on(target) == mount):
            return None
    if not here:
        gone = _detached(target, directories)
        if gone is None or ended(gone.pid, SOON_SECONDS):
            raise MountpointError(f"{mountpoint}: no imgmount mount is there")
        return _still_mounted(mountpoint, gone, _copies(gone)) or _still_used(mountpoint, gone)
    pidfd = _open_pidfd(record)
    try:
        if pidfd >= 0:
            _write_out(target, mount)
        before = _copies(record)
        unmount(target, mount, lazy=lazy or force)
        if record is None or lazy:
            return None
        left = [entry for entry in _copies(record) if entry in before]  # no later mount
        if pidfd >= 0 and (left or not pidfd_ended(os.dup(pidfd), SOON_SECONDS)):
            kept_by = _still_mounted(mountpoint, record, left)
            if kept_by is not None:
                return kept_by
            if _still_serves(record, pidfd, directories):
                return _still_used(mountpoint, record)
            if not pidfd_ended(os.dup(pidfd), END_SECONDS):
                raise ImgmountError(
                    f"{mountpoint}: unmounted, but its daemon (process {record.pid}) has not ended"
                )
        _clean_up(record, directories)
        return None
    finally:
        if pidfd >= 0:
            os.close(pidfd)


def _force_end(
    target: Path, mount: Mount | None, record: Record | None, directories: Directories
) -> bool:
    """Ends the daemon of that record. False if there is none."""
    pidfd = _open_pidfd(record)
    if record is None or pidfd < 0:
        return False
    from fusemount.daemon.force import end_now

    try:
        end_now(record, pidfd, target, mount)
    finally:
        os.close(pidfd)
    _clean_up(record, directories)
    return True


def _write_out(target: Path, mount: Mount | None) -> None:
    """Syncs the mount. The kernel does it only when the last copy of a mount is unmounted."""
    with suppress(OSError):
        sync_mount(target, mount)


def _detached(target: Path, directories: Directories) -> Record | None:
    """The record of a mount that was on target and whose daemon lives."""
    for mounted in reversed(mountrecords.listing(directories.runtime)):
        if mounted.record.alive and mounted.record.mountpoint == str(target):
            return mounted.record
    return None


def _copies(record: Record | None) -> list[MountEntry]:
    """All mounts of that record in our mount namespace; none if its daemon is dead."""
    if record is None or not record.alive:
        return []
    return [entry for entry in mounts() if mountrecords.shows(record, entry)]


def _still_mounted(mountpoint: Path, record: Record, here: list[MountEntry]) -> str | None:
    """The line for a mount that has copies; None if none is known. Copies in our own mount
    namespace are named first: others may belong to processes that are just being started."""
    if here:
        where = f"it is still mounted on {', '.join(str(entry.mountpoint) for entry in here)}"
    elif found := holders(record.device):
        where = f"in another mount namespace it is mounted for {', '.join(map(str, found))}"
    else:
        return None
    return (
        f"{mountpoint}: unmounted here; {where}: "
        f"its daemon (process {record.pid}) ends with the last of them"
    )


def _still_serves(record: Record, pidfd: int, directories: Directories) -> bool:
    """Whether the daemon still serves.  A daemon answers until the kernel has reported the mount's
    end to it.  Then it answers no more, and drops its upper."""
    try:
        ask(directories.runtime, record, "stats")
        if pidfd_ended(os.dup(pidfd), HEARD_SECONDS):
            return False
        ask(directories.runtime, record, "stats")
    except ImgmountError:
        return False
    return True


def _still_used(mountpoint: Path, record: Record) -> str:
    return (
        f"{mountpoint}: unmounted here, but still in use by somebody whom this user cannot see: "
        f"its daemon (process {record.pid}) ends with its last user"
    )


def _open_pidfd(record: Record | None) -> int:
    """A pidfd of the record's daemon, never of a later process with its pid; -1 if it is dead."""
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


def _clean_up(record: Record, directories: Directories) -> None:
    """Removes what a killed daemon left; after an orderly end there is nothing to remove."""
    mountrecords.forget(directories.runtime, record)
    if record.scratch and is_scratch(record.scratch, directories.state):
        drop(Path(record.scratch))
    sweep(directories.runtime)
