"""Law: the lines of `docker diff` for two directory trees, by docker's own rule for any graph
driver.

The rule (moby, pkg/archive/changes.go, "naive diff"): a name is added, deleted, or changed.  It is
changed if mode, owner, device, mtime or, except for directories, size differ.  Names below a
deleted directory, or below one that another kind replaced, are not listed.  A directory is changed
if any name in it is.  Unlike docker, which looks at security.capability only, all xattrs count.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path


def tree_diff(old: Path, new: Path) -> list[bytes]:
    """Lines `A /path`, sorted by path."""
    found: dict[bytes, bytes] = {}
    _compare(os.fsencode(old), os.fsencode(new), b"", True, found)
    return [kind + b" " + path for path, kind in sorted(found.items())]


def _compare(old: bytes, new: bytes, path: bytes, both: bool, found: dict[bytes, bytes]) -> None:
    before = set(os.listdir(old + path)) if both else set()
    size = len(found)
    for name in os.listdir(new + path):
        here = path + b"/" + name
        there = name in before
        before.discard(name)
        if not there:
            found[here] = b"A"
        elif _state(old + here) != _state(new + here):
            found[here] = b"C"
        if stat.S_ISDIR(os.lstat(new + here).st_mode):
            merges = there and stat.S_ISDIR(os.lstat(old + here).st_mode)
            _compare(old, new, here, merges, found)
    for name in before:
        found[path + b"/" + name] = b"D"
    if len(found) > size and path:
        found.setdefault(path, b"C")


def _state(path: bytes) -> tuple[object, ...]:
    st = os.lstat(path)
    size = 0 if stat.S_ISDIR(st.st_mode) else st.st_size
    names = sorted(os.listxattr(path, follow_symlinks=False))
    xattrs = [(name, os.getxattr(path, name, follow_symlinks=False)) for name in names]
    rdev = st.st_rdev if stat.S_ISCHR(st.st_mode) or stat.S_ISBLK(st.st_mode) else 0
    return st.st_mode, st.st_uid, st.st_gid, rdev, size, st.st_mtime_ns, xattrs
