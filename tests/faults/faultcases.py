"""Law: lists the operations at whose every step a fault is tried, all over one image and one upper.

A case is a few steps, mostly of one system call.  After a crash, the file system is as before or
after a step, never in between, except where the kernel makes two requests of one system call:

    loose     files whose contents may be new while their time is old: two requests
    requests  steps that do the same as these requests; every state between them is allowed
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from scene import TIME
from tarwriter import TarWriter

_libc = ctypes.CDLL(None, use_errno=True)
_CWD = -100
NOREPLACE, EXCHANGE = 1, 2
SOMEBODY = 1234
_CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")
_ACCESS, _DEFAULT = "system.posix_acl_access", "system.posix_acl_default"
Step = Callable[[Path], object]


def acl(mode: int, user: int, allowed: int) -> bytes:
    """An ACL for owner, one more user, group, mask and others."""
    entries = [(1, mode >> 6 & 7, 0xFFFFFFFF), (2, allowed, user), (4, mode >> 3 & 7, 0xFFFFFFFF),
               (16, 7, 0xFFFFFFFF), (32, mode & 7, 0xFFFFFFFF)]  # fmt: skip
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def layers() -> list[bytes]:
    """A file for each case to change, so that all cases can share one upper."""
    low = TarWriter()

    def directory(path: str, **more: object) -> None:
        low.dir(path, mtime_ns=TIME, **more)

    def file(path: str, data: bytes = b"", **more: object) -> None:
        low.file(path, data, mtime_ns=TIME, **more)

    directory(".", mode=0o755)
    xattrs = {"user.k": b"v", "trusted.t": b"w"}
    file("file", b"lower file " * 800, mode=0o640, uid=5, gid=6, xattrs=xattrs)
    low.sparse("sparse", 300_000, [(70_000, b"x" * 9216), (299_000, b"y" * 1000)], mtime_ns=TIME)
    file("empty")
    file("suid", b"#!", mode=0o6755, xattrs={"security.capability": _CAPABILITY})
    file("copied", b"to be copied up")
    file("gone", b"deleted in the upper")
    file("meta", b"only attributes are up " * 300, xattrs={"user.k": b"v"})
    file("h1", b"linked " * 99, xattrs={"user.k": b"v"})
    low.symlink("link", "d/a", mtime_ns=TIME).node("fifo", "fifo", mtime_ns=TIME)
    low.node("disk", "block", (7, 300), mtime_ns=TIME)
    for path in ("d", "d/sub", "gonedir", "bare", "bare2", "full", "full/sub", "src", "src/sub",
                 "onlywhite", "mixed", "again", "moveme", "moveme/sub", "a", "a/b", "a/b/c",
                 "openwhite"):  # fmt: skip
        directory(path)
    directory("pub", mode=0o1777)
    directory("setgid", mode=0o2775, gid=77)
    directory("handed", xattrs={_DEFAULT: acl(0o750, 7, 6)})
    for path in ("d/a", "d/sub/x", "gonedir/x", "full/x", "full/sub/y", "src/x", "src/sub/y",
                 "onlywhite/x", "mixed/x", "mixed/y", "again/x", "moveme/x", "a/b/c/deep",
                 "moveme/sub/z", "a/b/c/other", "openwhite/x"):  # fmt: skip
        file(path, b"lower " + path.encode())
    low.hardlink("h2", "h1").hardlink("d/h3", "h1")
    top = TarWriter().dir("d", mode=0o755, uid=4, mtime_ns=TIME)
    top.file("d/b", b"top b", mtime_ns=TIME).dir("full/sub", mtime_ns=TIME)
    return [low.tar(), top.tar()]


def fill(at: Path) -> None:
    """Fills the upper that every case starts from: one object of each kind in overlayfs."""
    (at / "new").write_bytes(b"upper only " * 100)
    os.link(at / "new", at / "new2")
    (at / "newer").write_bytes(b"upper only, too")
    os.setxattr(at / "newer", "user.k", b"v")
    os.symlink("new", at / "newlink")
    (at / "updir").mkdir()
    (at / "updir/x").write_bytes(b"x")
    (at / "vacant").mkdir()
    (at / "copied").write_bytes(b"written in the upper")
    (at / "gone").unlink()
    (at / "gonedir/x").unlink()
    (at / "gonedir").rmdir()
    (at / "onlywhite/x").unlink()
    (at / "openwhite/x").unlink()
    (at / "mixed/x").unlink()
    (at / "mixed/y").write_bytes(b"upper y")
    (at / "again/x").unlink()
    (at / "again").rmdir()
    (at / "again").mkdir()
    (at / "again/z").write_bytes(b"in an opaque directory")
    (at / "moveme").rename(at / "moved")
    os.setxattr(at / "updir", _DEFAULT, acl(0o700, 8, 7))
    (at / "acl").write_bytes(b"has an ACL")
    os.setxattr(at / "acl", _ACCESS, acl(0o640, 9, 6))
    os.chmod(at / "meta", 0o4711)
    settled = (
        "new newer newlink updir/x updir vacant copied mixed/y acl again/z again onlywhite mixed "
        "openwhite moved . meta"
    )
    for name in settled.split():
        os.utime(at / name, ns=(TIME, TIME), follow_symlinks=False)
    with opened(at / "new") as fd:
        os.fsync(fd)


@dataclass(frozen=True)
class Case:
    name: str
    steps: tuple[Step, ...]
    loose: tuple[bytes, ...] = ()
    requests: tuple[Step, ...] = ()


CASES: dict[str, Case] = {}


def case(name: str, *steps: Step, loose: str = "", requests: tuple[Step, ...] = ()) -> None:
    paths = tuple(b"/" + path.encode() for path in loose.split())
    CASES[name] = Case(name, steps, paths, requests)


# ---- single calls -------------------------------------------------------------------------


@contextmanager
def opened(path: Path, flags: int = os.O_RDWR, mode: int = 0o644) -> Iterator[int]:
    fd = os.open(path, flags | os.O_CLOEXEC, mode)
    try:
        yield fd
    finally:
        os.close(fd)


def make(path: str, mode: int = 0o640) -> Step:
    return lambda at: os.close(os.open(at / path, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode))


def write(path: str, data: bytes, offset: int = 0) -> Step:
    def work(at: Path) -> None:
        with opened(at / path) as fd:
            assert os.pwrite(fd, data, offset) == len(data)
            os.fsync(fd)

    return work


def rename(source: str, target: str, flags: int = 0) -> Step:
    def work(at: Path) -> None:
        here, there = os.fsencode(at / source), os.fsencode(at / target)
        if _libc.renameat2(_CWD, here, _CWD, there, flags):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    return work


def as_somebody(step: Step) -> Step:
    """With relative paths: the user without rights may not enter the directories above."""

    def work(at: Path) -> None:
        with opened(Path("."), os.O_PATH) as before:
            os.chdir(at)
            os.setegid(SOMEBODY)
            os.seteuid(SOMEBODY)
            try:
                step(Path("."))
            finally:
                os.seteuid(0)
                os.setegid(0)
                os.fchdir(before)

    return work


def while_open(path: str, step: Step) -> Step:
    """The file loses its name while it is open, and keeps its data."""

    def work(at: Path) -> None:
        with opened(at / path, os.O_RDONLY) as fd:
            before = os.pread(fd, 10_000, 0)
            step(at)
            if os.pread(fd, 10_000, 0) != before:
                raise AssertionError(f"{path}: its open descriptor shows something else")

    return work


def truncate(path: str, size: int) -> Step:
    return lambda at: os.truncate(at / path, size)


def o_trunc(path: str) -> tuple[Step, Step]:
    """Truncates by open(2), then close(2), which returns the error of setting the time.

    close(2) closes the descriptor even if it fails.
    """
    held: list[int] = []

    def cut(at: Path) -> None:
        held.append(os.open(at / path, os.O_WRONLY | os.O_TRUNC))

    def close(at: Path) -> None:
        while held:
            os.close(held.pop())

    return cut, close


def fallocate(path: str, offset: int, size: int) -> Step:
    def work(at: Path) -> None:
        with opened(at / path) as fd:
            if _libc.fallocate(fd, 0, ctypes.c_long(offset), ctypes.c_long(size)):
                number = ctypes.get_errno()
                if number != errno.EOPNOTSUPP:  # pyfuse3 has no handler
                    raise OSError(number, os.strerror(number))

    return work


def mkdir(path: str, mode: int = 0o755) -> Step:
    return lambda at: os.mkdir(at / path, mode)


def rmdir(path: str) -> Step:
    return lambda at: os.rmdir(at / path)


def unlink(path: str) -> Step:
    return lambda at: os.unlink(at / path)


def symlink(path: str) -> Step:
    return lambda at: os.symlink("some/where", at / path)


def mknod(path: str, mode: int, device: int = 0) -> Step:
    return lambda at: os.mknod(at / path, mode, device)


def link(source: str, target: str) -> Step:
    return lambda at: os.link(at / source, at / target, follow_symlinks=False)


def chmod(path: str, mode: int) -> Step:
    return lambda at: os.chmod(at / path, mode)


def chown(path: str, uid: int, gid: int) -> Step:
    return lambda at: os.chown(at / path, uid, gid, follow_symlinks=False)


def utime(path: str) -> Step:
    return lambda at: os.utime(at / path, ns=(TIME + 10**9, TIME + 10**9), follow_symlinks=False)


def setxattr(path: str, name: str = "user.new", value: bytes = b"value") -> Step:
    return lambda at: os.setxattr(at / path, name, value, follow_symlinks=False)


def removexattr(path: str, name: str) -> Step:
    return lambda at: os.removexattr(at / path, name, follow_symlinks=False)


# ---- new objects --------------------------------------------------------------------------

case("create", make("fresh"))
case("create in a directory of the layers", make("a/b/c/fresh"))
case("create over a whiteout", make("gone"))
case("create in a set-gid directory", make("setgid/fresh"))
case("create under a default ACL of the layers", make("handed/fresh"))
case("create under a default ACL of the upper", make("updir/fresh"))
case("create as a user", as_somebody(make("pub/fresh")))
case("create and write", make("fresh"), write("fresh", b"contents " * 9), loose="fresh")
case("mkdir", mkdir("fresh"))
case("mkdir in a directory of the layers", mkdir("d/sub/fresh"))
case("mkdir over a file's whiteout", mkdir("gone"))
case("mkdir over a directory's whiteout", mkdir("gonedir"))
case("mkdir under a default ACL", mkdir("handed/fresh", 0o777))
case("mkdir in a set-gid directory", mkdir("setgid/fresh"))
case("symlink", symlink("fresh"))
case("symlink over a whiteout", symlink("gone"))
case("mkfifo over a whiteout", mknod("gone", 0o010600))
case("mknod in a directory of the layers", mknod("d/sub/fresh", 0o060640, os.makedev(7, 8)))

# ---- contents -----------------------------------------------------------------------------

case("write to a lower file", write("file", b"NEW", 5000), loose="file")
case("write to a sparse lower file", write("sparse", b"NEW", 150_000), loose="sparse")
case("write to an empty lower file", write("empty", b"x" * 5000), loose="empty")
case("write to a lower file with hardlinks", write("h1", b"NEW"), loose="h1 h2 d/h3")
case("write deep in the layers", write("a/b/c/deep", b"NEW"), loose="a/b/c/deep")
case("write to an upper file", write("newer", b"NEW"), loose="newer")
case("O_TRUNC of a lower file", *o_trunc("file"))
case("O_TRUNC of a copied-up file", *o_trunc("copied"))
case("O_TRUNC of a lower file with hardlinks", *o_trunc("h2"))
case("truncate a lower file", truncate("file", 100))
case("extend a lower file", truncate("file", 20_000))
case("truncate an upper file", truncate("newer", 3))
case("write to a file whose data are below", write("meta", b"NEW", 99), loose="meta")
case("O_TRUNC of a file whose data are below", *o_trunc("meta"))
case("truncate a file whose data are below", truncate("meta", 100))
case("fallocate a lower file", fallocate("file", 0, 20_000), loose="file")

# ---- attributes ---------------------------------------------------------------------------

case("chmod a lower file", chmod("file", 0o600))
case("chmod a lower directory", chmod("a/b/c", 0o700))
case("chmod a lower file with hardlinks", chmod("d/h3", 0o600))
case("chmod an upper file", chmod("newer", 0o600))
case("chmod what has an ACL", chmod("acl", 0o664))
case("chown a lower file", chown("file", 7, 8))
case("chown a privileged lower file", chown("suid", 7, 8),
     requests=(removexattr("suid", "security.capability"), chown("suid", 7, 8)))  # fmt: skip
case("chown a file whose data are below", chown("meta", 7, 8))
case("chmod a file whose data are below", chmod("meta", 0o600))
case("chown a lower symlink", chown("link", 7, 8))
case("chown a lower fifo", chown("fifo", 7, 8))
case("chown an upper file with hardlinks", chown("new2", 7, 8))
case("utimens a lower file", utime("file"))
case("utimens a lower symlink", utime("link"))
case("utimens a lower device", utime("disk"))
case("utimens an upper directory", utime("updir"))
case("setxattr of a lower file", setxattr("file"))
case("setxattr of a lower directory", setxattr("a/b"))
case("setxattr of a lower symlink", setxattr("link", "trusted.new"))
case("setxattr of a lower file with hardlinks", setxattr("h1"))
case("setxattr of an upper file", setxattr("newer"))
case("set an ACL of a lower file", setxattr("file", _ACCESS, acl(0o600, 7, 6)))
case("set an ACL of an upper file", setxattr("newer", _ACCESS, acl(0o600, 7, 6)))
case("removexattr of a lower file", removexattr("file", "user.k"))
case("removexattr of an upper file", removexattr("newer", "user.k"))
case("remove an ACL", removexattr("acl", _ACCESS))

# ---- links and removal --------------------------------------------------------------------

case("link a lower file", link("file", "fresh"))
case("link a lower file over a whiteout", link("file", "gone"))
case("link a lower file into a deep directory", link("file", "a/b/c/fresh"))
case("link one more to lower hardlinks", link("h2", "d/fresh"))
case("link a lower symlink", link("link", "fresh"))
case("link a file whose data are below", link("meta", "fresh"))
case("link an upper file", link("newer", "fresh"))
case("link an upper file over a whiteout", link("newer", "gone"))
case("unlink a lower file", unlink("file"))
case("unlink a lower file in a deep directory", unlink("a/b/c/deep"))
case("unlink a file whose data are below", while_open("meta", unlink("meta")))
case("unlink an upper file", unlink("newer"))
case("unlink a copied-up file", unlink("copied"))
case("unlink one of lower hardlinks", unlink("h1"))
case("unlink one of upper hardlinks", unlink("new"))
case("unlink an open lower file", while_open("file", unlink("file")))
case("unlink an open copied-up file", while_open("copied", unlink("copied")))
case("unlink an open upper file", while_open("newer", unlink("newer")))
case("unlink a lower symlink", unlink("link"))
case("unlink and create again", unlink("copied"), make("copied"))
case("unlink and mkdir", unlink("file"), mkdir("file"))
case("rmdir of a lower directory", rmdir("bare"))
case("rmdir of a directory with whiteouts", rmdir("onlywhite"))
case("rmdir of an upper directory", rmdir("vacant"))
case("rmdir of an opaque directory", unlink("again/z"), rmdir("again"))
case("rmdir and mkdir", rmdir("onlywhite"), mkdir("onlywhite"))

# ---- renames ------------------------------------------------------------------------------

case("rename a lower file", rename("file", "fresh"))
case("rename a lower file into a deep directory", rename("file", "a/b/c/fresh"))
case("rename a lower file out of a deep directory", rename("a/b/c/deep", "fresh"))
case("rename a file whose data are below", rename("meta", "a/b/c/fresh"))
case("rename and write", rename("file", "a/fresh"), write("a/fresh", b"NEW", 9), loose="a/fresh")
case("rename an upper file", rename("newer", "fresh"))
case("rename an upper file over a whiteout", rename("newer", "gone"))
case("rename a lower file over a whiteout", rename("file", "gone"))
case("rename a lower file over a lower file", rename("file", "empty"))
case("rename an upper file over a lower file", rename("newer", "file"))
case("rename a lower file over an upper file", rename("file", "newer"))
case("rename an upper file over an upper file", rename("newer", "new2"))
case("rename over an open lower file", while_open("file", rename("newer", "file")))
case("rename over an open copied-up file", while_open("copied", rename("newer", "copied")))
case("rename one of lower hardlinks", rename("h1", "a/h1"))
case("rename over one of lower hardlinks", rename("newer", "h2"))
case("rename a lower symlink", rename("link", "fresh"))
case("rename with NOREPLACE", rename("file", "fresh", NOREPLACE))
case("rename a lower directory", rename("src", "fresh"))
case("rename a merged directory", rename("d", "fresh"))
case("rename a lower directory into another", rename("full/sub", "a/b/fresh"))
case("rename an upper directory", rename("updir", "fresh"))
case("rename an upper directory into another", rename("updir", "a/b/c/fresh"))
case("rename a renamed directory", rename("moved", "fresh"))
case("rename a renamed directory back", rename("moved", "moveme"))
case("rename an upper directory over a whiteout", rename("updir", "gonedir"))
case("rename a lower directory over a whiteout", rename("src", "gonedir"))
case("rename a lower directory over a file's whiteout", rename("src", "gone"))
case("rename a lower directory over an empty lower one", rename("src", "bare"))
case("rename a lower directory over one with whiteouts", rename("src", "onlywhite"))
case("rename a lower directory over an upper one", rename("src", "vacant"))
case("rename an upper directory over an upper one", rename("updir", "vacant"))
case("rename an upper directory over an empty lower one", rename("updir", "bare"))
case("rename an upper directory over one with whiteouts", rename("updir", "openwhite"))
case("rename an opaque directory", rename("again", "fresh"))
case("rename a directory and a child in it", rename("src", "fresh"), rename("fresh/x", "fresh/w"))
case("exchange lower files", rename("file", "empty", EXCHANGE))
case("exchange an upper and a lower file", rename("newer", "file", EXCHANGE))
case("exchange lower directories", rename("src", "full", EXCHANGE))
case("exchange an upper and a lower directory", rename("updir", "src", EXCHANGE))
case("exchange a file and a directory", rename("file", "full/sub", EXCHANGE))
