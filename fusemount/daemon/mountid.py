"""Law: recognises our mount by what no other mount can have, and detaches it by a descriptor.

When a mount is gone, the next one may get its device number and its mount ID of mountinfo.  Three
identifiers are safe:
  - the unique mount ID (statx(2), Linux 6.8) of the one mount that we made;
  - a descriptor (O_PATH) of a mount's root: while it is open, no other mount can get the mount's
    numbers;
  - the device number, while the connection of /dev/fuse lives: its file system exists as long, and
    keeps the number.  It also identifies the mount's copies (bind mounts, other namespaces).
No function here sends a request to the file system: its daemon may be dead, or be this process.
"""

from __future__ import annotations

import os
import select
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fusemount import _native
from fusemount.beneath import fd_path, open_in_root
from fusemount.dataclass import dataclass
from fusemount.mountinfo import MountEntry, mounts
from fusemount.walk import open_found, open_object


@dataclass(frozen=True)
class Mount:
    """device: `major:minor`, as in mountinfo.  unique: the unique mount ID; 0 before Linux 6.8, and
    0 for a FUSE mount without allow_other of another user, which shuts root out too."""

    device: str
    unique: int


@contextmanager
def mount_root(path: Path) -> Iterator[int]:
    """A descriptor of the root of the topmost mount at that path. Raises OSError, ELOOP for another
    user's symlink on the way."""
    fd = open_object(path)
    try:
        yield fd
    finally:
        os.close(fd)


def mount_of(fd: int) -> Mount:
    major, minor, unique = _native.mount_of(fd)
    return Mount(f"{major}:{minor}", unique)


def mount_on(path: Path) -> Mount | None:
    """The topmost mount at that path; None if it cannot be looked at."""
    try:
        with mount_root(path) as fd:
            return mount_of(fd)
    except OSError:
        return None


def entry_of(fd: int) -> MountEntry | None:
    """The entry of mountinfo for the mount whose root that descriptor is; None for other files."""
    with open(f"/proc/self/fdinfo/{fd}") as file:
        mount_id = next(int(line[7:]) for line in file if line.startswith("mnt_id:"))
    for entry in mounts():
        if entry.mount_id == mount_id:
            return entry if os.fsencode(entry.mountpoint) == os.readlink(fd_path(fd)) else None
    return None


def topmost(path: Path) -> tuple[Path, MountEntry | None, Mount | None]:
    """(path as mountinfo spells it, the topmost mount there, its identity), from one look.

    None, None: nothing is mounted there, or it cannot be looked at.  The mount may be dead.  Raises
    OSError with ELOOP for another user's symlink on the way.
    """
    place, root = open_found(path)
    if root < 0:
        return place, None, None
    try:
        entry = entry_of(root)
        return (place, entry, mount_of(root)) if entry else (place, None, None)
    except OSError:
        return place, None, None
    finally:
        os.close(root)


@contextmanager
def covering(directory: int, path: Path) -> Iterator[int]:
    """A descriptor of the root of the topmost mount on a directory, or of the directory itself.

    For a process whose root is that directory, ".." is the root of what is mounted on it. So no
    name has to be looked up, which another process could move. Where openat2(2) is missing, the
    path is looked up if it still leads to the directory. Raises OSError.
    """
    fd = open_in_root(directory, b"..", os.O_PATH | os.O_DIRECTORY)
    try:
        uncovered = mount_of(fd) == mount_of(directory)
        if uncovered and os.readlink(fd_path(directory)) == os.fsencode(path):
            os.close(fd)
            fd = open_object(path)
        yield fd
    finally:
        os.close(fd)


def sync_root(root: int) -> None:
    """Syncs the file system of the mount whose root that descriptor (O_PATH) is. Raises OSError."""
    fd = os.open(fd_path(root), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _native.syncfs(fd)
    finally:
        os.close(fd)


def sync_mount(path: Path, mount: Mount | None) -> None:
    """Syncs the topmost mount at that path, if it is that mount. Raises OSError."""
    with mount_root(path) as root:
        if mount_of(root) == mount:
            sync_root(root)


def connected(fuse_fd: int) -> bool:
    """Whether the file system of that /dev/fuse descriptor is mounted anywhere. The kernel ends the
    connection with the last mount, before it frees the device number."""
    if fuse_fd < 0:
        return False
    poll = select.poll()
    poll.register(fuse_fd, 0)
    return not any(event & (select.POLLERR | select.POLLNVAL) for _, event in poll.poll(0))


def detach(fd: int) -> None:
    """Detaches exactly that mount, whatever is mounted at its path by now. Root only.

    The mount lives on, without a path, until its last user leaves. Raises OSError.
    """
    _native.umount2(fd_path(fd), _native.MNT_DETACH)
