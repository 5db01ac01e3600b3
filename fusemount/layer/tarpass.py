"""Law: finds out in one pass over a layer's tar all that is kept about it.

    pieces of the tar ──► sha256 (diff_id), scanner (index), sha256 of each chunk
    access points     ──► Points, in place of which re-framed zstd may come (reframe.py)

The two lines run in a thread each.

The pieces and the points come from `codec.decompress` in the order of their offsets.  Nothing here
reads or writes a file.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fusemount._native import CHUNK, BegunPoint, FormatError, LayerIndex, Points, Scanner
from fusemount.codec import Barren
from fusemount.compression import Compression
from fusemount.dataclass import dataclass
from fusemount.errors import MalformedImage
from fusemount.escape import quoted
from fusemount.layer.beside import Beside
from fusemount.layer.reframe import Reframer, Sidecar
from fusemount.magic import HEAD_BYTES, foreign

DIGEST_BYTES = 32  # of a SHA-256


@dataclass(frozen=True)
class Access:
    """What reads a compressed tar in place.  points: of the blob.  digests: the SHA-256 of each
    chunk of the tar, one after another."""

    points: Points
    digests: bytes


@dataclass(frozen=True)
class Passed:
    """What a pass found out.  digests: as of Access; b"" if the tar is never read in place.
    access: None if that is so, if no points were wanted, if the sidecar failed, or if the stream is
    barren: then it must not be read in place (codec.Barren)."""

    diff_id: str
    size: int
    index: LayerIndex
    digests: bytes
    access: Access | None
    barren: bool = False


def malformed(description: str, error: FormatError, head: bytes) -> MalformedImage:
    """Translates an error of the scanner.  head: the first bytes, which may show another format."""
    if error.offset == 0 and (what := foreign(head)):
        return MalformedImage(f"{description}: {what}")
    named = f"member {quoted(os.fsdecode(error.member))} at byte" if error.member else "at byte"
    return MalformedImage(f"{description}: {named} {error.offset}: {error.message}")


def check_empty(description: str, head: bytes) -> None:
    """For an archive without members: raises MalformedImage if it is the image of a file system."""
    if what := foreign(head):
        raise MalformedImage(f"{description}: {what}")


class LayerScan:
    """A Scanner that raises MalformedImage, with the description of what it scans."""

    def __init__(self, description: str) -> None:
        self._description = description
        self._scanner = Scanner()
        self._head = b""

    def feed(self, piece: bytes) -> None:
        """Raises MalformedImage."""
        if len(self._head) < HEAD_BYTES:
            self._head += piece[: HEAD_BYTES - len(self._head)]
        try:
            self._scanner.feed(piece)
        except FormatError as error:
            raise malformed(self._description, error, self._head) from None

    def finish(self) -> LayerIndex:
        """Raises MalformedImage; also if the bytes are another format that begins with zeros, which
        look like the end of a tar."""
        try:
            index = self._scanner.finish()
        except FormatError as error:
            raise malformed(self._description, error, self._head) from None
        if len(index) == 0:
            check_empty(self._description, self._head)
        return index


class TarPass:
    """The pass.  sidecar: takes the frames of zstd that are too large to be read in place; None:
    no access points are wanted."""

    def __init__(
        self, description: str, compression: Compression, sidecar: Sidecar | None = None
    ) -> None:
        self._scanner, self._sha256 = LayerScan(description), hashlib.sha256()
        self._size = 0
        self._digests = _ChunkDigests() if compression.in_place else None
        self._points: Points | None = None
        self._reframer: Reframer | None = None
        self._barren = False
        if sidecar is not None and compression.in_place:
            self._points = Points(compression.value)
            if compression is Compression.ZSTD and sidecar.wanted:
                self._reframer = Reframer(self._points, sidecar)

    @contextmanager
    def running(self) -> Iterator[Callable[[bytes | BegunPoint | Barren], None]]:
        """A function that takes the next piece, or an access point that the next piece goes beyond.

        Two threads work: one hashes and scans, one makes what reads in place.  The function, or the
        end of the block, raises what they raise (MalformedImage).
        """
        with Beside(self._take_piece) as tar, Beside(self._take_point) as points:

            def put(item: bytes | BegunPoint | Barren) -> None:
                if isinstance(item, bytes):
                    tar.put(item)
                    if self._reframer is None:
                        return
                points.put(item)

            yield put

    def _take_piece(self, piece: bytes) -> None:
        self._scanner.feed(piece)
        self._sha256.update(piece)
        self._size += len(piece)
        if self._digests is not None:
            self._digests.update(piece)

    def _take_point(self, item: bytes | BegunPoint | Barren) -> None:
        if isinstance(item, Barren):
            self._barren = True
        elif self._reframer is not None:
            self._reframer.take(item)
        elif self._points is not None and not isinstance(item, bytes):
            self._points.add(item)

    def finish(self, blob_bytes: int) -> Passed:
        """All pieces have come.  blob_bytes: of the compressed blob.  Raises MalformedImage."""
        index = self._scanner.finish()
        access, digests = None, b"" if self._digests is None else self._digests.finish()
        if self._points is not None:
            sidecar_bytes = self._reframer.finish() if self._reframer is not None else 0
            self._points.end(blob_bytes, self._size, sidecar_bytes)
            if not (self._reframer and self._reframer.failed) and not self._barren:
                access = Access(self._points, digests)
        diff_id = "sha256:" + self._sha256.hexdigest()
        return Passed(diff_id, self._size, index, digests, access, self._barren)


class _ChunkDigests:
    """The SHA-256 of each chunk of a stream."""

    def __init__(self) -> None:
        self._done = bytearray()
        self._sha256, self._length = hashlib.sha256(), 0

    def update(self, piece: bytes) -> None:
        view = memoryview(piece)
        while view:
            part = view[: CHUNK - self._length]
            self._sha256.update(part)
            self._length += len(part)
            view = view[len(part) :]
            if self._length == CHUNK:
                self._end()

    def _end(self) -> None:
        self._done += self._sha256.digest()
        self._sha256, self._length = hashlib.sha256(), 0

    def finish(self) -> bytes:
        if self._length:
            self._end()
        return bytes(self._done)
