"""Law: reads and converts the marks `.wh.…`, which are names, in an upper that fuse-overlayfs made.

    .wh.NAME          an empty file: NAME is hidden (where mknod(2) is not permitted)
    .wh..wh..opq      an empty file: nothing of the layers shows in the directory
    .wh..wh.*         an empty file: bookkeeping of aufs

An upper that overlayfs or imgmount made has no such marks; there, such a name is an ordinary file
(native/dir/dirmarks.h tells these uppers apart).  So the marks are converted to overlayfs' own
before the upper is marked as ours.  A crash in between leaves some of both kinds, which means the
same.  A name `.wh.…` of anything but an empty file or a whiteout is an ordinary file in every
upper. Source: fuse-overlayfs 1.10, main.c (hide_node, set_fd_opaque).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from fusemount.beneath import open_beneath
from fusemount.dataclass import dataclass

if TYPE_CHECKING:
    from fusemount.rootfs.upper import Upper

_PREFIX, _META, _OPAQUE = b".wh.", b".wh..wh.", b".wh..wh..opq"


@dataclass(frozen=True)
class Prefixed:
    """The names of one directory.

    marks: names that are marks.  hidden: the names that these hide, without those that the
    directory has.  others: names that are no marks.  path: the directory's, if it has marks."""

    marks: Collection[bytes]
    hidden: Sequence[bytes]
    others: Sequence[bytes]
    opaque: bool
    path: bytes = b""


def list_names(fd: int, *, prefixed: bool) -> Prefixed:
    """Lists an open directory, sorted by name; prefixed: names `.wh.…` may be marks."""
    names = sorted(map(os.fsencode, os.listdir(fd)))
    marks = {name for name in names if prefixed and name.startswith(_PREFIX) and _is_mark(fd, name)}
    others = [name for name in names if name not in marks]
    if _OPAQUE in marks:  # it already hides everything
        return Prefixed(marks, [], others, opaque=True)
    hidden = [name[len(_PREFIX) :] for name in sorted(marks) if not name.startswith(_META)]
    there = {b"", b".", b"..", *names}
    hidden = [name for name in hidden if name not in there]
    return Prefixed(marks, hidden, others, opaque=False)


def _is_mark(fd: int, name: bytes) -> bool:
    try:
        st = os.stat(name, dir_fd=fd, follow_symlinks=False)
    except FileNotFoundError:  # removed since it was listed
        return False
    whiteout = stat.S_ISCHR(st.st_mode) and st.st_rdev == 0
    return whiteout or (stat.S_ISREG(st.st_mode) and st.st_size == 0)


def convert(upper: Upper, found: Prefixed) -> None:
    """Replaces the marks of one directory by overlayfs' own. Raises OSError."""
    fd = open_beneath(upper.fd, found.path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        st = os.fstat(fd)
        upper.mark_times(fd, b".", st.st_atime_ns, st.st_mtime_ns)
        if found.opaque:
            upper.set_mark(fd, b".", b"opaque", b"y")
        else:
            for name in found.hidden:
                upper.whiteout(fd, name)
        for name in found.marks:
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=fd)
        upper.restore_times(fd, b".", st.st_atime_ns, st.st_mtime_ns)
    finally:
        os.close(fd)
