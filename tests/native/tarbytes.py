"""Law: builds tars for the tests of the scanner, field by field, without any check.

It is short, so that it can be compared with the format, and separate from tests/tarwriter.py, so
that a mistake in one of the two is noticed.
"""

from __future__ import annotations

import pytest

from fusemount._native import FormatError, LayerIndex, Member, Scanner

BLOCK = 512
END = bytes(2 * BLOCK)


def header(
    name: bytes,
    flag: bytes = b"0",
    size: int = 0,
    *,
    magic: bytes = b"ustar\x0000",
    signed: bool = False,
    **fields: bytes,
) -> bytes:
    """One header block.  fields: the raw bytes of each field, by its name."""
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
