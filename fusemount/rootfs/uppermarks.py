"""Law: whose marks an upper's are, `trusted.overlay.*` or `user.overlay.*`; it decides by the same
rule as fusemount/layer/marks.py, because an upper may be a layer of the next mount.

Root takes `user.` marks where it is asked to (userxattr).  The upper's root directory remembers
that root was asked, in an xattr that only root can set.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from fusemount._native import (
    MARKS_OWNER,
    MARKS_ROOTS_WORD,
    MARKS_TRUSTED,
    MARKS_UPPER,
    MARKS_USER,
    marks_said,
)
from fusemount.beneath import by_root
from fusemount.errors import UpperError

TRUSTED, USER = b"trusted.overlay.", b"user.overlay."
ROOTS_WORD = b"trusted.overlay.imgmount.userxattr"


def prefixes(fd: int, path: Path, userxattr: bool) -> tuple[bytes, ...]:
    """Prefixes that the marks of an upper may have; the first that can be written is the one, the
    last where nothing is written.  Raises UpperError for a user's upper that root was not asked to
    believe."""
    flags = marks_said(fd)
    trusted = bool(flags & MARKS_TRUSTED)
    if userxattr or (flags & MARKS_ROOTS_WORD and not trusted):
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
    """Whether names `.wh.` are marks: in what neither overlayfs nor we wrote."""
    return not marks_said(fd) & MARKS_UPPER


def remember(fd: int) -> None:
    """Root was asked to take `user.` marks here; without trusted xattrs it is asked each time."""
    if by_root():
        with suppress(OSError):
            os.setxattr(fd, ROOTS_WORD, b"y")
