"""Law: names that strangers chose are resolved below a descriptor, here and nowhere else.

Whoever can write to a directory can put a symlink in any place of it at any time, and who wrote an
image chose every name in it. So a path of several names is never given to a system call: it becomes
(descriptor of the directory, last name) or a descriptor here, and what is done after that follows
no symlink. native/base/beneath.h does it (openat2(2), or name by name).

"Beneath": no symlink is followed at all, ".." and absolute paths are refused (EXDEV).
"In root": as for a process whose root directory is that descriptor.
Paths are bytes or str, of any length; b"" is the descriptor itself. All functions raise OSError:
ELOOP for a symlink where none may be. Descriptors are the caller's to close, and O_CLOEXEC.
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


def open_in_root(root_fd: int, path: bytes | str, flags: int, mode: int = 0o777) -> int:
    """open(2) of a path as a process sees it whose root is root_fd; magic links are ELOOP."""
    return _native.open_in_root(root_fd, path, flags, mode)


def _split(path: bytes | str) -> tuple[bytes, bytes]:
    """(the directory's path, last name); a last name that is "", "." or ".." stays in the first."""
    whole = os.fsencode(path).rstrip(b"/") or os.fsencode(path)[:1]
    head, slash, name = whole.rpartition(b"/")
    return (whole, b".") if name in (b"", b".", b"..") else (head + slash, name)


@contextmanager
def parent_beneath(dir_fd: int, path: bytes | str) -> Iterator[tuple[int, bytes]]:
    """(descriptor of the directory that holds the last name, that name); b"." for dir_fd itself.

    The name may be a symlink: what is done with it must not follow it.
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
    """The same with symlinks followed inside the root, save the last name."""
    head, name = _split(path)
    fd = open_in_root(root_fd, head, _DIRECTORY)
    try:
        yield fd, name
    finally:
        os.close(fd)


def fd_path(fd: int) -> bytes:
    """What calls that take no descriptor take for the very object behind it, be it a symlink or
    opened with O_PATH: they must follow the last name."""
    return b"/proc/self/fd/%d" % fd


def name_in(fd: int, name: bytes) -> bytes:
    """And for one name in the directory fd: they must not follow it."""
    if b"/" in name:
        raise ValueError(f"{name!r} is more than a name")
    return b"/proc/self/fd/%d/%s" % (fd, name)


def make_dirs_in_root(root_fd: int, path: bytes | str, mode: int = 0o755) -> int:
    """mkdir -p as a process does whose root is root_fd; an O_PATH descriptor of the directory.

    What is made has exactly that mode. Where a symlink leads to nothing, its target is made.
    """
    _make_in_root(root_fd, os.fsencode(path).split(b"/"), mode)
    return open_in_root(root_fd, path, _DIRECTORY)


def make_file_in_root(root_fd: int, path: bytes | str, mode: int = 0o644) -> None:
    """Likewise an empty file, with the directories above it; what is there is left as it is."""
    _make_in_root(root_fd, os.fsencode(path).split(b"/"), 0o755, mode)


def _make_in_root(root_fd: int, names: list[bytes], mode: int, of_file: int | None = None) -> None:
    """mode: of directories; of_file: of the last name, if that is to be a file."""
    done, followed = 0, 0
    while done < len(names):
        path = b"/".join(names[: done + 1])
        file_mode = of_file if done + 1 == len(names) else None
        flags = _DIRECTORY if file_mode is None else os.O_PATH | os.O_CLOEXEC
        with parent_in_root(root_fd, path) as (fd, name):
            try:
                os.close(open_in_root(root_fd, path, flags))
            except FileNotFoundError:
                target = _make_or_read(fd, name, mode, file_mode)
                if target is not None:
                    followed += 1
                    if followed > LINKS_MAX:
                        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path) from None
                    before = [] if target.startswith(b"/") else names[:done]
                    names, done = before + target.split(b"/") + names[done + 1 :], 0
                    continue
        done += 1


def _make_or_read(fd: int, name: bytes, mode: int, file_mode: int | None) -> bytes | None:
    """Makes a directory or file; the target of the symlink that stands there instead."""
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
            return None  # somebody else made it meanwhile
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
    """The descriptor of a directory that nobody else can change; what is missing of it is made.

    Nobody else can put another directory in its place either: its path may be used from now on.
    by_descriptor: the caller goes on by the descriptor alone, so its parents, which must be there,
    may be anybody's.  inside: likewise, and the directory is that one name in a directory that the
    caller holds; path only says so in errors.
    What is made, parents too, has exactly that mode.
    Raises NotPermitted for a directory of another user (root's are as good as ours), for one that
    its group or others may write to, for a symlink, and where another user can change where the
    path leads.
    """
    name = os.fspath(path).rstrip("/") or "/"
    above, place = inside or (None, name)
    if not inside and not by_descriptor:
        place = _secure(name, mode if make else None)
    if make:
        _make(place, mode, above)
    fd = os.open(place, os.O_PATH | os.O_NOFOLLOW, dir_fd=above)
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


def _make(place: str, mode: int, above: int | None = None) -> None:
    """A directory that is there already keeps its mode."""
    try:
        os.mkdir(place, mode, dir_fd=above)
    except FileExistsError:
        return
    fd = os.open(place, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=above)
    try:
        st = os.fstat(fd)
        # Only bits that the umask took are added: where others can exchange the name, this may be
        # another directory of ours.
        if st.st_uid == os.geteuid() and not st.st_mode & 0o777 & ~mode:
            os.chmod(fd_path(fd), mode)
    finally:
        os.close(fd)


def _secure(path: str, mode: int | None) -> str:
    """The path with the symlinks of all but its last name resolved.

    It is walked from "/" as the kernel does, and no name is looked up in a directory where another
    user could exchange it.  So, unlike elsewhere here, paths of several names are safe, for as long
    as these directories keep their owners and modes.  mode: makes what is missing.
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
        place = os.path.dirname(here) if name == ".." else os.path.join(here, name)
        st = _lstat(place, mode)
        if stat.S_ISLNK(st.st_mode):
            if open_to_others and not trusted(st.st_uid):
                raise _refused(path, f"{place} above it is a symlink of uid {st.st_uid}")
            followed += 1
            if followed > LINKS_MAX:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
            target = os.readlink(place)
            names += target.split("/")[::-1]
            if target.startswith("/"):
                here, open_to_others = "/", top
        elif stat.S_ISDIR(st.st_mode):
            open_to_others = _check_above(place, st, path)
            here = place
        else:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
    return os.path.join(here, last)


def _lstat(place: str, mode: int | None) -> os.stat_result:
    try:
        return os.lstat(place)
    except FileNotFoundError:
        if mode is None:
            raise
        _make(place, mode)
        return os.lstat(place)


def _check_above(place: str, st: os.stat_result, path: str) -> bool:
    """Whether others can make names in this directory; they cannot exchange the name that is next.

    With the sticky bit a name is its owner's to exchange, and who owns the next one is looked at
    next.  A user's own directory may be writable by its group: umask 002 is for groups of one.
    """
    if not trusted(st.st_uid):
        raise _refused(path, f"{place} above it belongs to uid {st.st_uid}")
    if not st.st_mode & _WRITABLE:
        return False
    if not st.st_mode & stat.S_ISVTX and (
        st.st_mode & stat.S_IWOTH or st.st_uid != os.geteuid() or by_root()
    ):
        raise _refused(path, f"{place} above it has mode 0{stat.S_IMODE(st.st_mode):o}")
    return True


def trusted(uid: int) -> bool:
    """Ours or root's.  In a user namespace the machine's root shows as the overflow uid, as all do
    who have no id there."""
    if uid in (os.geteuid(), 0):
        return True
    with open("/proc/sys/kernel/overflowuid") as file:
        return uid == int(file.read()) and not in_first_user_namespace()


def by_root() -> bool:
    """Whether what we do, we do with the authority of the machine's root."""
    return os.geteuid() == 0 and in_first_user_namespace()


def in_first_user_namespace() -> bool:
    """ids are the machine's, and who is root is root."""
    return os.stat("/proc/self/ns/user").st_ino == _FIRST_USER_NAMESPACE
