"""Law: what a request carries beside names and data: who asks, and which attributes shall change.

A change that an upper shows against its layers is `Change`, in changes.py.
"""

from __future__ import annotations

from fusemount.dataclass import dataclass


@dataclass(frozen=True)
class Caller:
    """The process that asks.

    umask: applied to a new object unless the directory has a default ACL, which takes its place.
    pid: in our pid namespace, 0 where the process has none there; supplementary groups are looked
    up by it (native/upper/caller.h).
    """

    uid: int
    gid: int
    umask: int = 0
    pid: int = 0


ROOT_CALLER = Caller(0, 0)


@dataclass(frozen=True)
class AttrChange:
    """What SETATTR shall change; None leaves a field as it is. Times in ns, mode the 07777 part."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None
