"""Law: two layers with something of every kind, under the names that operations.py uses."""

from __future__ import annotations

from operations import CAPABILITY, SOMEBODY, acl
from tarwriter import TarWriter

TIME = 1_400_000_000_123_456_789
KIB = 1024


def layers() -> list[bytes]:
    low = TarWriter().dir(".", mode=0o777, mtime_ns=TIME).dir("d", mode=0o777, mtime_ns=TIME)
    low.file("d/a", b"lower a", mtime_ns=TIME, xattrs={"user.k": b"v", "trusted.t": b"1"})
    low.dir("d/sub", mtime_ns=TIME).file("d/sub/x", b"deep", mtime_ns=TIME)
    low.dir("d/sub/sub", mtime_ns=TIME).file("d/sub/sub/a", b"deeper", mtime_ns=TIME)
    low.file("d/sub/h3", b"linked" * 900, mode=0o666, mtime_ns=TIME)
    low.file("f", b"lower f" * 3000, mode=0o644, uid=5, gid=6, mtime_ns=TIME)
    low.file("g", b"lower g" * 700, mode=0o600, uid=SOMEBODY, gid=SOMEBODY, mtime_ns=TIME)
    low.hardlink("h1", "d/sub/h3").hardlink("h2", "h1").hardlink("d/h3", "h1")
    low.symlink("l", "d/a", mtime_ns=TIME).node("p", "fifo", mode=0o666, mtime_ns=TIME)
    low.dir("e", mtime_ns=TIME).dir("e/sub", mtime_ns=TIME).file("e/b", b"b", mtime_ns=TIME)
    low.dir("empty", mtime_ns=TIME).dir("sg", mode=0o2777, gid=8, mtime_ns=TIME)
    low.file("sg/a", b"of a group", gid=8, mode=0o2775, mtime_ns=TIME)
    pieces = [(4 * KIB, b"one!" * 1024), (64 * KIB, b"two!" * 3072), (256 * KIB, b"")]
    low.sparse("sparse", 256 * KIB, pieces, mode=0o666, mtime_ns=TIME)
    low.file("suid", b"set-id", mode=0o6777, uid=5, gid=6, mtime_ns=TIME)

    top = TarWriter().dir(".", mode=0o777, mtime_ns=TIME)
    top.dir("d", mode=0o777, uid=4, mtime_ns=TIME).file("d/b", b"top b", mtime_ns=TIME)
    top.dir("e", mode=0o777, mtime_ns=TIME).whiteout("e/sub").symlink("e/l", "./b", mtime_ns=TIME)
    top.dir("sg", mode=0o2777, gid=8, mtime_ns=TIME)
    access = {"system.posix_acl_access": acl((2, 6, SOMEBODY), owner=6, group=4)}
    top.file("sg/x", b"with an ACL", mode=0o670, uid=5, mtime_ns=TIME, xattrs=access)
    top.dir("sg/sub", mode=0o2777, gid=8, mtime_ns=TIME)
    top.file("sg/sub/x", b"may", mode=0o777, mtime_ns=TIME,
             xattrs={"security.capability": CAPABILITY})  # fmt: skip
    top.dir("many", mode=0o777, mtime_ns=TIME)
    for i in range(40):
        top.file(f"many/{i:03}", b"%d" % i, mode=0o666, mtime_ns=TIME)
    return [low.tar(), top.tar()]
