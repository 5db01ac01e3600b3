"""Law: names that strangers chose are resolved below a descriptor, here and nowhere else.

Whoever can write to a directory can put a symlink in any place of it at any time, and who wrote an
image chose every name in it. So a path of several names is never given to a system call: it becomes
(descriptor of the directory, last name) or a descriptor here, and what is done after that follows
no symlink. native/beneath.h does it (openat2(2), or name by name).

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

from fusemount import _native
from fusemount.errors import NotPermitted

_DIRECTORY = os.O_PATH | os.O_DIRECTORY
_OWN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
LINKS_MAX = 40  # as the kernel's


def open_beneath(dir_fd: int, path: bytes | str, flags: int, mode: int = 0o777) -> int:
    """open(2) of a path below dir_fd; O_PATH | O_NOFOLLOW opens a symlink itself."""
    return _native.open_beneath(dir_fd, path, flags, mode)


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
) -> int:
    """The descriptor of a directory that nobody else can change; what is missing of it is made.

    What is made, parents too, has exactly that mode. inside: it is that one name in a directory of
    ours, and path only says so in errors.
    Raises NotPermitted for a directory of another user (root's are as good as ours), for one that
    its group or others may write to, for a symlink.
    """
    name = os.fspath(path).rstrip("/") or "/"
    above, place = inside or (None, name)
    made = make and _made(place, mode, above)
    try:
        fd = os.open(place, _OWN, dir_fd=above)
    except OSError as e:
        if e.errno not in (errno.ENOTDIR, errno.ELOOP):
            raise
        raise _refused(name, _kind(place, above)) from e
    try:
        st = os.fstat(fd)
        if st.st_uid not in (os.geteuid(), 0):
            raise _refused(name, f"it belongs to uid {st.st_uid}")
        if made:
            os.fchmod(fd, mode)
        elif st.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise _refused(name, f"its mode is 0{stat.S_IMODE(st.st_mode):o}")
    except BaseException:
        os.close(fd)
        raise
    return fd


def _refused(name: str, why: str) -> NotPermitted:
    return NotPermitted(f"{name}: must be a directory that only you can write to: {why}")


def _kind(place: str, above: int | None) -> str:
    st = os.stat(place, dir_fd=above, follow_symlinks=False)
    return "it is a symlink" if stat.S_ISLNK(st.st_mode) else "it is none"


def _made(name: str, mode: int, above: int | None) -> bool:
    """Whether the directory was missing and is there now."""
    try:
        os.mkdir(name, mode, dir_fd=above)
    except FileExistsError:
        return False
    except FileNotFoundError:
        parent = os.path.dirname(name)
        if not parent or parent == name:
            raise
        if _made(parent, mode, above):
            os.chmod(parent, mode)  # it was made by us a moment ago, in a directory that we trust
        return _made(name, mode, above)
    return True
