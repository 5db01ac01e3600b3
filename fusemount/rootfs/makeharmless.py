"""Law: objects of an upper that have power over the host, from a mount with `suid` and `dev`, are
made harmless before a mount without these options serves the upper (harmless.py).

Some objects are left as they are: those with names outside the upper, because they may be files of
the host that a user has linked; those that are too deep; and those that a user moves away
meanwhile. A crash in between leaves an object's powers real, in marks, or both; the mount shows the
same.  But the names of a device may then be different objects.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import field
from typing import TYPE_CHECKING

from fusemount.beneath import fd_path, open_beneath, parent_beneath
from fusemount.dataclass import dataclass
from fusemount.rootfs.harmless import CAPABILITY, CAPABILITY_MARK, SET_ID_BITS, is_device
from fusemount.rootfs.objects import TIMES
from fusemount.rootfs.upper import Upper

if TYPE_CHECKING:
    from fusemount.rootfs.reading import Object

_MOVED_AWAY = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
_DEPTH_MAX = 4096  # directories; reading.py, DEPTH_MAX


@dataclass
class Found:
    """Objects of an upper that have power over the host: all names of each, by (st_dev, st_ino)."""

    objects: dict[tuple[int, int], list[Object]] = field(default_factory=dict)

    def add(self, found: Object) -> None:
        self.objects.setdefault(found.key, []).append(found)


@dataclass(frozen=True)
class Harmed:
    """made: how many objects have their powers in marks now.  left: how many still have real
    powers.
    one_left: the path of one of these."""

    made: int = 0
    left: int = 0
    one_left: bytes = b""


NONE_HARMED = Harmed()


def make_harmless(upper: Upper, found: Found) -> Harmed:
    """Moves the powers of the found objects into marks. Raises OSError."""
    made, left, one_left = 0, 0, b""
    for names in found.objects.values():
        st = names[0].st
        if st.st_nlink > len(names) or max(name.depth for name in names) > _DEPTH_MAX:
            left, one_left = left + 1, names[0].path
            continue
        try:
            if is_device(st):
                _replace_device(upper, st, [name.path for name in names])
            else:
                _take_powers(upper, st, names[0].path)
            made += 1
        except OSError as error:
            if error.errno not in _MOVED_AWAY:
                raise
    return Harmed(made, left, one_left)


def _is_same(st: os.stat_result, other: os.stat_result) -> bool:
    """Whether it is still the same object: users may have put another at its path."""
    return (st.st_dev, st.st_ino, st.st_mode) == (other.st_dev, other.st_ino, other.st_mode)


def _take_powers(upper: Upper, st: os.stat_result, path: bytes) -> None:
    fd = open_beneath(upper.fd, path, os.O_PATH | os.O_NOFOLLOW)
    try:
        if not _is_same(os.fstat(fd), st):
            return
        if bits := st.st_mode & SET_ID_BITS:
            upper.mark_bits(fd, b"", st, bits)
            os.chmod(fd_path(fd), stat.S_IMODE(st.st_mode) & ~bits)
        value = upper.raw_xattr(fd, b"", CAPABILITY)
        if value is not None:
            upper.set_mark(fd, b"", CAPABILITY_MARK, value)
            os.removexattr(fd_path(fd), CAPABILITY)
    finally:
        os.close(fd)


def _replace_device(upper: Upper, st: os.stat_result, paths: list[bytes]) -> None:
    """Replaces a device by an empty file, name by name."""
    work, staged = upper.work_fd, upper.temporary()
    try:
        with parent_beneath(upper.fd, paths[0]) as (fd, name):
            stored = upper.stored(fd, name)
        upper.make_node(work, staged, stat.S_IFMT(st.st_mode) | 0o600, st.st_rdev)
        upper.give(work, staged, upper.owner_of(st, stored))
        for key, value in upper.user_xattrs(stored).items():
            upper.set_xattr(work, staged, key, value)
        if origin := stored.get(upper.prefix + b"imgmount.origin"):
            upper.try_mark(work, staged, b"imgmount.origin", origin)
        os.utime(staged, ns=(st.st_atime_ns, st.st_mtime_ns), dir_fd=work, follow_symlinks=False)
        for path in paths:
            with parent_beneath(upper.fd, path) as (fd, name):
                if _is_same(os.stat(name, dir_fd=fd, follow_symlinks=False), st):
                    _put_over(upper, staged, fd, name)
    finally:
        upper.leave(staged)


def _put_over(upper: Upper, staged: bytes, fd: int, name: bytes) -> None:
    """Moves a link of the staged file over a name; the directory keeps its times (copyup.py, C6).

    If a crash has left a mark `times` there, that mark has the right times and stays."""
    work, spare, st = upper.work_fd, upper.temporary(), os.fstat(fd)
    os.link(staged, spare, src_dir_fd=work, dst_dir_fd=work, follow_symlinks=False)
    marked = upper.mark(fd, b".", TIMES) is not None
    if not marked:
        upper.mark_times(fd, b".", st.st_atime_ns, st.st_mtime_ns)
    os.rename(spare, name, src_dir_fd=work, dst_dir_fd=fd)
    if not marked:
        upper.restore_times(fd, b".", st.st_atime_ns, st.st_mtime_ns)
