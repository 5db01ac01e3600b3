"""Law: decompresses and compresses streams.  No file is opened here.

A stream is pulled: the caller gives a `read(n)` and gets an iterator of pieces of at most PIECE
bytes, so that this module never keeps more than a few pieces, whatever the ratio.  The caller's
budget limits the output, so that neither 98 KB that unpack to 3 GB nor an endless pipe fills a
disk.

compression.py has the magic bytes.  What a stream of each compression may consist of:

    gzip    members; zeros or garbage after the last are ignored, as by gzip(1) (RFC 1952)
    zstd    frames, and skippable frames anywhere among them (RFC 8878)
    xz      streams, with a multiple of four zeros between and after them
    bzip2   streams; garbage after the last is ignored
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from typing import IO, Protocol, cast

from fusemount.budget import Budget
from fusemount.compression import (
    GZIP_MAGIC,
    MAGIC_BYTES,
    ZSTD_MAGIC,
    Compression,
    detect,
    is_skippable,
)
from fusemount.errors import MalformedImage
from fusemount.magic import LZ4, foreign

PIECE = 1 << 20  # the most bytes that are returned at once
INPUT = 1 << 18  # how many bytes are read at once

ZSTD_WINDOW_MAX = 1 << 27  # 128 MiB: what zstd(1) takes without --long or --memory
XZ_MEMORY_MAX = 1 << 28  # 256 MiB; `xz -9` needs 65

Read = Callable[[int], bytes]


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
) -> Iterator[bytes]:
    """The plain bytes of a stream, in pieces of 1 to PIECE bytes.

    read(n) returns at most n bytes, b"" at the end.  size: how many bytes these are in all, None if
    that is unknown.  An uncompressed stream of known size spends nothing of the budget; any other
    stream spends its plain bytes.
    Raises MalformedImage, with name and the offset in the compressed bytes, for a stream that is
    cut off or damaged, or that passes the budget.
    """
    source = _Counted(read, name, budget, size is None)
    spends = compression is not Compression.NONE or size is None
    try:
        for piece in _plain_pieces(source, compression):
            if spends:
                budget.spend(name, len(piece), source.taken if size is None else size)
            yield piece
    except _Damaged as error:
        raise MalformedImage(
            f"{name}: {compression.value} stream {error} near byte {source.taken}"
        ) from error.__cause__
    except _Foreign as error:
        raise MalformedImage(f"{name}: {error}") from None


def _plain_pieces(source: _Counted, compression: Compression) -> Iterator[bytes]:
    if compression is Compression.NONE:
        while piece := source.read(PIECE):
            yield piece
    elif compression is Compression.ZSTD:
        yield from _zstd(source)
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

    def enter(self) -> None:
        self._budget.enter(self._name)

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


class _Gzip:
    """Gives ISA-L's gzip decoder, twice as fast as zlib's, the interface of the other two."""

    def __init__(self) -> None:
        from isal import isal_zlib

        # 16 + 15: gzip header and trailer, 32 KiB window
        self._zlib = isal_zlib.decompressobj(wbits=31)
        self._full = False

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    @property
    def needs_input(self) -> bool:
        # After a full piece the decoder may have more output, even if it has read all input.
        return not self._full and not self._zlib.unconsumed_tail

    def decompress(self, data: bytes, max_length: int) -> bytes:
        piece = self._zlib.decompress(self._zlib.unconsumed_tail + data, max_length)
        self._full = len(piece) == max_length
        return piece


def _decoder(compression: Compression) -> tuple[_Decoder, tuple[type[Exception], ...]]:
    """A decoder of one member, and the exceptions that it raises; only its module is imported."""
    if compression is Compression.GZIP:
        from isal import isal_zlib

        return _Gzip(), (cast(type[Exception], isal_zlib.error),)
    if compression is Compression.XZ:
        import lzma

        xz = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY_MAX)
        return xz, (lzma.LZMAError,)
    import bz2

    return bz2.BZ2Decompressor(), (OSError, ValueError)


def _members(source: _Counted, compression: Compression) -> Iterator[bytes]:
    """The plain bytes of all members of a gzip, xz or bzip2 stream."""
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
        return b""  # gzip(1) and bzip2(1) ignore everything after the first byte of padding
    if detect(stripped) is compression:
        return stripped
    if compression is Compression.GZIP and GZIP_MAGIC.startswith(stripped[:2]) and stripped:
        raise _Damaged("is cut off")
    return b""


def _is_xz(data: bytes) -> bool:
    return detect(data) is Compression.XZ


def _zstd(source: _Counted) -> Iterator[bytes]:
    import zstandard

    walker = _FrameWalker(source)
    decompressor = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_MAX)
    reader = decompressor.stream_reader(
        cast(IO[bytes], walker), read_size=INPUT, read_across_frames=True
    )  # of the walker it calls only read()
    try:
        while piece := reader.read(PIECE):
            yield piece
    except zstandard.ZstdError as error:
        raise _Damaged(f"is damaged ({error})") from error
    if walker.inside:
        raise _Damaged("is cut off")


class _FrameWalker:
    """Finds out whether a zstd stream ends between two frames: python-zstandard does not report a
    stream that is cut off.

    It parses only what it needs to find the end of a frame (RFC 8878, 3.1.1 and 3.1.2):

        frame     = magic(4) descriptor(1) [window(1)] [dictionary] [content size] block* [crc(4)]
        block     = 3 bytes: last(bit 0) type(bits 1-2) size(bits 3-23), then size bytes (RLE: 1)
        skippable = magic(4) size(4) then size bytes
    """

    def __init__(self, source: _Counted) -> None:
        self._source = source
        self._pending = b""  # the start of a field that is not complete yet
        self._skip = 0
        self._checksum = False
        self._state: Callable[[bytes], None] = self._magic
        self._want = 4

    @property
    def inside(self) -> bool:
        """Whether the bytes so far end anywhere but between two frames."""
        return self._skip > 0 or bool(self._pending) or self._state != self._magic

    def read(self, size: int = -1) -> bytes:
        data = self._source.read(size)
        at = 0
        while at < len(data):
            if self._skip:
                step = min(self._skip, len(data) - at)
                self._skip -= step
                at += step
                continue
            step = min(self._want - len(self._pending), len(data) - at)
            field = self._pending + data[at : at + step]
            at += step
            self._pending = b"" if len(field) == self._want else field
            if not self._pending:
                self._state(field)
        return data

    def _expect(self, state: Callable[[bytes], None], want: int, skip: int = 0) -> None:
        self._state, self._want, self._skip = state, want, skip

    def _magic(self, field: bytes) -> None:
        self._source.enter()
        if field == ZSTD_MAGIC:
            self._expect(self._descriptor, 1)
        elif is_skippable(field):
            self._expect(self._skippable, 4)
        elif field == LZ4:  # its skippable frames have the same magic as those of zstd
            raise _Foreign(foreign(field))
        # The decoder refuses anything else itself.

    def _skippable(self, field: bytes) -> None:
        self._expect(self._magic, 4, int.from_bytes(field, "little"))

    def _descriptor(self, field: bytes) -> None:
        flags = field[0]
        single = flags >> 5 & 1
        self._checksum = bool(flags >> 2 & 1)
        size_bytes = (1 if single else 0, 2, 4, 8)[flags >> 6]
        self._expect(self._block, 3, (1 - single) + (0, 1, 2, 4)[flags & 3] + size_bytes)

    def _block(self, field: bytes) -> None:
        head = int.from_bytes(field, "little")
        size = 1 if head >> 1 & 3 == 1 else head >> 3
        if not head & 1:
            self._expect(self._block, 3, size)
        elif self._checksum:
            self._expect(self._magic, 4, size + 4)
        else:
            self._expect(self._magic, 4, size)
