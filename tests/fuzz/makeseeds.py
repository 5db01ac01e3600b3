"""Writes the binary seeds in tests/fuzz/seeds/; this file is their text form.

    python tests/fuzz/makeseeds.py      from the top of the repository

native/fuzz/fuzz.h and the header comment of each native/fuzz/fuzz_*.c describe how one input has
several layers, requests or records.  test_targets.py checks that the files are what this module
writes.
"""

from __future__ import annotations

import json
import os
import struct
import sys
import zlib
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent)]

from tarwriter import TarWriter, pax_records  # noqa: E402

from fusemount import _native  # noqa: E402


def piece(kind: int, data: bytes) -> bytes:
    return struct.pack("<BH", kind, len(data)) + data


# ---- tars ------------------------------------------------------------------------------------


def _layers() -> dict[str, tuple[TarWriter, ...]]:
    base = TarWriter().dir("d").file("d/f", b"lower", uid=1).dir("d/e").file("d/e/x", b"x")
    base.symlink("l", "d").hardlink("h", "d/f").node("n", "char", (5, 1)).node("p", "fifo")
    far = "/".join(f"directory{i:03}" for i in range(20))
    return {
        "plain": (base,),
        "whiteouts": (base, TarWriter().whiteout("d/f").opaque("d/e").file("d/e/y", b"y")),
        "whiteouts-first": (base, TarWriter().opaque("d").file("d/f", b"upper").whiteout("l")),
        "whiteout-of-what-comes": (TarWriter().whiteout("a").dir("a").file("a/b"), base),
        "beneath-a-whiteout": (base, TarWriter().file("d/.wh.e/x", b"x").file(".wh..wh.plnk/1")),
        "through-links": (base, TarWriter().file("l/new", b"n").symlink("m", "l").dir("m/o/p")),
        "chain": (
            TarWriter().symlink("a", "b/../c").symlink("c", "../d").dir("d").file("a/f", b"f"),
        ),
        "loop": (TarWriter().symlink("a", "b").symlink("b", "a").file("a/f"),),
        "hardlinks": (
            base,
            TarWriter().hardlink("i", "h").hardlink("k", "later").file("later", b"k"),
            TarWriter().hardlink("d/e", "n").whiteout("h").hardlink("j", "i"),
        ),
        "kinds-change": (
            base,
            TarWriter().file("d", b"a file").dir("n").symlink("d/e", "x"),
            TarWriter().dir("d").file("d/z", b"z").node("n", "block", (8, 0)),
        ),
        "dots": (TarWriter().dir("./").file("./a//b/", b"1").file("a/x/../c", b"2").dir("../up"),),
        "twice": (TarWriter().file("a", b"1").file("a", b"2").dir("a").file("a/b", b"3"),),
        "long-gnu": (TarWriter("gnu").file(far, b"1").symlink("s", far).file("big", uid=1 << 30),),
        "long-pax": (TarWriter().file(far, b"1", mtime_ns=-1).symlink("s", far),),
        "prefix": (TarWriter("ustar").file(far, b"1"), TarWriter("v7").file("a", b"v7").dir("b")),
        "xattrs": (
            TarWriter()
            .file("a", b"a", xattrs={"user.k": b"v", "security.capability": bytes(20)})
            .file("b", b"", xattrs={"user.k": b"v", "trusted.overlay.opaque": b"y"})
            .pax({"LIBARCHIVE.xattr.user.%63": "AAEC", "comment": "of all"}, kind="g")
            .file("c", b"c", pax={"SCHILY.acl.access": "user::rwx,user:7:r--,group::r-x,other::-"}),
        ),
        "times": (TarWriter().file("a", pax={"mtime": "-12.5", "atime": "1.000000001", "uid": 9}),),
        "sparse": (
            TarWriter()
            .sparse("s0", 9000, [(0, b"abc"), (4096, b"defgh")], version="0.0")
            .sparse("s1", 9000, [(512, b"abc"), (4096, b"defgh")], version="0.1")
            .sparse("s2", 100_000, [(512, bytes(512)), (99_990, b"0123456789")], version="1.0")
            .sparse("s3", 512, [(0, b"abcd"), (64, b"efgh")], version="S"),
        ),
        "two-headers": (TarWriter().pax({"path": "a"}).pax({"size": 3}).file("b", b"xyz"),),
        "lies": (TarWriter().file("a", b"", size=3, typeflag=b"5").file("b").raw(bytes(512)),),
    }


def tars() -> dict[str, bytes]:
    made = {name: b"".join(t.tar() for t in layers) for name, layers in _layers().items()}
    made["no-end"] = TarWriter().file("a", b"1").tar(end=False)
    return made


def indexes() -> dict[str, bytes]:
    made = {}
    for name, layers in _layers().items():
        tar = layers[-1].tar()
        source, kept = os.memfd_create("tar"), os.memfd_create("index")
        try:
            os.write(source, tar)
            try:
                index = _native.LayerIndex.scan(source, 0, len(tar))
            except _native.FormatError:
                continue  # a layer that is refused has no index
            index.save(kept)
            made[name] = os.pread(kept, 1 << 20, 0)
        finally:
            os.close(source)
            os.close(kept)
    return made


# ---- records of PAX headers ------------------------------------------------------------------


def pax() -> dict[str, bytes]:
    names = {"path": "a/b", "linkpath": "c", "size": 7, "uid": 1, "gid": 2, "mtime": "1.5"}
    names |= {"atime": "-0.25", "ctime": "3", "SCHILY.devmajor": 8, "SCHILY.devminor": 1}
    xattrs = {"SCHILY.xattr.user.k": "v", "LIBARCHIVE.xattr.user.%63": "AAEC"}
    acls = {
        "SCHILY.acl.access": "user::rwx,user:7:r--,group::r-x,mask::rwx,other::---",
        "SCHILY.acl.default": "user::rwx,group:staff:r-x:50,group::r-x,other::---",
    }
    map00 = b"".join(
        pax_records({"GNU.sparse.offset": at, "GNU.sparse.numbytes": 4}) for at in (0, 9)
    )
    map01 = {"GNU.sparse.map": "0,3,4096,5", "GNU.sparse.size": 9000, "GNU.sparse.numblocks": 2}
    pair = b"00000000100\x0000000000004\0"
    return {
        "names": piece(0, pax_records(names)),
        "emptied": piece(0, pax_records(dict.fromkeys(names, ""))),
        "global": piece(1, pax_records({"comment": "x", **xattrs})) + piece(0, pax_records(names)),
        "xattrs": piece(0, pax_records(xattrs)),
        "acls": piece(0, pax_records(acls)) + piece(8, b"u::rw-,u:root:r,g::r,o::-,m::r #x"),
        "sparse": piece(0, pax_records({"GNU.sparse.size": 99}) + map00) + piece(0, b"")
        + piece(0, pax_records(map01)),
        "maps": piece(2, b"0,3,4096,5,9000,0") + piece(3, b"2\n512\n512\n99990\n10\n")
        + piece(4, pair + bytes(24))
        + piece(4, b"\x80" + bytes(10) + b"\x01" + bytes(11) + b"\x02"),
        "values": piece(5, b"-12.000000001") + piece(5, b"1.5") + piece(6, b"a%41%")
        + piece(6, b"%25") + piece(7, b"AAEC") + piece(7, b"QQ=="),
    }  # fmt: skip


# ---- marks of directory layers ---------------------------------------------------------------

_OBJECTS = {
    ".": 0, "a": 1, "b": 2, "d": 3, "d/a": 4, "d/e": 5, "d/e/a": 6, "empty": 7, "l": 8, "p": 9,
    "f": 10, "f/a": 11, "c": 12, "h": 15,
}  # fmt: skip


def _mark(layer: int, name: str, xattr: str, value: bytes = b"") -> bytes:
    return piece(layer * 16 + _OBJECTS[name], xattr.encode() + b"\0" + value)


def _marks(prefix: str) -> dict[str, bytes]:
    owner = "user.containers.override_stat"
    return {
        "opaque": _mark(1, "d", prefix + "opaque", b"y") + _mark(1, "d/e", prefix + "opaque", b"x"),
        "whiteout": _mark(2, "empty", prefix + "whiteout") + _mark(1, "a", prefix + "whiteout"),
        "redirect": _mark(1, "d", prefix + "redirect", b"/f")
        + _mark(2, "f", prefix + "redirect", b"d")
        + _mark(2, "d/e", prefix + "redirect", b"/d/e"),
        "metacopy": _mark(1, "a", prefix + "metacopy")
        + _mark(2, "a", prefix + "metacopy", b"\0\4\0\0")
        + _mark(2, "b", prefix + "metacopy")
        + _mark(2, "b", prefix + "redirect", b"/f/a"),
        "escaped": _mark(1, "a", prefix + "overlay.opaque", b"y")
        + _mark(1, "a", prefix + "imgmount.override_stat", b"0:0:0644"),
        "special": _mark(1, "empty", prefix + "imgmount.special", b"char-0-0")
        + _mark(2, "empty", prefix + "imgmount.special", b"block-4095-1048575"),
        "held": _mark(1, "a", prefix + "imgmount.held", b"4755 -1 1500000000000000000 0100000200")
        + _mark(1, "l", prefix + "imgmount.held", b"777 5 -5 -")
        + _mark(1, "d", prefix + "imgmount.times", b"-1 99999999999999999999"),
        "origin": _mark(1, "a", prefix + "origin", b"\0\xfb\x1d\0\x01" + bytes(20))
        + _mark(1, ".", prefix + "impure", b"y") + _mark(0, ".", prefix + "uuid", bytes(16)),
        "owners": _mark(0, ".", prefix + "origin") + _mark(1, ".", owner, b"0:0:0755:dir")
        + _mark(0, "a", owner, b"0:0:04755:file") + _mark(0, "b", owner, b"1:2:0644:block-8-1")
        + _mark(1, "d/a", owner, b"7:7:0777:symlink") + _mark(1, "empty", owner, b"1:1:0600:pipe"),
    }  # fmt: skip


def marks() -> dict[str, bytes]:
    made = {f"trusted-{k}": v for k, v in _marks("trusted.overlay.").items()}
    made |= {f"user-{k}": v for k, v in _marks("user.overlay.").items()}
    fuse = "user.fuseoverlayfs."
    made["fuse-overlayfs"] = _mark(1, "d", fuse + "opaque", b"y") + _mark(
        1, "a", fuse + "override_stat", b"5:6:0111:char-1-3"
    )
    target = piece(0x80 | 16 + _OBJECTS["a"], b"d/e/a")
    made["link-in-a-file"] = target + _mark(
        1, "a", "user.containers.override_stat", b"0:0:0777:symlink"
    )
    made["others"] = _mark(0, "a", "user.k", b"v") + _mark(2, "c", "trusted.x", b"y")
    return made


# ---- requests of FUSE ------------------------------------------------------------------------

ROOT, MINOR = 1, 31
LOOKUP, FORGET, GETATTR, SETATTR, READLINK, SYMLINK, MKNOD, MKDIR = 1, 2, 3, 4, 5, 6, 8, 9
UNLINK, RMDIR, RENAME, LINK, OPEN, READ, WRITE, STATFS = 10, 11, 12, 13, 14, 15, 16, 17
FSYNC, SETXATTR, GETXATTR, LISTXATTR, REMOVEXATTR, INIT, READDIR = 20, 21, 22, 23, 24, 26, 28
ACCESS, CREATE, INTERRUPT, BATCH_FORGET, FALLOCATE, READDIRPLUS = 34, 35, 36, 42, 43, 44
RENAME2, LSEEK, COPY_RANGE, SYNCFS, TMPFILE, STATX = 45, 46, 47, 50, 51, 52
FILE, DIRECTORY = 0o100644, 0o040755


def _ask(opcode: int, node: int, *args: bytes) -> bytes:
    return piece(0, bytes((opcode, node)) + b"".join(args))


def _name(text: str) -> bytes:
    return text.encode() + b"\0"


def _look(*names: str) -> bytes:
    return b"".join(_ask(LOOKUP, ROOT, _name(name)) for name in names)


def _read(opcode: int, node: int, offset: int, size: int) -> bytes:
    return _ask(opcode, node, struct.pack("<QQIIQII", 0, offset, size, 0, 0, 0, 0))


def _write(node: int, offset: int, data: bytes) -> bytes:
    return _ask(WRITE, node, struct.pack("<QQIIQII", 0, offset, len(data), 0, 0, 0, 0), data)


def _setattr(node: int, valid: int, size: int = 0, mode: int = 0, uid: int = 0) -> bytes:
    times = struct.pack("<QQQIII", 5, 6, 7, 8, 9, 10)
    head = struct.pack("<IIQQQ", valid, 0, 0, size, 0)
    return _ask(SETATTR, node, head, times, struct.pack("<IIIII", mode, 0, uid, uid, 0))


def _make(opcode: int, node: int, name: str) -> bytes:
    head = {
        MKDIR: struct.pack("<II", DIRECTORY, 0o22),
        MKNOD: struct.pack("<IIII", FILE, 0, 0o22, 0),
        CREATE: struct.pack("<IIII", 0o102, FILE, 0o22, 0),
    }[opcode]
    return _ask(opcode, node, head, _name(name))


def _move(node: int, name: str, to: int, new: str, flags: int | None = None) -> bytes:
    head = struct.pack("<Q", to) + (b"" if flags is None else struct.pack("<II", flags, 0))
    opcode = RENAME if flags is None else RENAME2
    return _ask(opcode, node, head, _name(name), _name(new))


def fuse() -> dict[str, bytes]:
    """Requests.  The rig makes its nodes in this order, from 3 on: d, d/sub, d/a, l, p, many …"""
    init = _ask(INIT, 0, struct.pack("<IIIIII", 7, 38, 4096, 0xFFFFFFFF, 0xFFFFFFFF, 0))
    d, a, link, many, x, big, s, cut = 3, 5, 6, 8, 9, 10, 11, 12
    entry = struct.pack("<QQQQII", a, 0, 1, 1, 0, 0) + bytes(88)
    new, dir_ = 2, 113  # the first new node gets the free slot, later ones come after all others
    acl = struct.pack("<I", 2) + struct.pack("<HHI", 1, 7, 0xFFFFFFFF)
    acl += struct.pack("<HHI", 2, 4, 1000) + struct.pack("<HHI", 4, 5, 0xFFFFFFFF)
    acl += struct.pack("<HHI", 16, 7, 0xFFFFFFFF) + struct.pack("<HHI", 32, 0, 0xFFFFFFFF)
    cap = struct.pack("<IIIII", 0x02000001, 1, 0, 0, 0)
    make = _make(CREATE, ROOT, "new") + _make(MKDIR, ROOT, "dir") + _make(MKNOD, ROOT, "node")
    made = _look("new", "dir", "node")
    value = struct.pack("<II", 5, 0) + _name("user.n") + b"value"
    return {
        "look": init + _look("d", "x", "l", "none", "many") + _ask(READLINK, link)
        + _ask(GETATTR, x, struct.pack("<IIQ", 0, 0, 0)) + _ask(ACCESS, x, struct.pack("<II", 4, 0))
        + _ask(STATX, x, struct.pack("<IIQII", 0, 0, 0, 0, 0xFFF)) + _ask(STATFS, ROOT),
        "list": _read(READDIR, ROOT, 0, 4096) + _read(READDIRPLUS, many, 0, 300)
        + _read(READDIRPLUS, many, 9, 4096),
        "read": _look("big", "s") + _read(READ, x, 0, 4096) + _read(READ, big, 300_000, 65536)
        + _read(READ, s, 65530, 4096) + _read(READ, cut, 0, 100)
        + _ask(LSEEK, s, struct.pack("<QQII", 0, 0, 3, 0)),
        "xattrs": _ask(GETXATTR, x, struct.pack("<II", 100, 0), _name("user.k"))
        + _ask(LISTXATTR, x, bytes(8)) + _ask(LISTXATTR, x, struct.pack("<II", 99, 0))
        + make + _ask(SETXATTR, x, value) + _ask(SETXATTR, ROOT, value)
        + _ask(REMOVEXATTR, x, _name("user.k")),
        "write": _look("x", "big") + _write(x, 4, b"written") + _read(READ, x, 0, 100)
        + _write(big, 299_000, bytes(2000)) + _ask(FSYNC, x, bytes(16))
        + _ask(SYNCFS, ROOT, bytes(8))
        + _ask(FALLOCATE, x, struct.pack("<QQQII", 0, 0, 5000, 0, 0))
        + _ask(FALLOCATE, x, struct.pack("<QQQII", 0, 2, 3, 3, 0))
        + _ask(COPY_RANGE, x, struct.pack("<QQQQQQQ", 0, 0, big, 0, 0, 100, 0)),
        "attributes": _look("x", "d") + _setattr(x, 1, mode=0o600) + _setattr(x, 8, size=3)
        + _setattr(x, 2 | 4, uid=1000) + _setattr(d, 16 | 32 | 1024) + _setattr(link, 128 | 256),
        "make": make + made + _ask(SYMLINK, ROOT, _name("sym"), _name("x"))
        + _ask(LINK, ROOT, struct.pack("<Q", x), _name("hard")) + _make(CREATE, d, "inside")
        + _ask(TMPFILE, ROOT, struct.pack("<IIII", 2, FILE, 0, 0), _name("/")),
        "remove": make + _look("x") + _ask(UNLINK, ROOT, _name("x"))
        + _ask(RMDIR, ROOT, _name("dir"))
        + _read(READ, x, 0, 10) + _ask(FORGET, x, struct.pack("<Q", 1))
        + _ask(UNLINK, ROOT, _name("new")) + _ask(RMDIR, ROOT, _name("many")),
        "orphans": make + _write(new, 0, b"data") + _ask(UNLINK, ROOT, _name("new"))
        + _write(new, 4, b"more") + _read(READ, new, 0, 10) + _setattr(new, 8, size=2)
        + _ask(FORGET, new, struct.pack("<Q", 1)) + _read(READ, new, 0, 10)
        + _look("x") + _write(x, 0, b"up") + _ask(UNLINK, ROOT, _name("x"))
        + _ask(BATCH_FORGET, 0, struct.pack("<II", 1, 0), struct.pack("<QQ", x, 1)),
        "whiteouts": _look("x", "l", "p") + _write(x, 0, b"up") + _ask(UNLINK, ROOT, _name("x"))
        + _ask(UNLINK, ROOT, _name("l")) + _ask(UNLINK, ROOT, _name("p"))
        + _make(CREATE, ROOT, "x") + _make(MKDIR, ROOT, "l") + _ask(RMDIR, ROOT, _name("l"))
        + _ask(SYMLINK, ROOT, _name("p"), _name("x")),
        "acls": make + _ask(SETXATTR, new, struct.pack("<II", len(acl), 0),
                            _name("system.posix_acl_access"), acl)
        + _ask(SETXATTR, dir_, struct.pack("<II", len(acl), 0),
               _name("system.posix_acl_default"), acl)
        + _setattr(new, 1, mode=0o2750) + _make(CREATE, dir_, "below") + _make(MKDIR, dir_, "sub")
        + _ask(REMOVEXATTR, new, _name("system.posix_acl_access")),
        "set-id": make + _ask(SETXATTR, new, struct.pack("<II", 20, 0),
                              _name("security.capability"), cap)
        + _setattr(new, 1, mode=0o6755) + _write(new, 0, b"x")
        + _ask(0x80 | SETATTR, new, struct.pack("<IIQQQ", 1, 0, 0, 0, 0), bytes(36),
               struct.pack("<IIIII", 0o2755, 0, 0, 0, 0))
        + _setattr(new, 8, size=1) + _setattr(new, 2 | 4, uid=1000),
        "rename": make + _move(ROOT, "new", ROOT, "newer") + _move(ROOT, "x", ROOT, "y")
        + _move(ROOT, "newer", ROOT, "y", 1) + _move(ROOT, "y", ROOT, "node", 2)
        + _move(ROOT, "y", d, "z") + _move(ROOT, "d", ROOT, "e") + _move(ROOT, "s", ROOT, "t", 4),
        "forget": _look("x", "x", "d") + _ask(INTERRUPT, 0, bytes(8))
        + _ask(BATCH_FORGET, 0, struct.pack("<II", 2, 0), struct.pack("<QQQQ", x, 2, d, 1)),
        "other-door": _move(ROOT, "x", ROOT, "d", 2) + piece(1, b"\0" + entry)
        + _make(CREATE, d, "n") + piece(1, bytes((13,)))
        + _ask(SYMLINK, d, _name("m"), _name("x")) + piece(3, b"short")
        + piece(3, struct.pack("<IiQ", 16, 0, 4711)) + piece(1, b"\0" + entry)
        + _setattr(d, 1, mode=0o700) + piece(1, b"\0" + struct.pack("<QII", 1, 0, 0) + bytes(88)),
        "full": _write(x, 0, b"a") + piece(1, bytes((28,))) + _make(MKDIR, d, "f")
        + piece(1, bytes((28,))) + piece(1, bytes((28,))),
        "malformed": piece(2, b"short")
        + piece(2, struct.pack("<IIQQIIII", 41, 3, 2, 1, 0, 0, 0, 0))
        + _ask(LOOKUP, ROOT, b"no end") + _ask(GETATTR, 255) + _ask(90, ROOT) + _ask(WRITE, x)
        + _write(x, 1 << 63, b"far") + _read(READ, x, (1 << 64) - 1, 1 << 31),
    }  # fmt: skip


# ---- compressed layers -----------------------------------------------------------------------

# Made once by libzstd: a frame with compressed blocks and a checksum, of 300 lines.
_ZSTD = bytes.fromhex(
    "28b52ffd64f014c50400d4036c696e652030206f662061206c617965720a31323334353637383931313131313131"
    "313132323232323232323232333333333333333233343536373839302080a392c77f82ab87f3cdec2cf399d92ce6"
    "0333579c6d4012bdf3584fbce3314f78e7314f7ae7319e78d7639ef06e8f05f104a877bf79cc8727bdbce3e9b1dd"
    "3dd1e15d2e2f70929b9959e633b359cc37b359fabc4a886109373ed7"
)


def _gzip(data: bytes, level: int = 9, strategy: int = zlib.Z_DEFAULT_STRATEGY) -> bytes:
    packer = zlib.compressobj(level, zlib.DEFLATED, 31, 9, strategy)
    return packer.compress(data) + packer.flush()


def _zeros(blocks: int) -> bytes:
    """A frame of zstd (RFC 8878, 3.1.1) with blocks of 128 KiB of zeros each."""
    block = (1 << 17) << 3 | 1 << 1  # RLE
    made = b"".join(struct.pack("<I", block | (i == blocks - 1))[:3] + b"\0" for i in range(blocks))
    return b"\x28\xb5\x2f\xfd\x00\x38" + made


def packed() -> dict[str, bytes]:
    gzip = struct.pack("<BHH", 0, 99, 4095)  # the codec, bytes to feed and to ask for
    zstd = struct.pack("<BHH", 1, 7, 65535)
    text = b"".join(b"line %d of a layer\n" % (i % 37) for i in range(300))
    far = b"".join(bytes((i % 251,)) * (4000 + i) for i in range(600))  # more than two points
    head = b"\x1f\x8b\x08\x1e" + bytes(6) + struct.pack("<H", 3) + b"abcname\0comment\0"
    named = head + struct.pack("<H", zlib.crc32(head) & 0xFFFF) + _gzip(text)[10:]
    return {
        "gzip": gzip + _gzip(text),
        "gzip-fixed": gzip + _gzip(text, strategy=zlib.Z_FIXED),
        "gzip-stored": gzip + _gzip(text, 0),
        "gzip-far": gzip + _gzip(far),
        "gzip-members": gzip + b"".join(_gzip(bytes(300_000) + text[: 100 * i]) for i in range(5)),
        "gzip-named": gzip + named,
        "gzip-more-behind": gzip + _gzip(text) + bytes(20) + _gzip(text),
        "gzip-cut": gzip + _gzip(text)[:-9],
        "gzip-reserved-flag": gzip + head[:3] + b"\x20" + _gzip(text)[4:],
        "gzip-wrong-sum": gzip + _gzip(text)[:-8] + bytes(8),
        "zstd": zstd + _ZSTD,
        "zstd-frames": zstd + _ZSTD + b"\x50\x2a\x4d\x18\x03\0\0\0abc" + _zeros(3) + _ZSTD,
        "zstd-far": zstd + (_zeros(5) + _ZSTD) * 3,  # a point for each of the large frames
        "zstd-large": zstd + _zeros(40),
        "zstd-cut": zstd + _ZSTD[:-5],
        "zstd-more-behind": zstd + _ZSTD + b"\0",
    }


# ---- images as other programs keep them, for targets.py --------------------------------------

IDENT = "ab" * 32
BLOB, OTHER = f"sha256:{IDENT}", f"sha256:{'cd' * 32}"


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def sources() -> dict[str, bytes]:
    """Pieces whose kinds are indexes of targets.FILES."""
    manifest_type = "application/vnd.oci.image.manifest.v1+json"
    layer_type = "application/vnd.oci.image.layer.v1.tar"
    config = _json({"os": "linux", "architecture": "amd64", "rootfs": {"diff_ids": [BLOB]}})
    tag = {"org.opencontainers.image.ref.name": "a"}
    entry = {"mediaType": manifest_type, "digest": BLOB, "size": 9, "annotations": tag}
    manifest = {
        "mediaType": manifest_type,
        "config": {"digest": OTHER, "size": len(config)},
        "layers": [{"mediaType": layer_type, "digest": OTHER, "size": len(config)}],
    }
    image = {"id": IDENT, "names": ["a"], "layer": IDENT, "digest": OTHER}
    layer = {"id": IDENT, "parent": "", "diff-digest": BLOB, "diff-size": 7}
    kept = {**manifest, "config": {"digest": BLOB, "size": len(config)}}
    config_file = f"blobs/sha256/{'cd' * 32}"
    archive = [{"Config": config_file, "RepoTags": ["a:1"], "Layers": ["oci-layout"]}]
    return {
        "oci": piece(0, b'{"imageLayoutVersion":"1.0.0"}')
        + piece(1, _json({"schemaVersion": 2, "manifests": [entry, {**entry, "digest": OTHER}]}))
        + piece(2, _json(manifest)) + piece(3, config),
        "archive": piece(4, _json(archive)) + piece(3, config),
        "archive-v1": piece(5, _json({"a": {"1": IDENT}}))
        + piece(6, _json({"id": IDENT, "parent": IDENT, "config": {"Cmd": ["x"]}})),
        "podman": piece(7, _json([image])) + piece(8, _json([layer])) + piece(9, _json(kept))
        + piece(10, config),
        "docker": piece(11, _json({"Repositories": {"a": {"a:1": BLOB, f"a@{OTHER}": BLOB}}}))
        + piece(12, config) + piece(13, BLOB.encode()) + piece(14, b"7")
        + piece(15, IDENT.encode()),
    }  # fmt: skip


# ---- files -----------------------------------------------------------------------------------

TARGETS = {
    "tar": tars,
    "index": indexes,
    "pax": pax,
    "packed": packed,
    "marks": marks,
    "fuse": fuse,
    "sources": sources,
}


def main() -> None:
    for target, make in TARGETS.items():
        directory = HERE / "seeds" / target
        directory.mkdir(parents=True, exist_ok=True)
        made = make()
        for old in directory.iterdir():
            if old.name not in made:
                old.unlink()
        for name, data in made.items():
            (directory / name).write_bytes(data)


if __name__ == "__main__":
    main()
