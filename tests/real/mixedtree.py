"""Makes two layers with files of every kind, under the names that operations.py uses."""

from __future__ import annotations

import os
from typing import Any

from operations import CAPABILITY, SOMEBODY, acl
from tarwriter import Name, TarWriter

TIME = 1_400_000_000_123_456_789
KIB = 1024


class _Layer(TarWriter):
    """A layer whose paths all lie below one directory and whose times are all the same."""

    def __init__(self, at: str) -> None:
        super().__init__()
        self._at = at.encode()

    def add(self, path: Name, kind: str = "file", data: bytes = b"", **more: Any) -> TarWriter:
        if kind == "hardlink":
            more["link"] = self._at + os.fsencode(more["link"])
        return super().add(self._at + os.fsencode(path), kind, data, mtime_ns=TIME, **more)


def layers(at: str = "") -> list[bytes]:
    """The layers, bottom first; at ("x/") is put before every path."""
    low = _Layer(at).dir(".", mode=0o777).dir("d", mode=0o777)
    low.file("d/a", b"lower a", xattrs={"user.k": b"v", "trusted.t": b"1"})
    low.dir("d/sub").file("d/sub/x", b"deep")
    low.dir("d/sub/sub").file("d/sub/sub/a", b"deeper")
    low.file("d/sub/h3", b"linked" * 900, mode=0o666)
    low.file("f", b"lower f" * 3000, mode=0o644, uid=5, gid=6)
    low.file("g", b"lower g" * 700, mode=0o600, uid=SOMEBODY, gid=SOMEBODY)
    low.hardlink("h1", "d/sub/h3").hardlink("h2", "h1").hardlink("d/h3", "h1")
    low.symlink("l", "d/a").node("p", "fifo", mode=0o666)
    low.dir("e").dir("e/sub").file("e/b", b"b")
    low.dir("empty").dir("sg", mode=0o2777, gid=8)
    low.file("sg/a", b"of a group", gid=8, mode=0o2775)
    pieces = [(4 * KIB, b"one!" * 1024), (64 * KIB, b"two!" * 3072), (256 * KIB, b"")]
    low.sparse("sparse", 256 * KIB, pieces, mode=0o666)
    low.file("suid", b"set-id", mode=0o6777, uid=5, gid=6)

    top = _Layer(at).dir(".", mode=0o777)
    top.dir("d", mode=0o777, uid=4).file("d/b", b"top b")
    top.dir("e", mode=0o777).whiteout("e/sub").symlink("e/l", "./b")
    top.dir("sg", mode=0o2777, gid=8)
    access = {"system.posix_acl_access": acl((2, 6, SOMEBODY), owner=6, group=4)}
    top.file("sg/x", b"with an ACL", mode=0o670, uid=5, xattrs=access)
    top.dir("sg/sub", mode=0o2777, gid=8)
    top.file("sg/sub/x", b"may", mode=0o777,
             xattrs={"security.capability": CAPABILITY})  # fmt: skip
    top.dir("many", mode=0o777)
    for i in range(40):
        top.file(f"many/{i:03}", b"%d" % i, mode=0o666)
    return [low.tar(), top.tar()]
