"""Law: one tar in every form in which programs compress a layer.

`FORMS` has a function for each form: tar -> blob.  What `gzip -dc` or `zstd -dc` print of the blob
is the tar.  `tar()` has contents that compress well, contents that do not, runs of zeros, and many
small files.
"""

from __future__ import annotations

import io
import subprocess
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from random import Random

import zstandard
from tarwriter import TarWriter

MIB = 1 << 20
_WORDS = [b"usr", b"lib", b"python3", b"share", b"doc", b"changelog", b"import", b"return", b"\n"]


@cache
def tar() -> bytes:
    """About 7 MiB; always the same bytes."""
    random, t = Random(13), TarWriter().dir("many").dir("big")
    text = b" ".join(random.choices(_WORDS, k=60_000))
    for i in range(300):
        t.file(f"many/{i}", text[i * 97 : i * 97 + random.randrange(6_000)], mtime_ns=i)
    t.file("big/noise", random.randbytes(MIB + 77))
    t.file("big/zeros", bytes(MIB + 5))
    t.file("big/text", text + text[::-1])
    t.sparse("big/holes", 3 * MIB, [(MIB, random.randbytes(70_000)), (2 * MIB, text[:90_000])])
    t.file("big/mixed", b"".join(text[i : i + 900] + random.randbytes(300) + bytes(5_000)
                                 for i in range(0, 200_000, 900)))  # fmt: skip
    t.hardlink("many/again", "many/7").symlink("many/link", "7")
    return t.tar()


def _pieces(data: bytes, size: int) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


def _members(data: bytes) -> list[bytes]:
    """The tar cut before each header."""
    with tarfile.open(fileobj=io.BytesIO(data)) as opened:
        cuts = [member.offset for member in opened] + [len(data)]
    return [data[a:b] for a, b in zip([0, *cuts[1:-1]], cuts[1:], strict=True)]


def _program(*command: str) -> Callable[[bytes], bytes]:
    def packed(data: bytes) -> bytes:
        return subprocess.run(command, input=data, capture_output=True, check=True).stdout

    return packed


# ---- gzip


def gzip(data: bytes, level: int = 6, strategy: int = zlib.Z_DEFAULT_STRATEGY) -> bytes:
    packer = zlib.compressobj(level, zlib.DEFLATED, 31, 8, strategy)
    return packer.compress(data) + packer.flush()


def _flushed(data: bytes) -> bytes:
    """Blocks that end at bytes, as pigz and bgzip-like writers make them inside one member."""
    packer = zlib.compressobj(6, zlib.DEFLATED, 31)
    kinds = (zlib.Z_SYNC_FLUSH, zlib.Z_FULL_FLUSH)
    parts = [packer.compress(p) + packer.flush(kinds[i % 2])
             for i, p in enumerate(_pieces(data, 131_072))]  # fmt: skip
    return b"".join(parts) + packer.flush()


def with_header(data: bytes, extra: bool, name: bool, comment: bool, crc: bool) -> bytes:
    """A member whose header has these optional fields (RFC 1952, 2.3)."""
    flags = crc << 1 | extra << 2 | name << 3 | comment << 4
    head = b"\x1f\x8b\x08" + bytes([flags]) + bytes(4) + b"\0\xff"
    head += b"\4\0extr" * extra + b"name.tar\0" * name + b"words\0" * comment
    head += (zlib.crc32(head) & 0xFFFF).to_bytes(2, "little") * crc
    packer = zlib.compressobj(6, zlib.DEFLATED, -15)
    end = zlib.crc32(data).to_bytes(4, "little") + (len(data) % 2**32).to_bytes(4, "little")
    return head + packer.compress(data) + packer.flush() + end


def _of_members(parts: Iterable[bytes], between: bytes = b"") -> bytes:
    return between.join(gzip(part, 1) for part in parts)


def _gzip_toc(data: bytes) -> bytes:
    """As an eStargz: a member for each file of the tar, then an empty one as the footer."""
    return _of_members(_members(data)) + gzip(b"")


# ---- zstd


def zstd(data: bytes, level: int = 3, **more: int) -> bytes:
    """One frame that does not say how long its contents are, as of a pipe."""
    parameters = zstandard.ZstdCompressionParameters.from_level(level, **more)
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    return packer.compress(data) + packer.flush()


def skippable(data: bytes, kind: int = 0) -> bytes:
    return bytes((0x50 + kind, 0x2A, 0x4D, 0x18)) + len(data).to_bytes(4, "little") + data


def _frames(parts: Iterable[bytes]) -> bytes:
    packer = zstandard.ZstdCompressor(level=1)
    return b"".join(map(packer.compress, parts))


def _of_sizes(*sizes: int) -> Callable[[bytes], bytes]:
    """Frames of these lengths, then one with the rest."""

    def packed(data: bytes) -> bytes:
        parts, at = [], 0
        for size in sizes:
            parts.append(data[at : at + size])
            at += size
        return _frames([*parts, data[at:]])

    return packed


def _chunked(data: bytes) -> bytes:
    """As zstd:chunked: a frame for each file of the tar, then a manifest in a skippable frame."""
    return _frames(_members(data)) + skippable(zstd(b"{}" * 300)) + skippable(bytes(64), 2)


FORMS: dict[str, Callable[[bytes], bytes]] = {
    "gzip -1": lambda data: gzip(data, 1),
    "gzip -6": _program("gzip", "-6nc"),
    "gzip -9": lambda data: gzip(data, 9),
    "igzip": _program("igzip", "-c"),
    "pigz": _program("pigz", "-nc", "-p", "2"),
    "gzip, stored": lambda data: gzip(data, 0),
    "gzip, fixed codes": lambda data: gzip(data, 6, zlib.Z_FIXED),
    "gzip, no matches": lambda data: gzip(data, 6, zlib.Z_HUFFMAN_ONLY),
    "gzip, flushed": _flushed,
    "gzip, all header fields": lambda data: with_header(data, True, True, True, True),
    "gzip, thousands of members": lambda data: _of_members(_pieces(data, 3001)),
    "gzip, empty members": lambda data: (
        gzip(b"") + _of_members(_pieces(data, 500_000), gzip(b"") * 40) + gzip(b"")
    ),
    "gzip, zeros behind": lambda data: gzip(data, 1) + bytes(70_000),
    "gzip, garbage behind": lambda data: gzip(data, 1) + b"no gzip" * 30_000,
    "eStargz": _gzip_toc,
    "zstd -1": lambda data: zstd(data, 1),
    "zstd -3": _program("zstd", "-3c"),
    "zstd -19": lambda data: zstd(data, 19),
    "zstd --long=27": lambda data: zstd(data, 3, window_log=27, enable_ldm=1),
    "pzstd": _program("pzstd", "-cp2"),
    "zstd, skippable first": lambda data: skippable(b"first" * 9) + skippable(b"") + zstd(data),
    "zstd, checksum": lambda data: zstd(data, 1, write_checksum=1),
    "zstd, small frames": lambda data: _frames(_pieces(data, 4097)),
    "zstd, empty frames": lambda data: (_frames([b""]) * 30).join(
        _frames([part]) for part in _pieces(data, 700_001)
    ),
    "zstd, frames of 4 MiB": _of_sizes(4 * MIB),
    "zstd, frames of 4 MiB and 1": _of_sizes(4 * MIB + 1, 5),
    "zstd, large between small": _of_sizes(1000, MIB, 4 * MIB + 3, 70_001, 9),
    "zstd:chunked": _chunked,
}
