"""Law: `imgmount umount` as one function; works on dead mounts and without a record too."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from fusemount import _native
from fusemount.beneath import fd_path
from fusemount.daemon import mountrecords
from fusemount.daemon.background import ended, pidfd_ended
from fusemount.daemon.control import ask
from fusemount.daemon.holders import holders
from fusemount.daemon.mountid import Mount, mount_of, mount_on, mount_root, topmost
from fusemount.daemon.mountinfo import MountEntry, mounts
from fusemount.daemon.mountpoint import FSTYPE, resolve, unmount
from fusemount.daemon.mountrecords import Record
from fusemount.daemon.scratch import drop, is_scratch
from fusemount.errors import ImgmountError, MountpointError
from fusemount.rootfs.upperlock import sweep
from fusemount.settings import Directories

# The kernel has let go by then; what remains is dropping the upper, a matter of files to delete.
END_SECONDS = 60.0

# A daemon that has answered although its mount seems to be gone from everywhere may just have been
# about to hear of that.
HEARD_SECONDS = 1.0

# A daemon whose mount is gone from everywhere has ended by then, but for a large upper to drop; and
# so have most processes that are just being started in a mount namespace of their own, which has a
# copy of every mount until they take those away.
SOON_SECONDS = 2.0


def umount_image(
    mountpoint: Path, directories: Directories, *, lazy: bool = False, force: bool = False
) -> str | None:
    """Unmounts and waits until the daemon has ended and its upper is dropped or complete.

    Where the mount has a copy (a bind mount, another mount namespace's), the daemon goes on for
    that one, and loses nothing: then it is not waited for, and what is returned says who holds it.
    lazy: detaches a busy mount and does not wait.  force: ends it for everybody (force.py), or as
    lazy does where nothing tells its daemon.  A dead mount is cleared, and what its daemon could no
    longer drop is dropped.  Raises MountpointError (not ours, busy), NotPermitted.
    """
    target = resolve(mountpoint)
    entry, mount = topmost(target)
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
        left = [entry for entry in _copies(record) if entry in before]  # no later mount's number
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
    """Whether a daemon served that record, and has ended."""
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
    """As the kernel does with the last mount; copies of this one would keep it from that."""
    with suppress(OSError), mount_root(target) as place:
        if mount_of(place) != mount:
            return
        fd = os.open(fd_path(place), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _native.syncfs(fd)
        finally:
            os.close(fd)


def _detached(target: Path, directories: Directories) -> Record | None:
    """Of a mount that was there, and whose daemon lives."""
    for mounted in reversed(mountrecords.listing(directories.runtime)):
        if mounted.record.alive and mounted.record.mountpoint == str(target):
            return mounted.record
    return None


def _copies(record: Record | None) -> list[MountEntry]:
    """All mounts of it in our mount namespace, while its daemon lives."""
    if record is None or not record.alive:
        return []
    return [entry for entry in mounts() if mountrecords.shows(record, entry)]


def _still_mounted(mountpoint: Path, record: Record, here: list[MountEntry]) -> str | None:
    """What to say where the mount has copies; None where none is known. Those of our own mount
    namespace come first: others may be of processes that are just being started."""
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
    """Whether the daemon serves: it answers until the kernel has told it of the mount's end, and
    afterwards drops its upper."""
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


def _clean_up(record: Record, directories: Directories) -> None:
    """What a daemon that was killed left; nothing after an orderly end."""
    mountrecords.forget(directories.runtime, record)
    if record.scratch and is_scratch(record.scratch, directories.state):
        drop(Path(record.scratch))
    sweep(directories.runtime)
