"""Law: objects of an upper that have power over the host, from a mount with `suid` and `dev`, are
made harmless before a mount without these options serves the upper (harmless.py).

Some objects are left as they are: those with names outside the upper, because they may be files of
the host that a user has linked; those that are too deep; and those that a user moves away
meanwhile. An object with no room for a mark loses its powers, as a write would take them: one
object of a user must not keep root from mounting the upper. A crash in between leaves an object's
powers real, in marks, or both; the mount shows the same.  But the names of a device may then be
different objects.

Names are counted although users move them meanwhile: a name that was moved while the upper was read
may have been found twice, at its old path and at its new one.  A change of an object's names gives
the object a new ctime, so names that are there while the ctime stays the same are there at once.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable
from dataclasses import field
from typing import TYPE_CHECKING

from fusemount.beneath import fd_path, object_at, open_beneath, parent_beneath
from fusemount.dataclass import dataclass
from fusemount.rootfs.harmless import CAPABILITY, CAPABILITY_MARK, SET_ID_BITS, is_device
from fusemount.rootfs.objectmarks import TIMES
from fusemount.rootfs.upper import Upper
from fusemount.rootfs.uppermarks import object_is_full

if TYPE_CHECKING:
    from fusemount.rootfs.reading import Object

_MOVED_AWAY = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
_TICK_NS = 20_000_000  # before Linux 6.13 a ctime may be that old: a tick of CONFIG_HZ=100, twice
_SECOND_NS = 10**9
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
    powers.  lost: how many have neither, because no mark fits beside their xattrs.
    one_left, one_lost: the path of one of these."""

    made: int = 0
    left: int = 0
    one_left: bytes = b""
    lost: int = 0
    one_lost: bytes = b""


NONE_HARMED = Harmed()


def make_harmless(upper: Upper, found: Found) -> Harmed:
    """Moves the powers of the found objects into marks. Raises OSError."""
    left: list[bytes] = []
    lost: list[bytes] = []
    made = 0
    _let_pass([names[0].st for names in found.objects.values() if names[0].st.st_nlink > 1])
    for names in found.objects.values():
        st, path = names[0].st, names[0].path
        try:
            if max(name.depth for name in names) > _DEPTH_MAX or not _are_all(upper, names):
                left.append(path)
            elif is_device(st):
                _replace_device(upper, st, [name.path for name in names])
                made += 1
            elif _take_powers(upper, st, path):
                made += 1
            else:
                lost.append(path)
        except OSError as error:
            if error.errno not in _MOVED_AWAY:
                raise
            left.append(path)
    one_left, one_lost = (paths[0] if paths else b"" for paths in (left, lost))
    return Harmed(made, len(left), one_left, len(lost), one_lost)


def _is_same(st: os.stat_result, other: os.stat_result) -> bool:
    """Whether it is still the same object: users may have put another at its path."""
    return (st.st_dev, st.st_ino, st.st_mode) == (other.st_dev, other.st_ino, other.st_mode)


def _let_pass(objects: list[os.stat_result]) -> None:
    """Waits until a change of each object from now on gives it another ctime than it has: at most
    1 s, where the file system keeps whole seconds."""
    now, wait = time.time_ns(), 0
    for st in objects:
        step = _TICK_NS if st.st_ctime_ns % _SECOND_NS else _SECOND_NS
        if 0 <= now - st.st_ctime_ns < step:
            wait = max(wait, st.st_ctime_ns + step - now)
    time.sleep(wait / _SECOND_NS)


def _are_all(upper: Upper, names: list[Object]) -> bool:
    """Whether the names that were found are all names of the object, and were there at once."""
    st = names[0].st
    if st.st_nlink == 1:
        return True
    places = set()
    for found in names:
        with parent_beneath(upper.fd, found.path) as (fd, name):
            now = os.stat(name, dir_fd=fd, follow_symlinks=False)
            if not _is_same(now, st) or now.st_ctime_ns != st.st_ctime_ns:
                return False
            above = os.fstat(fd)
            places.add((above.st_dev, above.st_ino, name))
    return len(places) == st.st_nlink


def _take_powers(upper: Upper, st: os.stat_result, path: bytes) -> bool:
    """False if the object has lost them, for want of room for a mark."""
    fd = open_beneath(upper.fd, path, os.O_PATH | os.O_NOFOLLOW)
    kept = True
    try:
        if not _is_same(os.fstat(fd), st):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        if bits := st.st_mode & SET_ID_BITS:
            kept = _fits(fd, lambda: upper.mark_bits(fd, b"", st, bits))
            os.chmod(fd_path(fd), stat.S_IMODE(st.st_mode) & ~bits)
        value = upper.raw_xattr(fd, b"", CAPABILITY)
        if value is not None:
            kept &= _fits(fd, lambda: upper.set_mark(fd, b"", CAPABILITY_MARK, value))
            os.removexattr(fd_path(fd), CAPABILITY)
        return kept
    finally:
        os.close(fd)


def _fits(fd: int, mark: Callable[[], None]) -> bool:
    """False if there is no room for the mark at its object. Raises OSError if the file system is
    full: no object is to lose its powers for that."""
    try:
        mark()
    except OSError as error:
        if not object_is_full(fd, error):
            raise
        return False
    return True


def _replace_device(upper: Upper, st: os.stat_result, paths: list[bytes]) -> None:
    """Replaces a device by an empty file, name by name."""
    work, staged = upper.work_fd, upper.temporary()
    try:
        with parent_beneath(upper.fd, paths[0]) as place, object_at(*place) as device:
            if not _is_same(os.fstat(device), st):
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
            stored = upper.stored(device, b"")
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
