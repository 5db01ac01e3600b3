"""Law: decides whether the marks of an upper are `trusted.overlay.*` or `user.overlay.*`, by the
same rule as fusemount/layer/marks.py, because an upper may be a layer of the next mount.

Root uses `user.` marks only if asked to (userxattr).  An xattr on the upper's root directory, which
only root can set, records that root was asked.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

from fusemount._native import (
    MARKS_OWNER,
    MARKS_TRUSTED,
    MARKS_UPPER,
    MARKS_USER,
    MARKS_USERXATTR,
    root_marks,
)
from fusemount.beneath import by_root
from fusemount.errors import UpperError

TRUSTED, USER = b"trusted.overlay.", b"user.overlay."
USERXATTR = b"trusted.overlay.imgmount.userxattr"
# objects.py: of all objects but the root directory
_MARKS = (
    *(b"opaque", b"redirect", b"metacopy", b"whiteout", b"imgmount.origin", b"imgmount.times"),
    *(b"imgmount.held", b"imgmount.special", b"imgmount.set_id", b"imgmount.capability"),
)
_MEANINGFUL = (
    *(b"security.capability", b"system.posix_acl_access", b"system.posix_acl_default"),
    b"user.containers.override_stat",
)
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.E2BIG, errno.ERANGE)
_FULL_BLOCKS = 256  # a file system with fewer free blocks is full, not the object


def prefixes(fd: int, path: Path, userxattr: bool) -> tuple[bytes, ...]:
    """Prefixes that the marks of an upper may have, best first.

    The upper has the first one that can be written, or the last one if it is only read.  Raises
    UpperError for root and an upper with `user.` marks, if root was not asked to trust these."""
    flags = root_marks(fd)
    trusted = bool(flags & MARKS_TRUSTED)
    if userxattr or (flags & MARKS_USERXATTR and not trusted):
        return (USER,)
    if not by_root():
        return (USER,) if flags & MARKS_USER and not trusted else (TRUSTED, USER)
    if flags & (MARKS_USER | MARKS_OWNER) and not trusted:
        raise UpperError(
            f"{path}: an upper with a user's marks (user.*), which root does not obey unasked: "
            "--userxattr (-o userxattr)"
        )
    return (TRUSTED,)


def has_prefixed_names(fd: int) -> bool:
    """Whether names `.wh.…` are marks, because neither overlayfs nor imgmount made the upper."""
    return not root_marks(fd) & MARKS_UPPER


def remember(fd: int) -> None:
    """Records that root was asked to use `user.` marks here; if the file system has no trusted
    xattrs, root is asked each time."""
    if by_root():
        with suppress(OSError):
            os.setxattr(fd, USERXATTR, b"y")


def object_is_full(fd: int, error: OSError) -> bool:
    """Whether an xattr did not fit at one object, while its file system has room: ext4 has one
    block for all xattrs of an object, which the object's owner can fill."""
    return error.errno in _NO_ROOM and os.fstatvfs(fd).f_bfree >= _FULL_BLOCKS


def xattr_names(place: bytes, prefix: bytes, *, follow: bool) -> list[bytes]:
    """The names of an object's xattrs. Raises OSError.

    A user can give an object more names than listxattr(2) can list: 64 KiB, where xfs, btrfs and
    tmpfs keep more.  Then these are the names that mean something here, whether it has them or
    not."""
    try:
        return [os.fsencode(name) for name in os.listxattr(place, follow_symlinks=follow)]
    except OSError as error:
        if error.errno not in (errno.E2BIG, errno.ERANGE):
            raise
    return [*(prefix + mark for mark in _MARKS), *_MEANINGFUL]
