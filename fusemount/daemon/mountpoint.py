"""Law: checks a directory before it is mounted on, and unmounts it; each error is one line with the
reason."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from fusemount import _native
from fusemount.beneath import fd_path, name_in
from fusemount.daemon.background import done_in_time
from fusemount.daemon.mountid import Mount, detach, entry_of, mount_of, topmost
from fusemount.dataclass import dataclass
from fusemount.errors import ImgmountError, MountpointError, NotPermitted, translated
from fusemount.mountinfo import MountEntry, mount_at
from fusemount.served import ANSWER_SECONDS, server_of
from fusemount.walk import open_object, open_parent, open_walked

FSTYPE = "fuse.imgmount"


def find_mount(
    path: Path, kind: type[ImgmountError] = MountpointError
) -> tuple[Path, MountEntry | None, Mount | None]:
    """topmost() of a path that the user names. Raises kind for another user's symlink on it."""
    with translated(path, kind):
        return topmost(path)


@dataclass(frozen=True)
class Mountpoint:
    """fd: the directory itself (O_PATH), even if it is renamed. path: its path when it was opened,
    as mountinfo spells it; for messages, records, and fusermount3, which takes no descriptor."""

    path: Path
    fd: int


@contextmanager
def open_mountpoint(path: Path, *, nonempty: bool = False) -> Iterator[Mountpoint]:
    """A directory that may be mounted on, as a descriptor: the mount will be on the very directory
    that was checked.

    Raises MountpointError: missing, no directory, an imgmount mount already (busy), a dead mount,
    not empty (a mount would hide the contents; `nonempty` allows it), or not readable by this user.
    """
    try:
        place, fd, _ = open_walked(path, make=False)
    except OSError as error:
        raise _explain(path, error) from error
    try:
        _check_in_time(path, fd, nonempty)
        yield Mountpoint(place, fd)
    finally:
        os.close(fd)


def _check_in_time(path: Path, fd: int, nonempty: bool) -> None:
    """_check() in a child if another user serves the directory: it may never answer."""
    server = server_of(fd)
    if server is None:
        _check(path, fd, nonempty)
    elif not done_in_time(lambda: _check(path, fd, nonempty), ANSWER_SECONDS):
        raise MountpointError(
            f"{path}: the file system of uid {server} there does not answer, or refuses a mount"
        )


def _check(path: Path, fd: int, nonempty: bool) -> None:
    try:
        os.statvfs(fd)  # finds a dead mount: stat and readdir may be answered from a cache
        entry = entry_of(fd)
        if entry and entry.fstype == FSTYPE:
            raise MountpointError(
                f"{path}: busy: {entry.source} is mounted there (imgmount umount {path})"
            )
        with os.scandir(fd_path(fd)) as listing:
            if not nonempty and next(listing, None):
                raise MountpointError(
                    f"{path}: not empty: a mount would hide what is there (-o nonempty allows it)"
                )
    except OSError as error:
        raise _explain(path, error) from error
    # fusermount3 would refuse it later (its check_perm()); this is found before the image is read.
    if os.geteuid() != 0 and not os.access(fd_path(fd), os.W_OK):
        raise MountpointError(f"{path}: not permitted: a user can mount only where they may write")


def _explain(path: Path, error: OSError) -> MountpointError:
    match error.errno:
        case errno.ENOENT:
            return MountpointError(f"{path}: no such directory")
        case errno.ENOTDIR:
            return MountpointError(f"{path}: not a directory")
        case errno.ENOTCONN:
            return MountpointError(
                f"{path}: holds a mount whose daemon is gone; `imgmount umount {path}` clears it"
            )
        case _:
            return MountpointError(f"{path}: {error.strerror or error}")


def unmount(target: Path, meant: Mount | None = None, *, lazy: bool = False) -> None:
    """Unmounts the topmost mount on `target`; unwritten data reaches the daemon first.

    meant: the mount that must be there; any other stays mounted.
    lazy: detaches a busy mount (MNT_DETACH), which lives on without a path until its last user
    leaves.
    Raises MountpointError (busy, nothing mounted, another mount) or NotPermitted.
    """
    try:
        with _parent(target) as (above, name):
            if meant is not None and _taken_off(target, meant, lazy):
                return
            if os.geteuid() != 0:
                _fusermount(above, name, target, lazy)
                return
            # Not by a descriptor of the mount, because an open one makes it busy. Its name is
            # looked up once more, but no directory above it.
            flags = _native.UMOUNT_NOFOLLOW | (_native.MNT_DETACH if lazy else 0)
            server = server_of(above)
            umount = partial(_native.umount2, name_in(above, name), flags)
            if server is None:
                umount()
            elif not done_in_time(umount, ANSWER_SECONDS):
                why = f"busy, or the file system of uid {server} above it does not answer"
                raise MountpointError(f"{target}: not unmounted: {why}")
    except OSError as error:
        raise _refused(target, error.errno or 0) from error


@contextmanager
def _parent(target: Path) -> Iterator[tuple[int, bytes]]:
    fd, name = open_parent(target)
    try:
        yield fd, os.fsencode(name)
    finally:
        os.close(fd)


def _taken_off(target: Path, meant: Mount, lazy: bool) -> bool:
    """Whether the mount is unmounted by now: root can detach it by its descriptor. Raises
    MountpointError if another mount is there."""
    fd = open_object(target)
    try:
        if mount_of(fd) != meant:
            raise MountpointError(f"{target}: something else stands there by now; it is left alone")
        if lazy and os.geteuid() == 0:
            detach(fd)
            return True
        return False
    finally:
        os.close(fd)


def _refused(target: Path, number: int) -> ImgmountError:
    if number == errno.EBUSY:
        return Busy(
            f"{target}: busy: a process has an open file, its working directory or a mount there"
            " (--lazy detaches it all the same)"
        )
    if number in (errno.EPERM, errno.EACCES):
        return NotPermitted(f"{target}: unmounting it is not permitted")
    if number == errno.EINVAL:
        return MountpointError(f"{target}: nothing is mounted there")
    return MountpointError(f"{target}: cannot unmount: {os.strerror(number)}")


class Busy(MountpointError):
    """The mount has users (EBUSY)."""

    errno = errno.EBUSY


def _fusermount(above: int, name: bytes, target: Path, lazy: bool) -> None:
    """fusermount3 resolves its working directory to a path, and looks for a FUSE mount of this user
    there.  So it cannot be made to unmount any other mount.  But a process that renames a directory
    above the mount between these two steps can make it unmount another mount of this user.
    """
    command = ["fusermount3", "-u", *(["-z"] if lazy else []), "--", "./" + os.fsdecode(name)]
    try:
        result = subprocess.run(command, capture_output=True, check=False, cwd=fd_path(above))
    except FileNotFoundError as error:
        raise NotPermitted("fusermount3 is missing: a user needs it (package fuse3)") from error
    if result.returncode == 0:
        return
    message = result.stderr.decode(errors="replace").strip()
    if "busy" in message:
        raise _refused(target, errno.EBUSY)
    # fusermount3 looks only for this user's mounts: another's is "not found in /etc/mtab".
    foreign = "not found in" in message and mount_at(target) is not None
    if foreign or "not permitted" in message or "denied" in message:
        raise _refused(target, errno.EPERM)
    raise MountpointError(f"{target}: {message.removeprefix('fusermount3: ')}")
