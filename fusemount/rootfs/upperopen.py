"""Law: opens an upper and its work directory so that no file system mounted inside the upper is
entered.

The owner of a directory may mount a FUSE file system on it (fusermount3), which can hang or refuse
all other users.  With the privilege, both directories are opened through one clone of their mount
(native/base/clonemount.h), as overlayfs does.  Both need the same clone, because rename(2) does
not work from one mount to another.  Without the privilege, a mount inside the upper is an error
that names the mountpoint.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fusemount import _native
from fusemount.beneath import fd_path, open_beneath, own_directory
from fusemount.errors import UpperError
from fusemount.mountinfo import mounts
from fusemount.rootfs.removal import remove_tree
from fusemount.walk import open_walked

_READ = os.O_RDONLY | os.O_DIRECTORY
_OPEN_TO_OTHERS = 0o077


@contextmanager
def usable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as e:
        raise UpperError(f"{path}: cannot be used for an upper: {e.strerror}") from e


def open_dir(path: Path, at: int | None, *, make: bool = False) -> int:
    """at: a descriptor of the directory, used even if its path leads elsewhere by now."""
    with usable(path):
        if make and at is None:
            path.mkdir(exist_ok=True)
        return os.open(path, _READ) if at is None else open_beneath(at, b"", _READ)


def check_apart(upper: Path, at: int | None, work: Path, above: int | None) -> None:
    """at, above: descriptors of the upper and of the directory of work. Raises UpperError."""
    a = _place(upper, at)
    b = _place(work, None) if above is None else _place(work.parent, above) / work.name
    if a == b or a in b.parents or b in a.parents:
        raise UpperError(f"{work}: the work directory and the upper {upper} lie in each other")


def _place(path: Path, fd: int | None) -> Path:
    return Path(os.path.realpath(path) if fd is None else os.fsdecode(os.readlink(fd_path(fd))))


def without_mounts(path: Path, *fds: int) -> list[int]:
    """New descriptors of the same directories, the upper first, in which nothing is mounted.

    It closes the given ones if it returns others. path: for errors. Raises UpperError."""
    found = _cloned(fds)
    if found:
        for fd in fds:
            os.close(fd)
        return found
    here = os.readlink(fd_path(fds[0]))
    for mountpoint in (os.fsencode(entry.mountpoint) for entry in mounts()):
        if mountpoint.startswith(here + b"/"):
            raise UpperError(
                f"{os.fsdecode(mountpoint)}: a file system is mounted there, inside the upper "
                f"{path}: unmount it first"
            )
    return list(fds)


def _cloned(fds: tuple[int, ...]) -> list[int]:
    """Empty if no clone can be made, or if the directories are not all in one mount."""
    opened: list[int] = []
    clone = -1
    try:
        paths = [os.readlink(fd_path(fd)) for fd in fds]
        above = os.path.commonpath(paths)
        _, top, _ = open_walked(Path(os.fsdecode(above)), make=False)
        try:
            clone = _native.clone_mount(top)
        finally:
            os.close(top)
        for fd, path in zip(fds, paths, strict=True):
            opened.append(open_beneath(clone, os.path.relpath(path, above), _READ))
            if not os.path.samestat(os.fstat(fd), os.fstat(opened[-1])):
                raise FileNotFoundError
    except OSError:
        for fd in opened:
            os.close(fd)
        return []
    finally:
        if clone >= 0:
            os.close(clone)
    return opened


def open_work(path: Path, above: int) -> int:
    """The descriptor of the directory `work` in a work directory, which only its owner can open.

    If other users could open it, they may have locked it: then its contents are moved to a new
    directory. path: for errors. Raises NotPermitted, OSError.
    """
    inside = (above, "work")
    fd = own_directory(path, inside=inside)
    if not os.fstat(fd).st_mode & _OPEN_TO_OTHERS:
        return fd
    try:
        remove_tree(above, b"work.new")
        fresh = own_directory(path, inside=(above, "work.new"))
        try:
            for name in os.listdir(fd):
                os.rename(name, name, src_dir_fd=fd, dst_dir_fd=fresh)
        except BaseException:
            os.close(fresh)
            raise
        _native.renameat2(above, b"work.new", above, b"work", 2)  # RENAME_EXCHANGE
        remove_tree(above, b"work.new")
    finally:
        os.close(fd)
    return fresh
