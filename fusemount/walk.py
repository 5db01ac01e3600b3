"""Law: walks a path that the caller names, once; later calls use the descriptors that were found.

A user who owns a directory on the path can replace any name in it by a symlink at any time, and so
lead a command of root to another directory or mount.  So the walk goes from descriptor to
descriptor.  A symlink that the caller or root made is followed, as mount(8) and cp(1) follow it;
a symlink of another user is ELOOP, with a message that names it and its owner.

In a file system that another user serves no symlink is followed, and no name is waited for without
a limit (served.py; ETIMEDOUT).

No directory on the path is asked for its status, because the daemon of a mount may hang or be dead.
All functions raise OSError; the caller closes descriptors, which are O_PATH and O_CLOEXEC.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from fusemount import _native
from fusemount.beneath import LINKS_MAX, fd_path, trusted
from fusemount.served import open_served, server_of

_OBJECT = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY = _OBJECT | os.O_DIRECTORY


def open_parent(path: str | os.PathLike[str]) -> tuple[int, str]:
    """(descriptor of the directory, the name in it) that a path leads to; it need not exist.

    The name is no symlink; "." for a path that ends in "..", and for "/"."""
    walk = _Walk(os.fspath(path))
    try:
        walk.to_the_last()
    except BaseException:
        os.close(walk.fd)
        raise
    return walk.fd, walk.names[0] if walk.names else "."


def open_walked(path: Path, *, make: bool) -> tuple[Path, int, bool]:
    """(path without symlinks, descriptor of the directory, whether it was made).

    make: the last component is made if only that one is missing.
    """
    above, name = open_parent(path)
    try:
        if server_of(above) is not None:
            fd, made = _open_served_directory(above, name, make)
        else:
            made = make and _made(above, name)
            fd = os.open(name, _DIRECTORY, dir_fd=above)
    finally:
        os.close(above)
    return _path_of(fd), fd, made


def _made(above: int, name: str) -> bool:
    try:
        os.mkdir(name, dir_fd=above)
    except FileExistsError:
        return False
    return True


def _open_served_directory(above: int, name: str, make: bool) -> tuple[int, bool]:
    made = False
    try:
        fd, kind = open_served(above, name)
    except FileNotFoundError:
        if not make:
            raise
        (fd, kind), made = open_served(above, name, make=True), True
    if kind != stat.S_IFDIR:
        os.close(fd)
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    return fd, made


def open_found(path: Path) -> tuple[Path, int]:
    """(path without symlinks, descriptor of what is there), also of the root of a dead mount.

    -1: nothing is there, or the way to it cannot be gone; then the rest of the path is as named.
    """
    walk = _Walk(os.fspath(path))
    try:
        try:
            walk.to_the_last()
            name = walk.names[0] if walk.names else "."
            if walk.server is None:
                fd = os.open(name, _OBJECT, dir_fd=walk.fd)
            else:
                fd, _ = open_served(walk.fd, name)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ETIMEDOUT):
                raise
            rest = os.path.join(_path_of(walk.fd), *walk.names[::-1])
            return Path(os.path.normpath(rest)), -1
        return _path_of(fd), fd
    finally:
        os.close(walk.fd)


def leads_to(path: Path, fd: int) -> bool:
    """Whether a path leads to the object of that descriptor; not through another user's symlink,
    which may lead to a file system that never answers."""
    try:
        _, found = open_found(path)
    except OSError:
        return False
    if found < 0:
        return False
    try:  # another file system is not asked
        same = _native.mount_of(found)[:2] == _native.mount_of(fd)[:2]
        return same and os.path.samestat(os.fstat(found), os.fstat(fd))
    finally:
        os.close(found)


def open_object(path: str | os.PathLike[str]) -> int:
    """A descriptor of what the path leads to, of any kind; it must exist."""
    _, fd = open_found(Path(path))
    if fd < 0:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), os.fspath(path))
    return fd


def _path_of(fd: int) -> Path:
    return Path(os.fsdecode(os.readlink(fd_path(fd))))


class _Walk:
    """fd: the directory that was reached.  names: those that are still to go, the next one last.
    server: server_of(fd)."""

    def __init__(self, path: str) -> None:
        self._followed = 0
        self._here = "/" if path.startswith("/") else ""  # for messages
        self.names = _names(path)
        self.fd = os.open(self._here or ".", _DIRECTORY)
        self._device = _native.mount_of(self.fd)[:2]
        self.server = server_of(self.fd)

    def to_the_last(self) -> None:
        """Goes until one name is left, which is no symlink, or none."""
        while self.names and self._step(self.names[-1]):
            pass

    def _step(self, name: str) -> bool:
        """False at the last name. On an error the name is still in names."""
        is_last = len(self.names) == 1 and name != ".."
        if self.server is not None:
            return self._step_served(name, is_last)
        try:
            found = os.open(name, _DIRECTORY, dir_fd=self.fd)
        except FileNotFoundError:
            if is_last:
                return False
            raise
        except NotADirectoryError:
            return self._follow(name, is_last)
        if is_last:
            os.close(found)
            return False
        self.names.pop()
        self._go(found, os.path.join(self._here, name))
        return True

    def _step_served(self, name: str, is_last: bool) -> bool:
        try:
            found, kind = open_served(self.fd, name)
        except FileNotFoundError:
            if is_last:
                return False
            raise
        if kind == stat.S_IFDIR and not is_last:
            self.names.pop()
            self._go(found, os.path.join(self._here, name))
            return True
        os.close(found)
        if kind == stat.S_IFLNK:
            link = os.path.normpath(os.path.join(self._here, name))
            why = f"{link} is a symlink in a file system of uid {self.server}: it is not followed"
            raise OSError(errno.ELOOP, why)
        if not is_last:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        return False

    def _follow(self, name: str, is_last: bool) -> bool:
        found = os.open(name, _OBJECT, dir_fd=self.fd)
        try:
            st = os.fstat(found)
            if not stat.S_ISLNK(st.st_mode):
                if is_last:
                    return False
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            if not trusted(st.st_uid):
                link = os.path.normpath(os.path.join(self._here, name))
                why = f"{link} is a symlink of uid {st.st_uid}: it is not followed"
                raise OSError(errno.ELOOP, why)
            self._followed += 1
            if self._followed > LINKS_MAX:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            target = os.readlink("", dir_fd=found)
        finally:
            os.close(found)
        self.names.pop()
        self.names += _names(target)
        if target.startswith("/"):
            self._go(os.open("/", _DIRECTORY), "/")
        return True

    def _go(self, fd: int, here: str) -> None:
        os.close(self.fd)
        self.fd, self._here = fd, here
        device = _native.mount_of(fd)[:2]
        if device != self._device:
            self._device, self.server = device, server_of(fd)


def _names(path: str) -> list[str]:
    """The components of a path, last first."""
    return [name for name in reversed(path.split("/")) if name not in ("", ".")]
