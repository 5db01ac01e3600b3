"""Law: which mount is ours is told by what no other mount can have, and taken off by a descriptor.

A device number and the mount ID of mountinfo are given to the next mount as soon as theirs is gone.
Three things last:
  - the unique mount ID (statx(2), Linux 6.8) of the one mount that we made;
  - a descriptor (O_PATH) of a mount's root: while it is held, nothing takes that mount's place;
  - the device number while the connection of /dev/fuse is up: its file system is there then, and
    keeps the number.  That holds for the mount's copies too (bind mounts, other namespaces).
No function here asks the file system, whose daemon may be dead, or be us.
"""

from __future__ import annotations

import os
import select
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fusemount import _native
from fusemount.beneath import fd_path, open_in_root
from fusemount.daemon.mountinfo import MountEntry, mounts
from fusemount.dataclass import dataclass


@dataclass(frozen=True)
class Mount:
    """device: `major:minor`, as in mountinfo.  unique: the unique mount ID, 0 before Linux 6.8, and
    of a FUSE mount that is another user's alone: root too is shut out of it."""

    device: str
    unique: int


@contextmanager
def mount_root(path: Path) -> Iterator[int]:
    """A descriptor of the root of the topmost mount at that path. Raises OSError."""
    fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def mount_of(fd: int) -> Mount:
    major, minor, unique = _native.mount_of(fd)
    return Mount(f"{major}:{minor}", unique)


def mount_on(path: Path) -> Mount | None:
    """The topmost mount at that path; None where it cannot be looked at."""
    try:
        with mount_root(path) as fd:
            return mount_of(fd)
    except OSError:
        return None


def entry_of(fd: int) -> MountEntry | None:
    """What mountinfo says of the mount whose root that descriptor is; None for any other file."""
    with open(f"/proc/self/fdinfo/{fd}") as file:
        mount_id = next(int(line[7:]) for line in file if line.startswith("mnt_id:"))
    for entry in mounts():
        if entry.mount_id == mount_id:
            return entry if os.fsencode(entry.mountpoint) == os.readlink(fd_path(fd)) else None
    return None


def topmost(path: Path) -> tuple[MountEntry, Mount] | tuple[None, None]:
    """The topmost mount at that path, looked at once; nothing where none is or can be looked at."""
    try:
        with mount_root(path) as place:
            entry = entry_of(place)
            return (entry, mount_of(place)) if entry else (None, None)
    except OSError:
        return None, None


@contextmanager
def covering(directory: int, path: Path) -> Iterator[int]:
    """A descriptor of the root of the topmost mount on a directory, or of the directory itself.

    For a process whose root that directory is, its ".." is what is mounted on it: no name is asked
    for, which somebody could move. Where openat2(2) is missing, the path is, if it still leads
    there. Raises OSError.
    """
    fd = open_in_root(directory, b"..", os.O_PATH | os.O_DIRECTORY)
    try:
        uncovered = mount_of(fd) == mount_of(directory)
        if uncovered and os.readlink(fd_path(directory)) == os.fsencode(path):
            os.close(fd)
            fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        yield fd
    finally:
        os.close(fd)


def connected(fuse_fd: int) -> bool:
    """Whether the file system of that /dev/fuse descriptor is mounted anywhere: the kernel ends the
    connection with the last mount, before the device number is free."""
    if fuse_fd < 0:
        return False
    poll = select.poll()
    poll.register(fuse_fd, 0)
    return not any(event & (select.POLLERR | select.POLLNVAL) for _, event in poll.poll(0))


def detach(fd: int) -> None:
    """Takes exactly that mount off, whatever stands at its path by now; root only. Raises OSError.

    It lives on, unseen, until its last user leaves.
    """
    _native.umount2(fd_path(fd), _native.MNT_DETACH)
