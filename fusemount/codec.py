"""Law: decompresses and compresses streams.  No file is opened here.

A stream is pulled: the caller gives a `read(n)` and gets an iterator of pieces of at most PIECE
bytes, so that this module never keeps more than a few pieces, whatever the ratio.  The caller's
budget limits the output, so that neither 98 KB that unpack to 3 GB nor an endless pipe fills a
disk.

compression.py has the magic bytes; native/packed decodes gzip and zstd.  What a stream of each
compression may consist of:

    gzip    members; zeros or garbage after the last are ignored, as by gzip(1) (RFC 1952)
    zstd    frames, and skippable frames anywhere among them (RFC 8878)
    xz      streams, with a multiple of four zeros between and after them
    bzip2   streams; garbage after the last is ignored
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from typing import Protocol

from fusemount._native import BegunPoint, FormatError, Unpacker
from fusemount.budget import Budget
from fusemount.compression import MAGIC_BYTES, Compression, detect
from fusemount.errors import MalformedImage
from fusemount.magic import LZ4, foreign

PIECE = 1 << 20  # the most bytes that are returned at once
INPUT = 1 << 18  # how many bytes are read at once

XZ_MEMORY_MAX = 1 << 28  # 256 MiB; `xz -9` needs 65

Read = Callable[[int], bytes]


class Barren:
    """Said of a stream in which somewhere much input gives no output, such as empty blocks: it must
    not be read from its access points, for each read could cost as much."""


Begun = Callable[[BegunPoint | Barren], None]


def recognise(read: Read) -> tuple[Compression, Read]:
    """(The compression of a stream, a read() that returns all of it); the stream need not be
    seekable.

    The new read() first returns the bytes that were read to recognise the stream.
    """
    head = b""
    while len(head) < MAGIC_BYTES and (more := read(INPUT)):
        head += more
    compression = detect(head)

    def from_the_start(n: int) -> bytes:
        nonlocal head
        if not head:
            return read(n)
        data, head = head[:n], head[n:]
        return data

    return compression, from_the_start


def decompress(
    read: Read,
    compression: Compression,
    name: str,
    budget: Budget,
    size: int | None = None,
    begun: Begun = lambda _: None,
) -> Iterator[bytes]:
    """The plain bytes of a stream, in pieces of 1 to PIECE bytes.

    begun is called with each access point of a gzip or zstd stream, before the piece around it, and
    at the end with a Barren, if the stream is so.

    read(n) returns at most n bytes, b"" at the end.  size: how many bytes these are in all, None if
    that is unknown.  An uncompressed stream of known size spends nothing of the budget; any other
    stream spends its plain bytes.
    Raises MalformedImage, with name and the offset in the compressed bytes, for a stream that is
    cut off or damaged, or that passes the budget.
    """
    source = _Counted(read, name, budget, size is None)
    spends = compression is not Compression.NONE or size is None
    try:
        for piece in _plain_pieces(source, compression, begun):
            if spends:
                budget.spend(name, len(piece), source.taken if size is None else size)
            yield piece
    except _Damaged as error:
        raise MalformedImage(
            f"{name}: {compression.value} stream {error} near byte {source.taken}"
        ) from error.__cause__
    except _Foreign as error:
        raise MalformedImage(f"{name}: {error}") from None


def _plain_pieces(source: _Counted, compression: Compression, begun: Begun) -> Iterator[bytes]:
    if compression is Compression.NONE:
        while piece := source.read(PIECE):
            yield piece
    elif compression.in_place:
        yield from _in_place(source, compression, begun)
    else:
        yield from _members(source, compression)


class Compressor(Protocol):
    """All output, up to that of the last flush(), is one stream; no call may follow."""

    def compress(self, data: bytes) -> bytes: ...
    def flush(self) -> bytes: ...


def compressor(compression: Compression) -> Compressor:
    """For NONE, GZIP or ZSTD.  The same bytes give the same stream: the gzip header has no time."""
    if compression is Compression.GZIP:
        return zlib.compressobj(6, zlib.DEFLATED, 31)  # 16 + 15, as below
    if compression is Compression.ZSTD:
        import zstandard

        return zstandard.ZstdCompressor(level=3, write_checksum=True).compressobj()
    if compression is Compression.NONE:
        return _Plain()
    raise ValueError(compression)


class _Plain:
    def compress(self, data: bytes) -> bytes:
        return data

    def flush(self) -> bytes:
        return b""


class _Damaged(Exception):
    """The message is the reason, and follows the words "gzip stream"."""


class _Foreign(Exception):
    """A format that is not supported but starts like one that is."""


class _Counted:
    """Counts the bytes that were read: for messages, and for the budget if the size is unknown.

    enter() counts a member for the budget.
    """

    def __init__(self, read: Read, name: str, budget: Budget, limited: bool) -> None:
        self._read, self._name, self._budget, self._limited = read, name, budget, limited
        self.taken = 0

    def enter(self, count: int = 1) -> None:
        self._budget.enter(self._name, count)

    def read(self, size: int = -1) -> bytes:
        data = self._read(INPUT if size < 0 else size)
        self.taken += len(data)
        if self._limited:
            self._budget.check_taken(self._name, self.taken)
        return data


class _Decoder(Protocol):
    """The interface bz2 and lzma share: a decoder of one member."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


def _decoder(compression: Compression) -> tuple[_Decoder, tuple[type[Exception], ...]]:
    """A decoder of one member, and the exceptions that it raises; only its module is imported."""
    if compression is Compression.XZ:
        import lzma

        xz = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY_MAX)
        return xz, (lzma.LZMAError,)
    import bz2

    return bz2.BZ2Decompressor(), (OSError, ValueError)


def _members(source: _Counted, compression: Compression) -> Iterator[bytes]:
    """The plain bytes of all members of a xz or bzip2 stream."""
    data = source.read(INPUT)
    while True:
        source.enter()
        decoder, failures = _decoder(compression)
        while not decoder.eof:
            if decoder.needs_input and not data:
                data = source.read(INPUT)
                if not data:
                    raise _Damaged("is cut off")
            try:
                piece = decoder.decompress(data, PIECE)
            except failures as error:
                raise _Damaged(f"is damaged ({error})") from error
            data = b""
            if piece:
                yield piece
        data = _next_member(decoder.unused_data, source, compression)
        if not data:
            return


def _next_member(rest: bytes, source: _Counted, compression: Compression) -> bytes:
    """The start of the next member, or b"" if only padding or garbage follows."""
    zeros = 0
    while True:
        stripped = rest.lstrip(b"\0")
        zeros += len(rest) - len(stripped)
        if len(stripped) >= MAGIC_BYTES:
            break
        more = source.read(INPUT)
        if not more:
            break
        rest = stripped + more
    if compression is Compression.XZ and (zeros % 4 or (stripped and not _is_xz(stripped))):
        raise _Damaged("has something behind it that is neither padding nor a stream")
    if zeros and compression is not Compression.XZ:
        return b""  # bzip2(1) ignores everything after the first byte of padding
    return stripped if detect(stripped) is compression else b""


def _is_xz(data: bytes) -> bool:
    return detect(data) is Compression.XZ


def _in_place(source: _Counted, compression: Compression, begun: Begun) -> Iterator[bytes]:
    """The plain bytes of a gzip or zstd stream; each point comes before the bytes around it."""
    unpacker, members = Unpacker(compression.value), 0
    try:
        while not unpacker.ended:
            piece = unpacker.next(PIECE)
            if unpacker.bounds > members:
                source.enter(unpacker.bounds - members)
                members = unpacker.bounds
            for point in unpacker.take():
                begun(point)
            if piece is not None:
                yield piece
            elif not unpacker.ended:
                data = source.read(INPUT)
                if not data:
                    break
                unpacker.feed(data)
        unpacker.finish()
    except FormatError as error:
        if error.message == "lz4":
            raise _Foreign(foreign(LZ4)) from None
        raise _Damaged(error.message.removeprefix(f"{compression.value} stream ")) from None
    for point in unpacker.take():
        begun(point)
    if unpacker.barren:
        begun(Barren())
