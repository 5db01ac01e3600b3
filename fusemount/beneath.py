"""Law: resolves untrusted names below a descriptor; no other module resolves such names.

A user who can write to a directory can put a symlink anywhere in it at any time, and the author of
an image chose every name in it.  So a path of several names is never given to a system call.  Here
it becomes (descriptor of the directory, last name) or a descriptor, and later calls follow no
symlink.  native/base/beneath.h resolves the path (openat2(2), or name by name).

"Beneath": no symlink is followed at all, ".." and absolute paths are refused (EXDEV).
"In root": as for a process whose root directory is that descriptor.
Paths are bytes or str, of any length; b"" is the descriptor itself.  All functions raise OSError:
ELOOP for a symlink that must not be there.  The caller closes descriptors; they are O_CLOEXEC.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from fusemount import _native
from fusemount.errors import NotPermitted

if TYPE_CHECKING:
    from pathlib import Path

_DIRECTORY = os.O_PATH | os.O_DIRECTORY
LINKS_MAX = 40  # as the kernel's
_WRITABLE = stat.S_IWGRP | stat.S_IWOTH
_FIRST_USER_NAMESPACE = 0xEFFFFFFD  # include/linux/proc_ns.h, PROC_USER_INIT_INO


def open_beneath(dir_fd: int, path: bytes | str, flags: int, mode: int = 0o777) -> int:
    """open(2) of a path below dir_fd; O_PATH | O_NOFOLLOW opens a symlink itself."""
    return _native.open_beneath(dir_fd, path, flags, mode)


def open_below(root: Path, path: Path, flags: int) -> int:
    """open(2) of a path that begins with root, a directory; only root itself may have symlinks."""
    top = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return open_beneath(top, str(path.relative_to(root)), flags)
    finally:
        os.close(top)


def names_below(root: Path, path: Path) -> list[str]:
    """The names in a directory, sorted; the path as in open_below().  Raises OSError."""
    fd = open_below(root, path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return sorted(os.listdir(fd))
    finally:
        os.close(fd)


def open_in_root(root_fd: int, path: bytes | str, flags: int, mode: int = 0o777) -> int:
    """open(2) of a path as in a process whose root is root_fd; magic links are ELOOP."""
    return _native.open_in_root(root_fd, path, flags, mode)


def _split(path: bytes | str) -> tuple[bytes, bytes]:
    """(the directory's path, last name); a last name that is "", "." or ".." stays in the first."""
    whole = os.fsencode(path).rstrip(b"/") or os.fsencode(path)[:1]
    head, slash, name = whole.rpartition(b"/")
    return (whole, b".") if name in (b"", b".", b"..") else (head + slash, name)


@contextmanager
def parent_beneath(dir_fd: int, path: bytes | str) -> Iterator[tuple[int, bytes]]:
    """(descriptor of the directory that holds the last name, that name); b"." for dir_fd itself.

    The name may be a symlink: the caller's system calls must not follow it.
    """
    head, name = _split(path)
    if not head:
        yield dir_fd, name
        return
    fd = open_beneath(dir_fd, head, _DIRECTORY)
    try:
        yield fd, name
    finally:
        os.close(fd)


@contextmanager
def parent_in_root(root_fd: int, path: bytes | str) -> Iterator[tuple[int, bytes]]:
    """As parent_beneath, but symlinks are followed inside the root, except the last name."""
    head, name = _split(path)
    fd = open_in_root(root_fd, head, _DIRECTORY)
    try:
        yield fd, name
    finally:
        os.close(fd)


def to_read(found: int) -> int:
    """A descriptor to read the regular file that an O_PATH descriptor is of; closes that one.

    Anything else is EINVAL, and is not opened: the opening of a fifo lets its writer go on, and the
    opening of a device may start it."""
    try:
        if not stat.S_ISREG(os.fstat(found).st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        return os.open(fd_path(found), os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)
    finally:
        os.close(found)


@contextmanager
def object_at(dir_fd: int, name: bytes) -> Iterator[int]:
    """An O_PATH descriptor of the object at one name, which is not followed.

    All that is asked of the descriptor is of one object, whatever others put at the name."""
    if b"/" in name:
        raise ValueError(f"{name!r} is more than a name")
    fd = os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=dir_fd)
    try:
        yield fd
    finally:
        os.close(fd)


def fd_path(fd: int) -> bytes:
    """The path of a descriptor's object, for calls that take no descriptor.

    It is that very object, even a symlink or one opened with O_PATH.  The calls must follow the
    last name of this path."""
    return b"/proc/self/fd/%d" % fd


def name_in(fd: int, name: bytes) -> bytes:
    """The path of one name in the directory fd, for the same calls; they must not follow it."""
    if b"/" in name:
        raise ValueError(f"{name!r} is more than a name")
    return b"/proc/self/fd/%d/%s" % (fd, name)


def make_dirs_in_root(root_fd: int, path: bytes | str, mode: int = 0o755) -> int:
    """mkdir -p as in a process whose root is root_fd; returns an O_PATH descriptor.

    New directories get exactly that mode.  The target of a dangling symlink is made.
    """
    _make_in_root(root_fd, os.fsencode(path).split(b"/"), mode)
    return open_in_root(root_fd, path, _DIRECTORY)


def make_file_in_root(root_fd: int, path: bytes | str, mode: int = 0o644) -> None:
    """Makes an empty file with the directories above it; an existing file stays as it is."""
    _make_in_root(root_fd, os.fsencode(path).split(b"/"), 0o755, mode)


def _make_in_root(root_fd: int, names: list[bytes], mode: int, of_file: int | None = None) -> None:
    """mode: of directories; of_file: of the last name, if it is a file."""
    done, followed, above = 0, 0, os.dup(root_fd)
    try:
        while done < len(names):
            path = b"/".join(names[: done + 1])
            last = of_file if done + 1 == len(names) else None
            try:
                below = _step_in_root(root_fd, above, path, last is None)
                done += 1
            except FileNotFoundError:
                target = _make_or_read(above, names[done], mode, last)
                if target is None:
                    continue
                followed += 1
                if followed > LINKS_MAX:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path) from None
                before = [] if target.startswith(b"/") else names[:done]
                names, done = before + target.split(b"/") + names[done + 1 :], 0
                below = os.dup(root_fd)
            os.close(above)
            above = below
    finally:
        os.close(above)


def _step_in_root(root_fd: int, above: int, path: bytes, directory: bool) -> int:
    """An O_PATH descriptor of path; above is the directory of its last name.

    A long path is not walked from the root at each of its names, but only for a symlink or ".."."""
    name = path.rpartition(b"/")[2]
    if name not in (b"", b".", b".."):
        fd = open_beneath(above, name, os.O_PATH | os.O_NOFOLLOW)
        mode = os.fstat(fd).st_mode
        if stat.S_ISDIR(mode) or not (directory or stat.S_ISLNK(mode)):
            return fd
        os.close(fd)
        if not stat.S_ISLNK(mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
    return open_in_root(root_fd, path, os.O_CLOEXEC | (_DIRECTORY if directory else os.O_PATH))


def _make_or_read(fd: int, name: bytes, mode: int, file_mode: int | None) -> bytes | None:
    """Makes a directory or a file; if a symlink is there instead, returns its target."""
    try:
        if file_mode is not None:
            mode, flags = file_mode, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
            made = os.open(name, flags, mode, dir_fd=fd)
        else:
            os.mkdir(name, mode, dir_fd=fd)
            made = open_beneath(fd, name, os.O_RDONLY | os.O_DIRECTORY)
    except FileExistsError:
        try:
            return os.readlink(name, dir_fd=fd)
        except OSError:
            return None  # another process has made it meanwhile
    try:
        os.fchmod(made, mode)
    finally:
        os.close(made)
    return None


def own_directory(
    path: str | os.PathLike[str],
    *,
    make: bool = True,
    mode: int = 0o700,
    inside: tuple[int, str] | None = None,
    by_descriptor: bool = False,
) -> int:
    """The descriptor of an own directory: no other user can change it.  A missing one is made.

    No other user can put another directory at its path either, so the caller may use the path.
    by_descriptor: the caller uses only the descriptor, so its parents, which must exist, may belong
    to any user.  inside: (descriptor, name): likewise, for this name in a directory that the caller
    has open; path is then used only in errors.
    New directories, parents too, get exactly that mode.
    Raises NotPermitted for a directory of another user (root's are accepted), for one that its
    group or others may write to, for a symlink, and if another user can change where the path
    leads.
    """
    name = os.fspath(path).rstrip("/") or "/"
    above, entry = inside or (None, name)
    if not inside and not by_descriptor:
        entry = _secure(name, mode if make else None)
    if make:
        _make(entry, mode, above)
    fd = os.open(entry, os.O_PATH | os.O_NOFOLLOW, dir_fd=above)
    try:
        st = os.fstat(fd)
        if stat.S_ISLNK(st.st_mode):
            raise _refused(name, "it is a symlink")
        if not stat.S_ISDIR(st.st_mode):
            raise _refused(name, "it is not a directory")
        if not trusted(st.st_uid):
            raise _refused(name, f"it belongs to uid {st.st_uid}")
        if st.st_mode & _WRITABLE:
            raise _refused(name, f"its mode is 0{stat.S_IMODE(st.st_mode):o}")
        try:
            return os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
        except OSError as e:
            e.filename = name
            raise
    finally:
        os.close(fd)


def _refused(name: str, why: str) -> NotPermitted:
    return NotPermitted(f"{name}: must be a directory that only you can write to: {why}")


def _make(entry: str, mode: int, above: int | None = None) -> None:
    """Makes a directory with that mode; an existing one keeps its mode."""
    try:
        os.mkdir(entry, mode, dir_fd=above)
    except FileExistsError:
        return
    fd = os.open(entry, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=above)
    try:
        st = os.fstat(fd)
        # Only bits that the umask removed are added: if other users can exchange the name, this may
        # be another of our directories.
        if st.st_uid == os.geteuid() and not st.st_mode & 0o777 & ~mode:
            os.chmod(fd_path(fd), mode)
    finally:
        os.close(fd)


def _secure(path: str, mode: int | None) -> str:
    """The path with the symlinks of all but its last name resolved.

    The path is walked from "/" as in the kernel, and no name is looked up in a directory where
    another user could exchange it.  So, unlike elsewhere here, paths of several names are safe, as
    long as these directories keep their owners and modes.  mode: missing directories are made.
    """
    whole = path if path.startswith("/") else os.path.join(os.getcwd(), path)
    head, _, last = whole.rpartition("/")
    if last in ("", ".", ".."):
        head, last = f"{head}/{last}", "."
    names, here, followed = head.split("/")[::-1], "/", 0
    open_to_others = top = _check_above("/", os.lstat("/"), path)
    while names:
        name = names.pop()
        if name in ("", "."):
            continue
        entry = os.path.dirname(here) if name == ".." else os.path.join(here, name)
        st = _lstat(entry, mode)
        if stat.S_ISLNK(st.st_mode):
            if open_to_others and not trusted(st.st_uid):
                raise _refused(path, f"{entry} above it is a symlink of uid {st.st_uid}")
            followed += 1
            if followed > LINKS_MAX:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
            target = os.readlink(entry)
            names += target.split("/")[::-1]
            if target.startswith("/"):
                here, open_to_others = "/", top
        elif stat.S_ISDIR(st.st_mode):
            open_to_others = _check_above(entry, st, path)
            here = entry
        else:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
    return os.path.join(here, last)


def _lstat(entry: str, mode: int | None) -> os.stat_result:
    try:
        return os.lstat(entry)
    except FileNotFoundError:
        if mode is None:
            raise
        _make(entry, mode)
        return os.lstat(entry)


def _check_above(entry: str, st: os.stat_result, path: str) -> bool:
    """Whether other users can make names in this directory; raises NotPermitted if they can
    exchange the next name of the path.

    With the sticky bit only its owner can exchange a name, and the next step checks that owner.  A
    user's own directory may be writable by its group: umask 002 assumes groups of one user.
    """
    if not trusted(st.st_uid):
        raise _refused(path, f"{entry} above it belongs to uid {st.st_uid}")
    if not st.st_mode & _WRITABLE:
        return False
    if not st.st_mode & stat.S_ISVTX and (
        st.st_mode & stat.S_IWOTH or st.st_uid != os.geteuid() or by_root()
    ):
        raise _refused(path, f"{entry} above it has mode 0{stat.S_IMODE(st.st_mode):o}")
    return True


def trusted(uid: int) -> bool:
    """Whether the uid is ours or root's.  In a user namespace the machine's root has the overflow
    uid, as all users without an id there."""
    if uid in (os.geteuid(), 0):
        return True
    with open("/proc/sys/kernel/overflowuid") as file:
        return uid == int(file.read()) and not in_first_user_namespace()


def by_root() -> bool:
    """Whether this process acts with the authority of the machine's root."""
    return os.geteuid() == 0 and in_first_user_namespace()


def in_first_user_namespace() -> bool:
    """Whether ids are the machine's, so that uid 0 is the machine's root."""
    return os.stat("/proc/self/ns/user").st_ino == _FIRST_USER_NAMESPACE
