"""Chooses random file-system operations.

Law: this module carries out nothing.  A path never has `..`: after a move to the top of the tree it
would lead out of it, to the same file for both sides.

choose() makes an operation from the known state (known.py): mostly with paths and descriptors that
exist and fit, sometimes with others, so that refusals are compared too.  A Step is the number of a
worker and an operation.  It needs no state, so a list of steps can be made shorter and run again.
side.py and descriptors.py carry out each operation in a method of its name.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from known import Known, Step

SOMEBODY = 1234


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
REMOUNT, DROP, DUMP = "remount", "drop", "dump"  # the driver carries these out


def acl(*named: tuple[int, int, int], owner: int = 7, group: int = 5, other: int = 0) -> bytes:
    """A value of `system.posix_acl_*`: (tag, permissions, id) of named users (2) and groups (8)."""
    nobody = 2**32 - 1
    entries = [(1, owner, nobody), *(e for e in named if e[0] == 2), (4, group, nobody)]
    entries += [e for e in named if e[0] == 8]
    entries += [(16, 7, nobody)] if named else []
    entries += [(32, other, nobody)]
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


CAPABILITY = struct.pack("<5I", 0x02000001, 1 << 10, 0, 0, 0)  # net_bind_service, effective
_ACLS = (
    acl((2, 7, SOMEBODY)), acl((2, 0, SOMEBODY), (8, 6, 6)), acl((8, 7, 8), owner=6, other=4),
    acl(owner=6, group=4, other=4), acl()[:-3],
)  # fmt: skip

# ---- arguments of an operation ------------------------------------------------------------

_TOP = ("d", "e", "f", "g", "h1", "h2", "l", "new", "many", "p", "empty", "sparse", "suid", "sg")
_BELOW = ("a", "b", "sub", "x", "h3", "007", "l", "new")
_OPEN_FLAGS = (
    os.O_RDONLY, os.O_RDWR, os.O_RDWR, os.O_RDWR, os.O_WRONLY, os.O_WRONLY | os.O_APPEND,
    os.O_RDWR | os.O_TRUNC, os.O_RDONLY | os.O_DIRECTORY, os.O_PATH, os.O_RDONLY | os.O_NOATIME,
    os.O_RDWR | os.O_APPEND, os.O_PATH | os.O_NOFOLLOW,
)  # fmt: skip
_CREATE_FLAGS = (
    os.O_RDWR | os.O_CREAT, os.O_RDWR | os.O_CREAT | os.O_EXCL, os.O_WRONLY | os.O_CREAT,
    os.O_RDWR | os.O_CREAT | os.O_TRUNC, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW,
    os.O_RDWR | os.O_CREAT | os.O_APPEND,
)  # fmt: skip
_NODES = (
    (stat.S_IFBLK, 300, 70_000), (stat.S_IFIFO, 0, 0), (stat.S_IFSOCK, 0, 0), (stat.S_IFREG, 0, 0),
    (stat.S_IFCHR, 300, 7),
)  # fmt: skip
_MODES = (0o644, 0o600, 0o755, 0o711, 0o444, 0o777, 0o666)
_ANY_MODES = (0o644, 0o600, 0o755, 0o444, 0o777, 0o1755, 0o2755, 0o4755, 0o6777, 0o666)
_SIZES = (0, 1, 100, 4095, 4096, 4097, 10_000, 70_000, 200_000)
_PLACES = (0, 1, 5, 4090, 4096, 9_000, 12_288, 69_000)
_TIMES = (0, 1, 1_000_000_000_123_456_789, 1_300_000_000_000_000_001)


class Draw:
    """Draws the arguments of an operation for a worker."""

    def __init__(self, random: Random, known: Known, worker: int) -> None:
        self._random, self._known, self._worker = random, known, worker

    def one(self, *values: Any) -> Any:
        return self._random.choice(values)

    # paths

    def any_path(self) -> str:
        parts = [self.one(*_TOP)]
        while self._random.random() < 0.5 and len(parts) < 4:
            parts.append(self.one(*_BELOW))
        return "/".join(parts)

    def _existing(self, *kinds: int) -> str:
        found = self._known.paths(*kinds)
        return self.any_path() if not found or self._random.random() < 0.08 else self.one(*found)

    def path(self) -> str:
        return self._existing()

    def file(self) -> str:
        return self._existing(stat.S_IFREG) if self._random.random() < 0.9 else self.path()

    def directory(self) -> str:
        return self._existing(stat.S_IFDIR) if self._random.random() < 0.9 else self.path()

    def link(self) -> str:
        return self._existing(stat.S_IFLNK) if self._random.random() < 0.8 else self.path()

    def place(self) -> str:
        """A path for a new file, which may exist already, in a directory that exists."""
        if self._random.random() < 0.3:
            return self.any_path()
        return f"{self.directory()}/{self.name()}"

    def name(self) -> str:
        return self.one(*_BELOW)

    # the worker's descriptors and mappings

    def free(self) -> int:
        return self._random.randrange(6)

    def _held(self, kind: str) -> int:
        found = self._known.slots(self._worker, kind)
        return self.free() if not found or self._random.random() < 0.05 else self.one(*found)

    def slot(self) -> int:
        return self._held("any")

    def data(self) -> int:
        return self._held("file")

    def dir(self) -> int:
        return self._held("directory")

    def map(self) -> int:
        return self._held("map")

    # values

    def size(self) -> int:
        return self.one(*_SIZES)

    def at(self) -> int:
        return self.one(*_PLACES)

    def tag(self) -> int:
        return self._random.randrange(256)

    def mode(self) -> int:
        return self.one(*_MODES)

    def any_mode(self) -> int:
        return self.one(*_ANY_MODES)

    def xattr(self) -> str:
        return self.one("user.k", "user.other", "trusted.t")

    def value(self) -> bytes:
        return self.one(b"", b"v", b"\0binary\xff", b"long" * 300)

    def time(self) -> int:
        return self.one(*_TIMES)

    def owner(self) -> tuple[int, int]:
        """A uid, a gid or both: the kernel sends FUSE no request for a chown() with neither, which
        drops set-id bits on ext4."""
        uid = self.one(-1, 0, 5, 7, SOMEBODY)
        return uid, self.one(*((-1,) if uid != -1 else ()), 0, 6, 8, SOMEBODY)

    def aligned(self) -> int:
        return self.one(0, 4096, 8192, 65_536)


_ARGUMENTS: dict[str, Callable[[Draw], tuple[Any, ...]]] = {
    # descriptors
    "open": lambda d: (d.free(), d.one(d.file(), d.file(), d.path()), d.one(*_OPEN_FLAGS), 0),
    "create": lambda d: (d.free(), d.place(), d.one(*_CREATE_FLAGS), d.mode()),
    "open_at": lambda d: (d.free(), d.dir(), d.name(), d.one(*_OPEN_FLAGS, *_CREATE_FLAGS), 0o644),
    "open_directory": lambda d: (d.free(), d.directory()),
    "close": lambda d: (d.slot(),),
    "pread": lambda d: (d.data(), d.size(), d.at()),
    "pwrite": lambda d: (d.data(), d.tag(), d.size(), d.at()),
    "write": lambda d: (d.data(), d.tag(), d.size()),
    "read_on": lambda d: (d.data(), d.size()),
    "seek": lambda d: (d.data(), d.at(), d.one(os.SEEK_SET, os.SEEK_CUR, os.SEEK_END)),
    "ftruncate": lambda d: (d.data(), d.size()),
    "fstat": lambda d: (d.slot(),),
    "fchmod": lambda d: (d.slot(), d.any_mode()),
    "fchown": lambda d: (d.slot(), *d.owner()),
    "fsync": lambda d: (d.data(),),
    "fd_xattrs": lambda d: (d.slot(), d.xattr(), d.value()),
    "listdir_fd": lambda d: (d.dir(),),
    "reopen": lambda d: (d.data(),),
    "same_as": lambda d: (d.slot(), d.path()),
    "link_fd": lambda d: (d.data(), d.place()),
    "mkdir_at": lambda d: (d.dir(), d.name(), d.mode()),
    "unlink_at": lambda d: (d.dir(), d.name()),
    "rename_at": lambda d: (d.dir(), d.name(), d.dir(), d.name()),
    "sendfile": lambda d: (d.data(), d.data(), d.size()),
    "flock": lambda d: (d.data(), d.one(1, 2, 8)),
    "lock": lambda d: (
        d.data(), d.one("F_SETLK", "F_OFD_SETLK", "F_GETLK"), d.one(0, 1, 2), d.at(), d.size(),
    ),
    # shared mappings
    "map": lambda d: (d.free(), d.data(), d.one(True, True, False)),
    "unmap": lambda d: (d.map(),),
    "map_read": lambda d: (d.map(), d.at(), d.size()),
    "map_write": lambda d: (d.map(), d.at(), d.tag(), d.one(1, 3, 5000)),
    # paths: contents
    "save": lambda d: (d.one(d.file(), d.place()), d.tag(), d.size()),
    "append": lambda d: (d.file(), d.tag(), d.size()),
    "replace": lambda d: (d.file(), d.tag(), d.size()),
    "read": lambda d: (d.file(),),
    "direct_read": lambda d: (d.file(), d.aligned()),
    "direct_write": lambda d: (d.file(), d.tag(), d.aligned(), d.aligned()),
    "truncate": lambda d: (d.file(), d.size()),
    # paths: names
    "mkdir": lambda d: (d.place(), d.one(0o755, 0o777, 0o2775, 0o1777)),
    "rmdir": lambda d: (d.directory(),),
    "unlink": lambda d: (d.path(),),
    "rmtree": lambda d: (d.directory(),),
    "rename": lambda d: (d.path(), d.one(d.place(), d.place(), d.path())),
    "rename_directory": lambda d: (d.directory(), d.one(d.place(), d.place(), d.directory())),
    "renameat2": lambda d: (d.path(), d.one(d.place(), d.path()), d.one(1, 2, 2, 3)),
    "link": lambda d: (d.one(d.file(), d.path()), d.place()),
    "symlink": lambda d: (d.one("a", "d/a", "./f", "nowhere", "sub", "l"), d.place()),
    "readlink": lambda d: (d.link(),),
    "mknod": lambda d: (d.place(), d.one(*_NODES), d.mode()),
    "inside": lambda d: (d.directory(), d.name(), d.name(), d.tag()),
    # paths: attributes
    "chmod": lambda d: (d.path(), d.any_mode()),
    "chown": lambda d: (d.one(d.path(), d.link()), *d.owner(), d.one(True, False)),
    "utime": lambda d: (d.one(d.path(), d.link()), d.time(), d.time(), d.one(True, False)),
    "utime_part": lambda d: (
        d.path(), d.one("omit", "now", "set"), d.one("set", "omit", "now"), d.time(),
    ),
    "setxattr": lambda d: (d.one(d.path(), d.link()), d.xattr(), d.value()),
    "set_capability": lambda d: (d.file(),),
    "set_acl": lambda d: (d.path(), d.one(*_ACLS)),
    "remove_acl": lambda d: (d.path(), d.one("access", "default")),
    "removexattr": lambda d: (d.path(), d.xattr()),
    "xattrs": lambda d: (d.path(),),
    "stat": lambda d: (d.path(),),
    "same": lambda d: (d.path(), d.path()),
    "access": lambda d: (d.path(), d.one(os.R_OK, os.W_OK, os.X_OK)),
    # paths: listings
    "listdir": lambda d: (d.directory(),),
    "list_and_seek": lambda d: (d.directory(),),
    "list_and_remove": lambda d: (d.directory(), d.one(1, 3, 20)),
    # the process
    "umask": lambda d: (d.one(0o022, 0, 0o077, 0o002),),
}  # fmt: skip
# With pyfuse3 only, these give other answers: it has no handlers for them, or the kernel has
# taken the umask off before it asks (docs/limits.md).
_FAST_ONLY: dict[str, Callable[[Draw], tuple[Any, ...]]] = {
    "copy_range": lambda d: (d.data(), d.data(), d.size(), d.at()),
    "fallocate": lambda d: (d.data(), d.one(0, 1, 3, 16, 17), d.at(), d.size()),
    "holes": lambda d: (d.data(),),
    "tmpfile": lambda d: (d.free(), d.directory(), d.mode()),
    "set_default_acl": lambda d: (d.directory(), d.one(*_ACLS)),
    "setxattr_flags": lambda d: (d.path(), d.xattr(), d.value(), d.one(1, 2)),
}
_DRIVER = {REMOUNT: 0.5, DROP: 2.0, DUMP: 0.5}
_WEIGHTS = {
    "open": 9, "create": 5, "open_directory": 3, "pwrite": 5, "write": 3, "rename": 8, "unlink": 4,
    "mkdir": 4, "save": 4, "replace": 3, "link": 5, "stat": 3, "listdir": 2, "rmtree": 0.5,
    "close": 1, "rename_directory": 5, "renameat2": 6, "map_write": 4, "map": 4, "umask": 0.5,
    "copy_range": 3, "fallocate": 4, "link_fd": 3, "rmdir": 2, "list_and_remove": 0.5,
    "set_default_acl": 1,
} | _DRIVER  # fmt: skip


def choose(random: Random, known: Known, fastpath: bool) -> Step:
    """One operation, chosen by the weights above."""
    arguments = _ARGUMENTS | (_FAST_ONLY if fastpath else {})
    names = [*arguments, *_DRIVER]
    (name,) = random.choices(names, [_WEIGHTS.get(n, 1.5) for n in names])
    if name in _DRIVER:
        return Step(0, name)
    worker = random.choice((0, 0, 0, 1, 1, 2))
    return Step(worker, name, arguments[name](Draw(random, known, worker)))
