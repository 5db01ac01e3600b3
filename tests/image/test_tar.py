"""Tars that we write: GNU tar and our scanner read the same files, and the bytes never vary."""

from __future__ import annotations

import os
import stat
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracle import run

from fusemount import _native, tar
from fusemount.tar import Member

LONG = b"/".join([b"n" * 200] * 5)


def scanned(data: bytes) -> list[_native.Member]:
    scanner = _native.Scanner()
    scanner.feed(data)
    index = scanner.finish()
    return [index.member(i) for i in range(len(index))]


def one(member: Member, data: bytes = b"") -> _native.Member:
    (found,) = scanned(tar.header(member) + data + tar.padding(len(data)) + tar.END)
    return found


@pytest.mark.parametrize(
    "path",
    [b"a", b"n" * 100, b"n" * 101, b"n" * 255, LONG, "é…".encode(), b"caf\xe9", b"a b\tc\nd",
     b"\\x", b"=", b"n" * 99 + b"\xff"],
)  # fmt: skip
def test_names_of_any_bytes(tmp_path: Path, path: bytes) -> None:
    assert one(Member(path, tar.FILE, 0o644)).path == path
    assert one(Member(path, tar.DIRECTORY, 0o755)).path == path
    assert one(Member(b"l", tar.SYMLINK, 0o777, link=path)).link == path
    target = tar.header(Member(path, tar.FILE, 0o644))
    assert scanned(target + tar.header(Member(b"h", tar.HARDLINK, 0, link=path)) + tar.END)[
        1
    ].link == path  # fmt: skip
    (tmp_path / "t.tar").write_bytes(target + tar.END)
    out = tmp_path / "out"
    out.mkdir()
    run("tar", "-x", "-C", out, "-f", tmp_path / "t.tar")
    assert os.path.lexists(os.path.join(os.fsencode(out), path))


@pytest.mark.parametrize(
    "ns",
    [0, 1, 10**9, 1_400_000_000_123_456_789, 1_400_000_000_500_000_000, -1, -(10**9),
     -1_500_000_000, 8**11 * 10**9 - 1, 8**11 * 10**9, 4_102_444_800_000_000_001],
)  # fmt: skip
def test_times_to_the_nanosecond(ns: int) -> None:
    assert one(Member(b"f", tar.FILE, 0o644, mtime_ns=ns)).mtime_ns == ns


@pytest.mark.parametrize("number", [0, 8**7 - 1, 8**7, 2**32 - 2])
def test_ids(number: int) -> None:
    found = one(Member(b"f", tar.FILE, 0o6755, uid=number, gid=number))
    assert (found.uid, found.gid, found.mode & 0o7777) == (number, number, 0o6755)


def test_sizes_over_8_gib() -> None:
    head = tar.header(Member(b"big", tar.FILE, 0o644, size=8**11))
    assert b"19 size=8589934592\n" in head and head[-512 + 124 : -512 + 136] == b"0" * 11 + b"\0"
    small = tar.header(Member(b"big", tar.FILE, 0o644, size=8**11 - 1))
    assert len(small) == 512 and small[124:136] == b"7" * 11 + b"\0"


@pytest.mark.parametrize("size", [0, 5, 8**11 - 1, 8**11, 2**62])
def test_one_block_says_any_size(size: int) -> None:
    head = tar.one_block(b"blobs/sha256/x", size)
    assert len(head) == 512
    info = tarfile.TarInfo.frombuf(head, "ascii", "strict")
    assert (info.name, info.size, info.mode) == ("blobs/sha256/x", size, 0o644)


def test_devices_and_fifos() -> None:
    for kind, rdev in ((tar.CHAR, (1, 3)), (tar.BLOCK_DEVICE, (300, 70000)), (tar.CHAR, (0, 0))):
        assert one(Member(b"dev", kind, 0o640, rdev=rdev)).rdev == rdev
    assert stat.S_ISFIFO(one(Member(b"p", tar.FIFO, 0o600)).mode)


def test_xattrs_of_any_bytes() -> None:
    xattrs = {
        b"security.capability": bytes(range(20)), b"user.a": b"x=y\nz\0", b"user.empty": b"",
        b"user.k=v": b"the key has it", "user.é".encode(): b"1", b"user.\xff": b"2",
        b"user.long": bytes(30000),
    }  # fmt: skip
    assert dict(one(Member(b"f", tar.FILE, 0o644, xattrs=xattrs)).xattrs) == xattrs


def test_the_same_members_give_the_same_bytes() -> None:
    a = Member(b"f", tar.FILE, 0o644, xattrs={b"user.a": b"1", b"user.b": b"2"}, mtime_ns=5)
    b = Member(b"f", tar.FILE, 0o644, xattrs={b"user.b": b"2", b"user.a": b"1"}, mtime_ns=5)
    assert tar.header(a) == tar.header(b)


def test_a_plain_member_is_plain_ustar() -> None:
    head = tar.header(Member(b"etc/passwd", tar.FILE, 0o644, 1, 2, 3, 4 * 10**9))
    assert len(head) == 512 and head[257:265] == b"ustar\x0000"


_NAMES = st.binary(min_size=1, max_size=300).filter(
    lambda b: not set(b) & {0, 0x2F} and b not in (b".", b"..") and len(b) <= 255
)


@given(
    path=st.lists(_NAMES, min_size=1, max_size=8).map(b"/".join),
    ids=st.tuples(st.integers(0, 2**32 - 2), st.integers(0, 2**32 - 2)),
    mtime=st.integers(-(2**62), 2**62),
    data=st.binary(max_size=2000),
    xattrs=st.dictionaries(
        st.binary(min_size=1, max_size=40).map(lambda b: b"user." + b.replace(b"\0", b"0")),
        st.binary(max_size=300),
    ),
)
def test_what_goes_in_comes_out(
    path: bytes, ids: tuple[int, int], mtime: int, data: bytes, xattrs: dict[bytes, bytes]
) -> None:
    member = Member(path, tar.FILE, 0o644, *ids, size=len(data), mtime_ns=mtime, xattrs=xattrs)
    found = one(member, data)
    assert (found.path, found.uid, found.gid, found.size) == (path, *ids, len(data))
    assert found.mtime_ns == mtime and dict(found.xattrs) == xattrs
