"""Law: writes the bytes of a tar; the same members always give the same bytes.  No I/O.

The format is POSIX.1-2017's pax interchange format (pax(1)): a ustar header, before it an extended
header only for values that ustar cannot represent: nanoseconds, times before 1970, ids above
2097151, sizes from 8 GiB, names that are longer than 100 bytes or not ASCII, xattrs
(`SCHILY.xattr.NAME`, the value as it is).  Names that are not UTF-8 have `hdrcharset=BINARY`.
Times of access and change are not written: they are not part of an image.

Python's tarfile is not used: its pax records are text, but names and values of xattrs are any
bytes; it writes times as floats; and its output may change from one Python to the next.
"""

from __future__ import annotations

import base64
import urllib.parse
from collections.abc import Mapping
from dataclasses import field

from fusemount.dataclass import dataclass

BLOCK = 512
END = bytes(2 * BLOCK)

FILE, HARDLINK, SYMLINK, CHAR, BLOCK_DEVICE, DIRECTORY, FIFO = (b"%d" % n for n in range(7))

_NAME_BYTES = 100
_ID_LIMIT = 8**7  # seven octal digits
_LONG_LIMIT = 8**11  # eleven: size and seconds
_NS = 10**9


@dataclass(frozen=True)
class Member:
    """One member. kind: FILE to FIFO above; mode: the 07777 part; rdev: (major, minor).

    path and link are any bytes but NUL, relative, without a slash at the end.
    size: of the contents that follow the header; only a FILE has contents.
    """

    path: bytes
    kind: bytes
    mode: int
    uid: int = 0
    gid: int = 0
    size: int = 0
    mtime_ns: int = 0
    link: bytes = b""
    rdev: tuple[int, int] = (0, 0)
    xattrs: Mapping[bytes, bytes] = field(default_factory=dict)


def header(member: Member) -> bytes:
    """All blocks before the contents, which padding() follows."""
    name = member.path + b"/" if member.kind == DIRECTORY else member.path
    records = _records(member, name)
    block = _block(
        name[:_NAME_BYTES],
        member.kind,
        mode=member.mode,
        ids=(_below(member.uid, _ID_LIMIT), _below(member.gid, _ID_LIMIT)),
        size=_below(member.size, _LONG_LIMIT),
        seconds=_below(member.mtime_ns // _NS, _LONG_LIMIT),
        link=member.link[:_NAME_BYTES],
        rdev=member.rdev,
    )
    if not records:
        return block
    kept = b"PaxHeaders.0/" + member.path.rpartition(b"/")[2]
    extended = _block(kept[:_NAME_BYTES], b"x", mode=0o644, size=len(records))
    return extended + records + padding(len(records)) + block


def _below(number: int, limit: int) -> int:
    """The number, or 0 if the extended header must have it."""
    return number if 0 <= number < limit else 0


def one_block(path: bytes, size: int) -> bytes:
    """A file's header of exactly one block, whatever the size, so that a caller can reserve the
    block before it knows the size.

    path: ASCII, at most 100 bytes.  A size from 8 GiB on is in base 256, as GNU tar writes it."""
    return _block(path, FILE, mode=0o644, size=size)


def padding(size: int) -> bytes:
    """The zeros that fill the last block of contents of that size."""
    return bytes(-size % BLOCK)


def _records(member: Member, name: bytes) -> bytes:
    records: list[tuple[bytes, bytes]] = []
    if not (_is_utf8(name) and _is_utf8(member.link)):
        records.append((b"hdrcharset", b"BINARY"))
    seconds, fraction = divmod(member.mtime_ns, _NS)
    if fraction or not 0 <= seconds < _LONG_LIMIT:
        records.append((b"mtime", _time(member.mtime_ns)))
    for key, number in ((b"uid", member.uid), (b"gid", member.gid)):
        if number >= _ID_LIMIT:
            records.append((key, b"%d" % number))
    if member.size >= _LONG_LIMIT:
        records.append((b"size", b"%d" % member.size))
    for key, text in ((b"path", name), (b"linkpath", member.link)):
        if len(text) > _NAME_BYTES or not text.isascii():
            records.append((key, text))
    records += [_xattr(key, value) for key, value in sorted(member.xattrs.items())]
    return b"".join(_record(key, value) for key, value in records)


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _time(ns: int) -> bytes:
    """Seconds with a fraction; -0.5 is half a second before 1970."""
    sign = b"-" if ns < 0 else b""
    seconds, fraction = divmod(abs(ns), _NS)
    return (b"%s%d.%09d" % (sign, seconds, fraction)).rstrip(b"0").rstrip(b".")


def _xattr(name: bytes, value: bytes) -> tuple[bytes, bytes]:
    """The record of an xattr.  A key ends at its first `=`, so a name with `=` needs libarchive's
    form."""
    if b"=" not in name:
        return b"SCHILY.xattr." + name, value
    key = urllib.parse.quote_from_bytes(name, safe="").encode()
    return b"LIBARCHIVE.xattr." + key, base64.b64encode(value).rstrip(b"=")


def _record(key: bytes, value: bytes) -> bytes:
    """`LENGTH key=value\\n`, the length counting its own digits."""
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest)
    while length != len(rest) + len(str(length)):
        length = len(rest) + len(str(length))
    return b"%d" % length + rest


def _block(
    name: bytes,
    kind: bytes,
    *,
    mode: int,
    ids: tuple[int, int] = (0, 0),
    size: int = 0,
    seconds: int = 0,
    link: bytes = b"",
    rdev: tuple[int, int] = (0, 0),
) -> bytes:
    """A ustar header: octal fields end in NUL, the checksum in NUL and space."""
    length = b"%011o\0" % size if size < _LONG_LIMIT else b"\x80" + size.to_bytes(11, "big")
    head = b"%s%07o\0%07o\0%07o\0%s%011o\0" % (
        name.ljust(_NAME_BYTES, b"\0"), mode, *ids, length, seconds,
    )  # fmt: skip
    devices = b"%07o\0%07o\0" % rdev if kind in (CHAR, BLOCK_DEVICE) else bytes(16)
    tail = kind + link.ljust(_NAME_BYTES, b"\0") + b"ustar\x0000" + bytes(64) + devices
    tail = tail.ljust(BLOCK - len(head) - 8, b"\0")
    checksum = sum(head) + sum(tail) + 8 * ord(" ")
    return head + b"%06o\0 " % checksum + tail
