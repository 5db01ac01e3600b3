"""Law: two values of a request: the process that sent it, and the attributes that it changes.

An AttrChange is asked for by a program.  A difference between an upper and its layers is a `Change`
(changes.py).
"""

from __future__ import annotations

from fusemount.dataclass import dataclass


@dataclass(frozen=True)
class Caller:
    """The process that sent a request.

    umask: applied to a new object unless the directory has a default ACL, which takes its place.
    pid: in our PID namespace; 0 if the process has no PID there.  The supplementary groups of the
    process are looked up by its pid (native/upper/caller.h).
    """

    uid: int
    gid: int
    umask: int = 0
    pid: int = 0


ROOT_CALLER = Caller(0, 0)


@dataclass(frozen=True)
class AttrChange:
    """The attributes that a SETATTR changes; a None is not changed.  mode: the 07777 bits; times in
    ns."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None
