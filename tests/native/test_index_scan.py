"""Law: an index says what GNU tar would extract, for every dialect, and what no tar may say.

Real archives are made and extracted by GNU tar, the oracle; hostile ones are built here byte by
byte.  The C core's own cases, and the bent and cut archives, are in native/tests/test_tarscan.c.
"""

from __future__ import annotations

import base64
import errno
import itertools
import os
import shutil
import stat
import struct
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fusemount._native import FormatError, LayerIndex, Member, Scanner

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: owners and device nodes")
BLOCK = 512
END = bytes(2 * BLOCK)


# ---- bytes of a tar ----


def header(
    name: bytes,
    flag: bytes = b"0",
    size: int = 0,
    *,
    magic: bytes = b"ustar\x0000",
    signed: bool = False,
    **fields: bytes,
) -> bytes:
    """One header block; fields are raw bytes by the field's name."""
    at = {
        "mode": 100, "uid": 108, "gid": 116, "size": 124, "mtime": 136, "link": 157,
        "devmajor": 329, "devminor": 337, "prefix": 345, "atime": 345, "ctime": 357,
        "star_atime": 476, "star_ctime": 488, "trailer": 508,
    }  # fmt: skip
    block = bytearray(BLOCK)
    given = {"mode": b"0000644", "uid": b"0000000", "gid": b"0000000", "mtime": b"00000000000"}
    given |= {"size": b"%011o" % size} | fields
    block[: len(name)] = name
    block[156:157] = flag
    block[257 : 257 + len(magic)] = magic
    for field, value in given.items():
        block[at[field] : at[field] + len(value)] = value
    block[148:156] = b" " * 8
    total = sum(byte - 256 if signed and byte > 127 else byte for byte in block)
    block[148:156] = b"%06o\0 " % total
    return bytes(block)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % BLOCK)


def member(name: bytes, data: bytes = b"", flag: bytes = b"0", **fields: bytes) -> bytes:
    return header(name, flag, len(data), **fields) + padded(data)  # type: ignore[arg-type]


def record(key: bytes, value: bytes) -> bytes:
    length = len(key) + len(value) + 3
    while length != len(key) + len(value) + 3 + len(str(length)):
        length = len(key) + len(value) + 3 + len(str(length))
    return b"%d %s=%s\n" % (length, key, value)


def pax(*records: tuple[bytes, bytes], flag: bytes = b"x") -> bytes:
    return member(b"PaxHeaders/x", b"".join(record(k, v) for k, v in records), flag)


def base256(number: int, width: int) -> bytes:
    if number < 0:
        number += 1 << 8 * width
        return number.to_bytes(width, "big")
    marked: int = 0x80 << 8 * (width - 1) | number
    return marked.to_bytes(width, "big")


def scan(data: bytes, piece: int | None = None) -> LayerIndex:
    scanner = Scanner()
    for at in range(0, len(data), piece or len(data) or 1):
        scanner.feed(data[at : at + (piece or len(data))])
    return scanner.finish()


def members(data: bytes) -> list[Member]:
    index = scan(data)
    return [index.member(i) for i in range(len(index))]


def only(data: bytes) -> Member:
    (single,) = members(data)
    return single


def refused(data: bytes) -> FormatError:
    with pytest.raises(FormatError) as caught:
        scan(data)
    assert str(caught.value) == caught.value.message
    return caught.value


# ---- archives of GNU tar, against what GNU tar extracts ----


def build_tree(top: Path) -> None:
    """What v7 can say already: short names, small ids, no devices."""
    (top / "etc").mkdir()
    (top / "etc/hosts").write_bytes(b"127.0.0.1 localhost\n")
    (top / "etc/empty").touch()
    (top / "etc/blocks").write_bytes(bytes(range(256)) * 8)
    (top / "a b\tc\nd").write_bytes(b"odd name")
    (top / os.fsdecode(b"caf\xe9")).write_bytes(b"not UTF-8")
    (top / "sticky").mkdir()
    os.chmod(top / "sticky", 0o1777)
    (top / "suid").write_bytes(b"#!")
    os.chmod(top / "suid", 0o6755)
    os.link(top / "etc/hosts", top / "hosts-too")
    os.symlink("../nowhere/at all", top / "etc/link")
    os.symlink("/", top / "slash")
    for i, path in enumerate(sorted(top.rglob("*"))):
        os.utime(path, ns=(10**9 * i, 1_500_000_000_123_456_789 + i), follow_symlinks=False)


def add_what_ustar_says(top: Path) -> None:
    deep = top / ("d" * 90) / ("e" * 60)
    deep.mkdir(parents=True)
    (deep / ("f" * 100)).write_bytes(b"155+100")
    os.mkfifo(top / "fifo", 0o640)
    if os.geteuid() == 0:
        os.mknod(top / "tty", stat.S_IFCHR | 0o620, os.makedev(5, 1))
        os.mknod(top / "disk", stat.S_IFBLK | 0o660, os.makedev(259, 70_000))
        os.chown(top / "etc/hosts", 1000, 50)


def add_what_gnu_says(top: Path) -> None:
    path = top
    for letter in "ghijklm":
        path = path / (letter * 200)
    path.mkdir(parents=True)
    (path / ("n" * 255)).write_bytes(b"long name")
    os.symlink("t" * 300, top / "long-link")
    os.link(path / ("n" * 255), top / "long-hardlink")
    os.utime(top / "suid", ns=(0, -5_000_000_000))
    if os.geteuid() == 0:
        os.chown(top / "suid", 3_000_000_000, 4_294_967_294)
        os.chmod(top / "suid", 0o6755)


def add_what_pax_says(top: Path) -> None:
    os.utime(top / "suid", ns=(0, -1_500_000_000))
    os.setxattr(top / "etc/hosts", "user.binary", b"a\0=\nb")
    os.setxattr(top / "etc", "user.of.dir", b"x" * 3000)


TREES = {
    "v7": (build_tree,),
    "ustar": (build_tree, add_what_ustar_says),
    "oldgnu": (build_tree, add_what_ustar_says, add_what_gnu_says),
    "gnu": (build_tree, add_what_ustar_says, add_what_gnu_says),
    "posix": (build_tree, add_what_ustar_says, add_what_gnu_says, add_what_pax_says),
}


def tar(*args: str | Path, cwd: Path) -> None:
    done = subprocess.run(["tar", *map(str, args)], cwd=cwd, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr.decode()


def scan_file(path: Path) -> tuple[LayerIndex, dict[bytes, Member]]:
    with open(path, "rb") as file:
        index = LayerIndex.scan(file.fileno(), 0, path.stat().st_size)
    data = path.read_bytes()
    assert_same(index, scan(data, 1000))
    return index, {m.path: m for m in (index.member(i) for i in range(len(index)))}


def assert_same(left: LayerIndex, right: LayerIndex) -> None:
    assert left.archive_bytes == right.archive_bytes
    assert [left.member(i) for i in range(len(left))] == [
        right.member(i) for i in range(len(right))
    ]


def contents(archive: bytes, m: Member) -> bytes:
    data = bytearray(m.size)
    for at, length, place in m.extents:
        assert length > 0 and place + length <= len(archive)
        data[at : at + length] = archive[place : place + length]
    return bytes(data)


KINDS = {
    stat.S_IFREG: "file", stat.S_IFDIR: "dir", stat.S_IFLNK: "symlink", stat.S_IFCHR: "char",
    stat.S_IFBLK: "block", stat.S_IFIFO: "fifo",
}  # fmt: skip


def walk(top: Path) -> Iterator[tuple[bytes, bytes]]:
    base = os.fsencode(top)
    yield b"", base
    for folder, dirs, files in os.walk(base):
        for name in dirs + files:
            path = os.path.join(folder, name)
            yield os.path.relpath(path, base), path


def compare(archive: Path, extracted: Path, *, xattrs: bool) -> None:
    _, found = scan_file(archive)
    data = archive.read_bytes()
    paths = dict(walk(extracted))
    assert found.keys() == paths.keys()
    for path, real in paths.items():
        st = os.lstat(real)
        m = found[path]
        if m.kind == "hardlink":
            assert os.path.samestat(os.lstat(paths[m.link]), st)
            m = found[m.link]
        assert m.kind == KINDS[stat.S_IFMT(st.st_mode)], path
        assert m.mode == st.st_mode, path
        assert m.mtime_ns == st.st_mtime_ns, path
        if os.geteuid() == 0:
            assert (m.uid, m.gid) == (st.st_uid, st.st_gid), path
        if m.kind in ("char", "block"):
            assert m.rdev == (os.major(st.st_rdev), os.minor(st.st_rdev)), path
        if m.kind == "symlink":
            assert m.link == os.readlink(real), path
        if m.kind == "file":
            assert contents(data, m) == Path(os.fsdecode(real)).read_bytes(), path
        if xattrs and m.kind != "symlink":
            have = {n: os.getxattr(real, n) for n in os.listxattr(real)}
            assert {os.fsdecode(n): v for n, v in m.xattrs} == have, path


def round_trip(tmp_path: Path, *options: str, xattrs: bool = False) -> Path:
    """Packs tmp_path/tree, extracts it again, compares; returns the archive."""
    archive, extracted = tmp_path / "a.tar", tmp_path / "extracted"
    extracted.mkdir()
    extra = ["--xattrs", "--xattrs-include=*", "--acls"] if xattrs else []
    tar("-cf", archive, "-C", "tree", *extra, *options, ".", cwd=tmp_path)
    tar("-xpf", archive, "-C", "extracted", "--numeric-owner", *extra, cwd=tmp_path)
    compare(archive, extracted, xattrs=xattrs)
    return archive


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    top = tmp_path / "tree"
    top.mkdir()
    return top


@pytest.mark.parametrize("dialect", TREES)
def test_t17_dialects_of_gnu_tar(tmp_path: Path, tree: Path, dialect: str) -> None:
    for build in TREES[dialect]:
        build(tree)
    round_trip(tmp_path, f"--format={dialect}", xattrs=dialect == "posix")


@pytest.mark.parametrize(
    "command",
    [
        ["bsdtar", "--format=pax"], ["bsdtar", "--format=gnutar"], ["bsdtar", "--format=ustar"],
        ["busybox", "tar"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_t17_other_tars(tmp_path: Path, tree: Path, command: list[str]) -> None:
    if not shutil.which(command[0]):
        pytest.skip(f"no {command[0]} here")
    build_tree(tree)
    (tree / "x" / ("y" * 120)).mkdir(parents=True)
    if "ustar" not in command[-1]:
        (tree / ("z" * 200)).write_bytes(b"long")
    (tmp_path / "extracted").mkdir()
    subprocess.run([*command, "-cf", "../a.tar", "."], cwd=tree, check=True, timeout=60)
    owners = ["--numeric-owner", "--delay-directory-restore"]
    tar("-xpf", "a.tar", "-C", "extracted", *owners, cwd=tmp_path)
    compare(tmp_path / "a.tar", tmp_path / "extracted", xattrs=False)


@pytest.mark.parametrize("dialect", ["gnu", "posix"])
def test_t18_atime_and_ctime(tmp_path: Path, tree: Path, dialect: str) -> None:
    (tree / "f").write_bytes(b"x")
    os.utime(tree / "f", ns=(1_400_000_000_987_654_321, 1_500_000_000_123_456_789))
    st = os.stat(tree / "f")
    option = ["--listed-incremental=snapshot"] if dialect == "gnu" else []
    tar(f"--format={dialect}", *option, "-cf", "a.tar", "-C", "tree", "f", cwd=tmp_path)
    _, found = scan_file(tmp_path / "a.tar")
    unit = 10**9 if dialect == "gnu" else 1
    assert found[b"f"].atime_ns == st.st_atime_ns // unit * unit
    assert found[b"f"].ctime_ns == st.st_ctime_ns // unit * unit


@root_only
def test_t18_capabilities_and_acls(tmp_path: Path, tree: Path) -> None:
    build_tree(tree)
    v2 = struct.pack("<IIIII", 0x02000001, 0x400, 0, 0, 0)
    v3 = struct.pack("<IIIIII", 0x03000001, 0x400, 0, 0, 0, 100_000)
    os.setxattr(tree / "etc/hosts", "security.capability", v2)
    os.setxattr(tree / "etc/empty", "security.capability", v3)
    subprocess.run(
        ["setfacl", "-m", "u:1234:rw,g:77:r,d:u:5:rwx,d:o:-", tree / "etc"], check=True, timeout=9
    )
    archive = round_trip(tmp_path, "--format=posix", "--numeric-owner", xattrs=True)
    _, found = scan_file(archive)
    assert dict(found[b"etc/hosts"].xattrs)[b"security.capability"] == v2
    assert dict(found[b"etc/empty"].xattrs)[b"security.capability"] == v3
    assert {n for n, _ in found[b"etc"].xattrs} == {
        b"system.posix_acl_access",
        b"system.posix_acl_default",
    }


SPARSE = {
    "gnu": ["--format=gnu"],
    "0.0": ["--format=posix", "--sparse-version=0.0"],
    "0.1": ["--format=posix", "--sparse-version=0.1"],
    "1.0": ["--format=posix", "--sparse-version=1.0"],
}


@pytest.mark.parametrize("version", SPARSE)
def test_t19_sparse_files_of_gnu_tar(tmp_path: Path, tree: Path, version: str) -> None:
    unit = 65536
    shapes = {
        "hole-first": (4 * unit, [3]),
        "hole-last": (4 * unit + 17, [0]),
        "all-hole": (5 * unit + 1, []),
        "many": (400 * unit, list(range(1, 400, 2))),  # extension blocks, a map of 2 blocks
        "odd-end": (3 * unit + 5, [1, 3]),
    }
    for name, (size, pieces) in shapes.items():
        with open(tree / name, "wb") as file:
            file.truncate(size)
            for piece in pieces:
                file.seek(piece * unit)
                file.write((b"%06d" % piece * unit)[: min(unit, size - piece * unit)])
    (tree / "after").write_bytes(b"the next member is found")
    archive = round_trip(tmp_path, "--sparse", *SPARSE[version])
    _, found = scan_file(archive)
    for name, (size, pieces) in shapes.items():
        m = found[name.encode()]
        assert m.sparse and m.size == size, name
        assert len(m.extents) == len(pieces), name
    assert not found[b"after"].sparse


# ---- what GNU tar does not write ----


def test_t17_end_of_archive() -> None:
    one = member(b"a", b"data")
    assert len(scan(b"")) == 0
    assert len(scan(END)) == 0
    assert scan(one).archive_bytes == 1024  # plain end of file
    assert scan(one + END + b"garbage").archive_bytes == 1024
    assert scan(one + bytes(BLOCK)).archive_bytes == 1024
    assert len(scan(one + bytes(BLOCK) + member(b"b") + END)) == 2
    assert len(scan(one[:516])) == 1  # the padding is gone
    scanner = Scanner()
    scanner.feed(one + END[:-1])
    assert not scanner.ended
    scanner.feed(b"\0" * 10)
    assert scanner.ended
    scanner.feed(b"anything at all")
    assert len(scanner.finish()) == 1


def test_t17_checksums_signed_and_unsigned() -> None:
    assert only(header("caf\u00e9".encode(), signed=True)).path == "caf\u00e9".encode()
    assert only(header("caf\u00e9".encode())).path == "caf\u00e9".encode()
    wrong = bytearray(header(b"a"))
    wrong[0] ^= 1
    assert "not a tar archive" in refused(bytes(wrong)).message
    error = refused(member(b"first", b"x") + bytes(wrong))
    assert "checksum" in error.message and error.offset == 1024


def test_t17_numbers_as_old_tars_write_them() -> None:
    m = only(header(b"a", mode=b"  644 \0\0", uid=b"   1750 ", mtime=b"14000000000 "))
    assert (stat.S_IMODE(m.mode), m.uid, m.mtime_ns) == (0o644, 0o1750, 0o14000000000 * 10**9)
    assert only(header(b"a", uid=b"01234567")).uid == 0o1234567  # no terminator
    assert only(header(b"a", uid=b" " * 8)).uid == 0
    assert only(header(b"a", mtime=base256(-100, 12))).mtime_ns == -100 * 10**9
    far = only(header(b"a", mtime=base256(2**62, 12)))
    assert far.mtime_ns == 2**62 * 10**9  # beyond 64 bits of ns: an int all the same
    assert only(header(b"a", uid=base256(2**32 - 2, 8))).uid == 2**32 - 2
    assert "uid is no number" in refused(header(b"a", uid=b"what?\0")).message


def test_t17_type_flags() -> None:
    data = (
        member(b"old", b"1", b"\0", magic=b"")
        + member(b"dir/", b"", b"\0", magic=b"")
        + member(b"cont", b"2", b"7")
        + member(b"label", b"skipped", b"V")
        + member(b"dump", b"Yfile\0\0", b"D")
        + member(b"solaris", b"acl", b"A")
        + header(b"hard", b"1", 1000, link=b"/old")  # header only, whatever its size
        + header(b"sub", b"5", 1000)
        + member(b"last", b"3")
    )
    found = members(data + END)
    assert [(m.kind, m.path) for m in found] == [
        ("file", b"old"), ("dir", b"dir"), ("file", b"cont"), ("dir", b"dump"),
        ("hardlink", b"hard"), ("dir", b"sub"), ("file", b"last"),
    ]  # fmt: skip
    assert found[4].link == b"old" and found[4].mode == 0
    for flag in b"MN89az\x01\xff":
        error = refused(member(b"strange", b"", bytes([flag])))
        assert error.member == b"strange"


def test_t17_prefixes() -> None:
    assert only(header(b"name", prefix=b"a" * 155)).path == b"a" * 155 + b"/name"
    star = header(
        b"n", prefix=b"p" * 131, star_atime=b"%011o" % 7, star_ctime=b"%011o" % 8, trailer=b"tar\0"
    )
    m = only(star)
    assert (m.path, m.atime_ns, m.ctime_ns) == (b"p" * 131 + b"/n", 7 * 10**9, 8 * 10**9)
    m = only(header(b"n", magic=b"ustar  \0", atime=b"%011o" % 7, ctime=b"%011o" % 8))
    assert (m.path, m.atime_ns, m.ctime_ns) == (b"n", 7 * 10**9, 8 * 10**9)
    # Go before 1.8 wrote a prefix into GNU headers
    m = only(header(b"n", magic=b"ustar  \0", prefix=b"usr/share/some/where"))
    assert m.path == b"usr/share/some/where/n"


def test_t17_gnu_long_names() -> None:
    name, link = b"n/" * 300 + b"end", b"l" * 700
    data = member(b"././@LongLink", name + b"\0", b"L")
    data += member(b"././@LongLink", link + b"\0", b"K") + header(b"cut", b"2", link=b"cut")
    m, after = members(data + header(b"plain"))
    assert (m.path, m.link, m.header_offset) == (name, link, 0)
    assert (after.path, after.link) == (b"plain", b"")
    assert after.header_offset == len(data)


def test_t18_global_headers_last_until_replaced() -> None:
    data = (
        pax((b"mtime", b"5.000000001"), (b"SCHILY.xattr.user.g", b"all"), flag=b"g")
        + header(b"a")
        + pax((b"mtime", b"6"), (b"SCHILY.xattr.user.own", b"b"))
        + header(b"b")
        + pax((b"mtime", b""))  # back to the header's
        + header(b"c", mtime=b"%011o" % 9)
        + pax((b"mtime", b"7"), (b"SCHILY.xattr.user.g", b""), flag=b"g")
        + header(b"d")
    )
    a, b, c, d = members(data)
    assert [m.mtime_ns for m in (a, b, c, d)] == [5 * 10**9 + 1, 6 * 10**9, 9 * 10**9, 7 * 10**9]
    assert a.xattrs == c.xattrs == ((b"user.g", b"all"),)
    assert set(b.xattrs) == {(b"user.g", b"all"), (b"user.own", b"b")}
    assert d.xattrs == ((b"user.g", b""),)
    assert a.header_offset == 1024  # a global header is no part of a member


def test_t18_pax_overrides_the_header() -> None:
    size = 9 * 2**30
    bad = b"?" * 7
    head = pax(
        (b"hdrcharset", b"BINARY"), (b"path", b"./real\xff/name"), (b"size", b"%d" % size),
        (b"uid", b"3000000"), (b"gid", b"4294967294"), (b"mtime", b"1.123456789999"),
        (b"atime", b"-0.25"), (b"ctime", b"3"), (b"comment", b"a=b\nc"),
    ) + header(b"x", uid=bad, gid=bad, mtime=bad)  # fmt: skip
    with pytest.raises(FormatError, match="ends inside the contents"):
        scan(head)
    scanner = Scanner()
    scanner.feed(head + b"x" * 100)
    with pytest.raises(FormatError, match=f"{size - 100} bytes early") as caught:
        scanner.finish()
    assert caught.value.member == b"./real\xff/name"
    m = only(head.replace(b"%d" % size, b"0" * 10))
    assert (m.path, m.uid, m.gid) == (b"real\xff/name", 3_000_000, 2**32 - 2)
    assert (m.mtime_ns, m.atime_ns, m.ctime_ns) == (1_123_456_789, -250_000_000, 3 * 10**9)


def test_t18_size_over_8_gib_in_a_file(tmp_path: Path) -> None:
    """The contents are skipped, not read: a file of 9 GiB of nothing scans in no time."""
    size, path = 9 * 2**30 + 1, tmp_path / "big.tar"
    with open(path, "wb") as file:
        head = file.write(pax((b"size", b"%d" % size)) + header(b"big"))
        file.seek(head + size + 511)
        file.write(member(b"after", b"x") + END)
        length = file.tell()
    fd = os.open(path, os.O_RDONLY)
    try:
        index = LayerIndex.scan(fd, 0, length)
    finally:
        os.close(fd)
    assert [(index.member(i).path, index.member(i).size) for i in (0, 1)] == [
        (b"big", size),
        (b"after", 1),
    ]
    assert index.member(0).extents == ((0, size, head),)


def test_t18_xattrs() -> None:
    value = bytes(range(256))
    data = pax(
        (b"SCHILY.xattr.user.k", b"first"),
        (b"SCHILY.xattr.user.odd key", value),
        (b"SCHILY.xattr.user.empty", b""),
        (b"LIBARCHIVE.xattr.user.%41%3d", base64.b64encode(value).rstrip(b"=")),
        (b"SCHILY.xattr.user.k", b"last"),
    )
    assert only(data + header(b"a")).xattrs == (
        (b"user.k", b"last"),
        (b"user.odd key", value),
        (b"user.empty", b""),
        (b"user.A=", value),
    )


def test_t18_acl_text_of_star_and_bsdtar() -> None:
    text = b"user::rwx,user:joe:rw-:1000,group::r-x,mask::rwx,other::---"
    data = pax((b"SCHILY.acl.access", text), (b"SCHILY.acl.default", b"u::rwx,g::---,o::---"))
    xattrs = dict(only(data + header(b"a", b"5")).xattrs)
    entries = [(1, 7, -1), (2, 6, 1000), (4, 5, -1), (16, 7, -1), (32, 0, -1)]
    assert xattrs[b"system.posix_acl_access"] == struct.pack("<I", 2) + b"".join(
        struct.pack("<HHi", *entry) for entry in entries
    )
    assert len(xattrs[b"system.posix_acl_default"]) == 4 + 3 * 8
    plain = pax((b"SCHILY.acl.access", b"user::rw-,group::r--,other::r--"))
    assert only(plain + header(b"a")).xattrs == ()  # says no more than the mode
    assert "ACL" in refused(pax((b"SCHILY.acl.access", b"nonsense")) + header(b"a")).message


def test_t19_sizes_in_any_order() -> None:
    data = b"head" + b"tail"
    records = [
        (b"GNU.sparse.realsize", b"1000"), (b"size", b"%d" % (BLOCK + len(data))),
        (b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.name", b"real"),
    ]  # fmt: skip
    body = padded(b"2\n0\n4\n996\n4\n") + data
    for order in itertools.permutations(records):
        archive = pax(*order) + header(b"GNUSparseFile.0/real") + padded(body)
        m, after = members(archive + header(b"after"))
        assert (m.path, m.size, m.sparse) == (b"real", 1000, True)
        assert contents(archive, m) == b"head" + bytes(992) + b"tail"
        assert after.path == b"after"


def test_t19_maps_that_lie() -> None:
    def sparse(*records: tuple[bytes, bytes], body: bytes = b"12345678") -> str:
        return refused(pax(*records) + member(b"a", body)).message

    size = (b"GNU.sparse.size", b"100")
    offset, length = b"GNU.sparse.offset", b"GNU.sparse.numbytes"
    assert "out of order" in sparse(size, (b"GNU.sparse.map", b"50,4,10,4"))
    assert "out of order" in sparse(size, (b"GNU.sparse.map", b"8,%d" % (2**63 - 1)))
    assert "9 bytes for 8" in sparse(size, (b"GNU.sparse.map", b"0,9"))
    assert "7 bytes for 8" in sparse(size, (b"GNU.sparse.map", b"0,7"))
    assert "reaches byte 104" in sparse(size, (b"GNU.sparse.map", b"0,4,100,4"))
    assert "within a pair" in sparse(size, (b"GNU.sparse.map", b"0,8,"))
    assert "without its size" in sparse((b"GNU.sparse.map", b"0,8"))
    assert "another length" in sparse(
        size, (b"GNU.sparse.numblocks", b"2"), (offset, b"0"), (length, b"8")
    )
    version = ((b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"), size)
    assert "longer than" in sparse(*version, body=b"1\n0\n")
    assert "no number" in sparse(*version, body=b"1\n0\nx\n".ljust(BLOCK, b"\0"))
    assert "limit is" in sparse(*version, body=b"9999999\n".ljust(BLOCK, b"\0"))
    assert "beyond 64 bits" in sparse(*version, body=b"9" * BLOCK)
    assert "unknown" in sparse((b"GNU.sparse.major", b"2"), (b"GNU.sparse.minor", b"0"))
    assert "global" in refused(pax((b"GNU.sparse.map", b"0,8"), flag=b"g")).message


def test_t20_devices() -> None:
    m = only(header(b"d", b"4", devmajor=b"0007777", devminor=base256(2**20 - 1, 8)))
    assert (m.kind, m.rdev) == ("block", (4095, 1048575))
    m = only(pax((b"SCHILY.devmajor", b"300")) + header(b"d", b"3", devmajor=b"?"))
    assert (m.kind, m.rdev) == ("char", (300, 0))
    assert "limit is 4095" in refused(header(b"d", b"3", devmajor=b"0010000")).message
    # in a file's header the fields mean nothing
    assert only(header(b"f", devmajor=b"garbage!")).rdev == (0, 0)


@pytest.mark.parametrize("length", [100, 256, 4096, 8191])
def test_t20_names_of_length(length: int) -> None:
    name = (b"x" * 127 + b"/") * 64
    name = name[: length - 1] + b"y"
    link = b"/" + name
    assert only(pax((b"path", name)) + header(b"short")).path == name
    m = only(pax((b"path", name), (b"linkpath", link)) + header(b"short", b"1"))
    assert (m.path, m.link) == (name, name)
    if length == 100:
        assert only(header(name)).path == name


def test_t20_ids_at_their_limit() -> None:
    assert only(pax((b"uid", b"4294967294")) + header(b"a")).uid == 2**32 - 2
    for key, value in [(b"uid", 2**32 - 1), (b"gid", 2**63 - 1)]:
        error = refused(pax((key, b"%d" % value)) + header(b"a"))
        assert f"a {key.decode()} of {value}, the limit is 4294967294" in error.message
    assert "negative uid" in refused(header(b"a", uid=base256(-1, 8))).message


# ---- M 9: names ----


@pytest.mark.parametrize(
    "name, path",
    [
        (b"./x", b"x"), (b"x/", b"x"), (b"a//b", b"a/b"), (b"/etc/x", b"etc/x"), (b"./", b""),
        (b"/", b""), (b"a/../b", b"b"), (b"a/./b/.", b"a/b"), (b"\xff\xfe", b"\xff\xfe"),
        (b"...", b"..."), (b"a\nb", b"a\nb"),
    ],
)  # fmt: skip
def test_m09_names_are_normalised(name: bytes, path: bytes) -> None:
    assert only(header(name, b"5")).path == path
    if path:
        assert only(header(b"l", b"1", link=name)).link == path
        assert only(header(b"l", b"2", link=name)).link == name


def test_m09_names_that_are_refused() -> None:
    for name in (b"..", b"../x", b"a/../../x", b"/../x"):
        error = refused(member(b"good", b"1") + header(name))
        assert "leads out of the root" in error.message
        assert (error.member, error.offset) == (name, 1024)
        assert "out of the root" in refused(header(b"l", b"1", link=name)).message
    assert "an empty name" in refused(header(b"")).message
    assert "NUL" in refused(pax((b"path", b"a\0b")) + header(b"a")).message
    assert "NUL" in refused(pax((b"linkpath", b"a\0b")) + header(b"a", b"2")).message
    assert (
        "256 bytes, the limit is 255"
        in refused(pax((b"path", b"d/" + b"x" * 256)) + header(b"a")).message
    )
    assert "the root directory" in refused(header(b"./", b"2", link=b"x")).message
    assert "without a target" in refused(header(b"l", b"2")).message


# ---- T 24: hostile ----


def test_t24_sizes() -> None:
    block = header(b"a")
    for raw, part in [
        (base256(2**63 - 1, 12), "beyond the largest file"),
        (base256(2**63, 12), "size is no number"),
        (base256(-1, 12), "a negative size"),
        (b"%011o" % (2**33 - 1), f"{2**33 - 1} bytes early"),
    ]:
        bent = bytearray(block)
        bent[124 : 124 + len(raw)] = raw
        bent[148:156] = b" " * 8
        bent[148:156] = b"%06o\0 " % sum(bent)
        error = refused(bytes(bent))
        assert part in error.message and error.member == b"a" and error.offset == 0


def test_t24_too_deep_too_many_too_much() -> None:
    deep = b"d/" * 10_000
    assert "20000 bytes, the limit is 8192" in refused(pax((b"path", deep)) + header(b"a")).message
    many = [(b"SCHILY.xattr.user.%d" % i, b"") for i in range(1025)]
    assert "1024 xattrs" in refused(pax(*many) + header(b"a")).message
    everywhere = pax((b"SCHILY.xattr.user.a", bytes(4096)), flag=b"g")
    assert "the limit is 4096" in refused(everywhere).message
    large = pax((b"SCHILY.xattr.user.a", bytes(65537))) + header(b"a")
    assert "the limit is 65536" in refused(large).message
    assert "the limit is 4194304" in refused(header(b"x", b"x", 2**30)).message
    half = pax((b"comment", bytes(3 * 2**20)))
    assert "the limit is 4194304" in refused(half + half).message  # nor in several headers
    assert "the limit is 4194304" in refused(header(b"x", b"L", 2**30)).message


def test_t24_ten_million_members() -> None:
    block = header(b"a") * 65_536
    scanner = Scanner()
    with pytest.raises(FormatError, match="more than 8388608 members, the limit"):
        for _ in range(10_000_000 // 65_536):
            scanner.feed(block)


@pytest.mark.parametrize("bad", [b"99 path=a\n", b"5 path=a\n", b"x path=a\n", b"8 path a\n"])
def test_t24_a_record_that_lies(bad: bytes) -> None:
    error = refused(member(b"first") + member(b"x", bad, b"x") + header(b"a"))
    assert "PAX record" in error.message and error.offset == 512


def test_t24_truncated_anywhere() -> None:
    whole = pax((b"path", b"a/b"), (b"SCHILY.xattr.user.k", b"v")) + member(b"a", b"x" * 600)
    complete = 1536 + 600
    for length in range(1, complete, 7):
        assert refused(whole[:length]).message
    assert "ends after an extended header" in refused(whole[:1024]).message
    assert "ends inside a header" in refused(whole[:1500]).message
    assert "1 bytes early" in refused(whole[: complete - 1]).message


def test_t24_an_error_is_final() -> None:
    scanner = Scanner()
    with pytest.raises(FormatError) as first:
        scanner.feed(b"x" * BLOCK)
    for again in (lambda: scanner.feed(header(b"a")), scanner.finish):
        with pytest.raises(FormatError) as second:
            again()
        assert second.value.args == first.value.args
    scanner = Scanner()
    scanner.feed(header(b"a"))
    scanner.finish()
    with pytest.raises(OSError, match="finished already"):
        scanner.finish()


# ---- LayerIndex ----


def test_scan_of_a_part_of_a_file(tmp_path: Path) -> None:
    inner = member(b"a", b"inner") + END
    path = tmp_path / "f"
    path.write_bytes(b"before" + inner + b"behind")
    with open(path, "rb") as file:
        index = LayerIndex.scan(file.fileno(), 6, len(inner))
        assert index.member(0).extents == ((0, 5, 512),)  # offsets count from the archive's start
        assert os.lseek(file.fileno(), 0, os.SEEK_CUR) == 0
        with pytest.raises(FormatError, match="the file ends"):
            LayerIndex.scan(file.fileno(), 6, len(inner) + 7)
        with pytest.raises(ValueError, match="negative"):
            LayerIndex.scan(file.fileno(), -1, 5)
    with pytest.raises(OSError) as caught:
        LayerIndex.scan(-1, 0, 1)
    assert caught.value.errno == errno.EBADF


def test_save_and_load(tmp_path: Path) -> None:
    data = pax((b"SCHILY.xattr.user.k", b"v")) + member(b"d/a", b"1") + member(b"d/b", b"2") + END
    index = scan(data)
    path = tmp_path / "index"
    with open(path, "w+b") as file:
        index.save(file.fileno())
        loaded = LayerIndex.load(file.fileno())
    assert_same(index, loaded)
    assert loaded.nbytes == index.nbytes > 0
    del index
    assert loaded.member(1).path == b"d/b"  # the mapping outlives the descriptor
    kept = path.read_bytes()
    for damaged in (kept[:-1], kept + b"x", b"X" + kept[1:], b"", kept[:40]):
        path.write_bytes(damaged)
        with open(path, "rb") as file, pytest.raises(FormatError):
            LayerIndex.load(file.fileno())


def test_members_are_counted_from_zero() -> None:
    index = scan(header(b"a"))
    assert len(index) == 1 and index.member(0).kind == "file"
    for i in (1, -1, 2**70):
        with pytest.raises(IndexError):
            index.member(i)
    with pytest.raises(TypeError):
        LayerIndex()


def test_members_of_a_directory_share_its_path() -> None:
    data = b"".join(header(b"some/long/directory/%d" % i) for i in range(10))
    one = scan(data[:BLOCK])
    per_member = (scan(data).nbytes - one.nbytes) / 9
    assert per_member == 120 + 1  # the entry and its own name


def test_two_threads_may_scan_at_once() -> None:
    data = header(b"a") * 20_000
    results: list[int] = []
    threads = [threading.Thread(target=lambda: results.append(len(scan(data)))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [20_000] * 4
