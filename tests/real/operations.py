"""Law: random file-system operations as values, drawn by hypothesis; here nothing is carried out.

one_step() knows names and kinds of calls and nothing of the file system's state, so most sequences run
into each other: names that exist or do not, kinds that fit or do not, directories full or empty.
A step is who does it (a worker's number) and what; the simplest one does nothing, so that a failing
case shrinks to the steps that matter.  What an operation does is in side.py, under its name.
No path climbs (`..`): moved to the top, it would lead out, to one file for both sides.
"""

from __future__ import annotations

import os
import stat
import struct
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

SOMEBODY = 1234
LONG_AGO = 1_500_000_000 * 10**9  # times that operations set lie before this


@dataclass(frozen=True)
class Identity:
    uid: int
    gid: int
    groups: tuple[int, ...]
    umask: int


WORKERS = (
    Identity(0, 0, (0,), 0o022),
    Identity(SOMEBODY, SOMEBODY, (SOMEBODY,), 0o002),
    Identity(5, 6, (6, 8, SOMEBODY), 0o077),
)

NOTHING, REMOUNT, DROP, DUMP = "nothing", "remount", "drop", "dump"  # these the driver carries out


@dataclass(frozen=True)
class Step:
    worker: int
    name: str
    arguments: tuple[Any, ...] = ()

    def __str__(self) -> str:
        return f"Step({self.worker}, {self.name!r}, {self.arguments!r}),"


# ---- what an operation is given -----------------------------------------------------------

_TOP = ("d", "e", "f", "g", "h1", "h2", "l", "new", "many", "p", "empty", "sparse", "suid", "sg")
_BELOW = ("a", "b", "sub", "x", "h3", "007", "l")


def _one(*values: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from(values)


@st.composite
def _paths(draw: st.DrawFn) -> str:
    depth = draw(_one(1, 1, 1, 2, 2, 2, 3, 4))
    parts = [draw(st.sampled_from(_TOP)), *(draw(st.sampled_from(_BELOW)) for _ in range(depth - 1))]
    return "/".join(parts)


def acl(*named: tuple[int, int, int], owner: int = 7, group: int = 5, other: int = 0) -> bytes:
    """`system.posix_acl_*`: (tag, permissions, id) of named users (2) and groups (8)."""
    nobody = 2**32 - 1
    entries = [(1, owner, nobody), *(e for e in named if e[0] == 2), (4, group, nobody)]
    entries += [e for e in named if e[0] == 8]
    entries += [(16, 7, nobody)] if named else []
    entries += [(32, other, nobody)]
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


_ACLS = (
    acl((2, 7, SOMEBODY)), acl((2, 0, SOMEBODY), (8, 6, 6)), acl((8, 7, 8), owner=6, other=4),
    acl(owner=6, group=4, other=4), acl()[:-3],
)  # fmt: skip
CAPABILITY = struct.pack("<5I", 0x02000001, 1 << 10, 0, 0, 0)  # net_bind_service, effective

_path = _paths()
_slot = st.integers(0, 5)
_tag = st.integers(0, 255)
_mode = _one(0o644, 0o600, 0o755, 0o711, 0o444, 0o777)
_any_mode = _one(0o644, 0o600, 0o755, 0o444, 0o777, 0o1755, 0o2755, 0o4755, 0o6777, 0o2644)
_size = _one(0, 1, 100, 4095, 4096, 4097, 10_000, 70_000, 200_000)
_place = _one(0, 1, 5, 4090, 4096, 9_000, 12_288, 69_000)
_aligned = _one(0, 4096, 8192, 65_536)
_xattr = _one("user.k", "user.other", "trusted.t")
_value = _one(b"", b"v", b"\0binary\xff", b"long" * 300)
_time = _one(0, 1, 1_000_000_000_123_456_789, 1_300_000_000_000_000_001)
_owner, _group = _one(-1, 0, 5, 7, SOMEBODY), _one(-1, 0, 6, 8, SOMEBODY)
_how = _one(os.SEEK_SET, os.SEEK_CUR, os.SEEK_END)

_OPEN_FLAGS = (
    os.O_RDONLY, os.O_RDWR, os.O_WRONLY, os.O_RDWR | os.O_CREAT, os.O_WRONLY | os.O_APPEND,
    os.O_RDWR | os.O_CREAT | os.O_EXCL, os.O_WRONLY | os.O_TRUNC, os.O_RDONLY | os.O_DIRECTORY,
    os.O_RDWR | os.O_CREAT | os.O_TRUNC, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, os.O_PATH,
    os.O_RDWR | os.O_APPEND | os.O_CREAT, os.O_RDONLY | os.O_NOATIME, os.O_PATH | os.O_NOFOLLOW,
)  # fmt: skip
_flags = st.sampled_from(_OPEN_FLAGS)
_node = _one(
    (stat.S_IFBLK, 300, 70_000), (stat.S_IFIFO, 0, 0), (stat.S_IFSOCK, 0, 0), (stat.S_IFREG, 0, 0),
    (stat.S_IFCHR, 300, 7),
)  # fmt: skip
_name = st.sampled_from(_BELOW)

_ARGUMENTS: dict[str, tuple[st.SearchStrategy[Any], ...]] = {
    # descriptors
    "open": (_slot, _path, _flags, _mode),
    "open_at": (_slot, _slot, _name, _flags, _mode),
    "close": (_slot,),
    "pread": (_slot, _size, _place),
    "pwrite": (_slot, _tag, _size, _place),
    "write": (_slot, _tag, _size),
    "read_on": (_slot, _size),
    "seek": (_slot, _place, _how),
    "ftruncate": (_slot, _size),
    "fstat": (_slot,),
    "fchmod": (_slot, _any_mode),
    "fchown": (_slot, _owner, _group),
    "fsync": (_slot,),
    "fd_xattrs": (_slot, _xattr, _value),
    "listdir_fd": (_slot,),
    "reopen": (_slot,),
    "same_as": (_slot, _path),
    "link_fd": (_slot, _path),
    "mkdir_at": (_slot, _name, _mode),
    "unlink_at": (_slot, _name),
    "rename_at": (_slot, _name, _slot, _name),
    "sendfile": (_slot, _slot, _size),
    "flock": (_slot, _one(1, 2, 8)),
    "lock": (_slot, _one("F_SETLK", "F_OFD_SETLK", "F_GETLK"), _one(0, 1, 2), _place, _size),
    # shared mappings
    "map": (_slot, _slot, st.booleans()),
    "unmap": (_slot,),
    "map_read": (_slot, _place, _size),
    "map_write": (_slot, _place, _tag, _one(1, 3, 5000)),
    # paths
    "save": (_path, _tag, _size),
    "append": (_path, _tag, _size),
    "replace": (_path, _tag, _size),
    "read": (_path,),
    "direct_read": (_path, _aligned),
    "direct_write": (_path, _tag, _aligned, _aligned),
    "truncate": (_path, _size),
    "mkdir": (_path, _one(0o755, 0o700, 0o2775, 0o1777)),
    "rmdir": (_path,),
    "unlink": (_path,),
    "rmtree": (_path,),
    "rename": (_path, _path),
    "renameat2": (_path, _path, _one(1, 2, 3)),
    "link": (_path, _path),
    "symlink": (_one("a", "d/a", "./f", "nowhere", "sub", "l"), _path),
    "readlink": (_path,),
    "mknod": (_path, _node, _mode),
    "chmod": (_path, _any_mode),
    "chown": (_path, _owner, _group, st.booleans()),
    "utime": (_path, _time, _time, st.booleans()),
    "utime_part": (_path, _one("omit", "now", "set"), _one("set", "omit", "now"), _time),
    "setxattr": (_path, _xattr, _value),
    "set_capability": (_path,),
    "set_acl": (_path, st.sampled_from(_ACLS)),
    "remove_acl": (_path, _one("access", "default")),
    "removexattr": (_path, _xattr),
    "xattrs": (_path,),
    "listdir": (_path,),
    "list_and_seek": (_path,),
    "list_and_remove": (_path, _one(1, 3, 20)),
    "stat": (_path,),
    "same": (_path, _path),
    "access": (_path, _one(os.R_OK, os.W_OK, os.X_OK)),
    # the process
    "chdir": (_path,),
    "home": (),
    "umask": (_one(0o022, 0, 0o077, 0o002),),
}
# Where pyfuse3 answers alone these go another way: it has no handlers for them, or the kernel has
# taken the umask off before it asks (README, "Limits").
_FAST_ONLY: dict[str, tuple[st.SearchStrategy[Any], ...]] = {
    "copy_range": (_slot, _slot, _size, _place),
    "fallocate": (_slot, _one(0, 1, 3, 16, 17), _place, _size),
    "holes": (_slot,),
    "set_default_acl": (_path, st.sampled_from(_ACLS)),
    "setxattr_flags": (_path, _xattr, _value, _one(1, 2)),
}
_DRIVER = {REMOUNT: 0.5, DROP: 2.0, DUMP: 1.0}
_WEIGHTS = {
    "open": 10, "pread": 3, "pwrite": 5, "write": 3, "rename": 9, "unlink": 4, "mkdir": 4,
    "save": 4, "replace": 3, "link": 4, "stat": 3, "listdir": 3, "rmtree": 0.5, "close": 2.5,
    "renameat2": 5, "map_write": 4, "map": 4, "chdir": 0.5, "home": 1, "umask": 0.5,
    "copy_range": 3, "fallocate": 4,
} | _DRIVER  # fmt: skip


def one_step(fastpath: bool) -> st.SearchStrategy[Step]:
    arguments = _ARGUMENTS | (_FAST_ONLY if fastpath else {}) | dict.fromkeys(_DRIVER, ())
    weighted = [NOTHING]
    for name in arguments:
        weighted += [name] * int(2 * _WEIGHTS.get(name, 1.5))
    worker = st.sampled_from((0, 0, 0, 1, 1, 2))

    @st.composite
    def step(draw: st.DrawFn) -> Step:
        name = draw(st.sampled_from(weighted))
        if name == NOTHING or name in _DRIVER:
            return Step(0, name)
        return Step(draw(worker), name, tuple(draw(s) for s in arguments[name]))

    return step()
