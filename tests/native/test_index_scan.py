"""Law: an index has what the tar has, in every dialect, also in forms that GNU tar never writes.

Archives of real tars are in test_index_gnutar.py, wrong ones in test_index_hostile.py.
"""

from __future__ import annotations

import base64
import itertools
import os
import stat
import struct
from pathlib import Path

import pytest
from tarbytes import (
    BLOCK,
    END,
    base256,
    contents,
    header,
    member,
    members,
    only,
    padded,
    pax,
    refused,
    scan,
)

from fusemount._native import FormatError, LayerIndex, Scanner


def test_t17_end_of_archive() -> None:
    one = member(b"a", b"data")
    assert len(scan(b"")) == 0
    assert len(scan(END)) == 0
    assert scan(one).archive_bytes == 1024  # the end of the file, without zero blocks
    assert scan(one + END + b"garbage").archive_bytes == 1024
    assert scan(one + bytes(BLOCK)).archive_bytes == 1024
    assert len(scan(one + bytes(BLOCK) + member(b"b") + END)) == 1  # as GNU tar and bsdtar
    assert len(scan(one[:516])) == 1  # without padding
    scanner = Scanner()
    scanner.feed(one + END[: BLOCK - 1])
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
    assert far.mtime_ns == 2**62 * 10**9  # beyond 64 bits of ns: Python's int is longer
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
        + header(b"hard", b"1", 1000, link=b"/old")  # no contents, whatever its size
        + header(b"sub", b"5", 1000)
        + member(b"last", b"3")
    )
    index = scan(data + END)
    assert index.oddities == ((0, b""), (0, b""), (1, b"solaris"))
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
        + pax((b"mtime", b""))  # now the header block's counts again
        + header(b"c", mtime=b"%011o" % 9)
        + pax((b"mtime", b"7"), (b"SCHILY.xattr.user.g", b""), flag=b"g")
        + header(b"d")
    )
    a, b, c, d = members(data)
    assert [m.mtime_ns for m in (a, b, c, d)] == [5 * 10**9 + 1, 6 * 10**9, 9 * 10**9, 7 * 10**9]
    assert a.xattrs == c.xattrs == ((b"user.g", b"all"),)
    assert set(b.xattrs) == {(b"user.g", b"all"), (b"user.own", b"b")}
    assert d.xattrs == ((b"user.g", b""),)
    assert a.header_offset == 1024  # a global header does not belong to the member


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
    """The contents are skipped and not read, so a file with a hole of 9 GiB is scanned at once."""
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
    assert only(plain + header(b"a")).xattrs == ()  # the ACL has only what the mode has
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
    # in the header of a file, these fields have no meaning
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
    beyond = (b"4294967295", b"9223372036854775807", b"18446744073709551615", b"-5")
    for key, value in [(key, value) for key in (b"uid", b"gid") for value in beyond]:
        index = scan(header(b"first") + pax((key, value)) + header(b"a", uid=b"0000017"))
        m = index.member(1)
        assert (m.uid, m.gid) == ((0, 0) if key == b"uid" else (0o17, 0))
        assert index.oddities == ((0, b""), (1, b"a"), (0, b""))
    for number in (2**32 - 1, 2**40, -1, -2):
        index = scan(header(b"a", uid=base256(number, 8)))
        assert (index.member(0).uid, index.oddities[1]) == (0, (1, b"a"))
    assert "uid" in refused(pax((b"uid", b"-")) + header(b"a")).message


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


@pytest.mark.parametrize(
    "name, path",
    [(b"../x", b"x"), (b"a/../../x", b"x"), (b"/../x/", b"x"), (b"../a/../../b/c", b"b/c")],
)
def test_m09_names_that_lead_out_of_the_root_end_at_it(name: bytes, path: bytes) -> None:
    index = scan(header(b"good") + header(name, b"5") + header(b"l", b"1", link=name))
    assert index.member(1).path == path and index.member(2).link == path
    assert index.oddities == ((2, path), (0, b""), (0, b""))
    assert "the root directory" in refused(header(b"..")).message
    assert "the root directory" in refused(header(b"l", b"1", link=b"../..")).message


def test_m09_names_that_are_refused() -> None:
    assert "an empty name" in refused(header(b"")).message
    assert "NUL" in refused(pax((b"path", b"a\0b")) + header(b"a")).message
    assert "NUL" in refused(pax((b"linkpath", b"a\0b")) + header(b"a", b"2")).message
    assert (
        "256 bytes, the limit is 255"
        in refused(pax((b"path", b"d/" + b"x" * 256)) + header(b"a")).message
    )
    assert "the root directory" in refused(header(b"./", b"2", link=b"x")).message
    assert "without a target" in refused(header(b"l", b"2")).message
