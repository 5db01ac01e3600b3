"""Law: a blob's bytes pass once, and everything wanted of them is taken in that pass.

    in place     read ──► scan                        compressed   read ─► hash ─► decompress
                   └────► hash (beside)                                              └─► beside:
                                                                          hash, scan, write to cache

Hashing, scanning, inflating and writing all release the GIL, so "beside" is a second core.
"""

from __future__ import annotations

import hashlib
import os
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from fusemount._native import FormatError, LayerIndex, Scanner
from fusemount.budget import Budget
from fusemount.codec import INPUT, MAGIC_BYTES, PIECE, Compression, decompress, detect
from fusemount.errors import ImgmountError, MalformedImage
from fusemount.escape import quoted
from fusemount.layer.blob import LayerBlob
from fusemount.layer.cache import Cache, Facts
from fusemount.layer.sparse import SparseWriter
from fusemount.magic import HEAD_BYTES, foreign
from fusemount.ownfile import open_file

_BESIDE_MAX = 8  # pieces that may wait for the thread beside: 8 MiB

Advance = Callable[[int], None]
Check = Callable[[Facts], None]


class StretchReader:
    """read(n) over a stretch of a file, counted for progress and hashed where wanted.

    Raises MalformedImage where the file ends before the stretch, ImgmountError for I/O errors.
    """

    def __init__(
        self, fd: int, offset: int, size: int, description: str, advance: Advance, hashed: bool
    ) -> None:
        self._fd = fd
        self._at = offset
        self._left = size
        self._description = description
        self._advance = advance
        self._hash = hashlib.sha256() if hashed else None
        os.posix_fadvise(fd, offset, size, os.POSIX_FADV_SEQUENTIAL)

    def read(self, n: int) -> bytes:
        data = read_at(self._fd, self._at, min(n, self._left), self._description)
        if self._left and not data:
            raise MalformedImage(
                f"{self._description}: cut off, {self._left} bytes are missing at byte {self._at}"
            )
        self._at += len(data)
        self._left -= len(data)
        if self._hash is not None:
            self._hash.update(data)
        self._advance(len(data))
        return data

    def digest(self) -> str:
        """Of all bytes of the stretch, those not read yet included."""
        while self._left:
            self.read(INPUT)
        assert self._hash is not None
        return "sha256:" + self._hash.hexdigest()


def read_at(fd: int, offset: int, size: int, description: str) -> bytes:
    try:
        return os.pread(fd, size, offset)
    except OSError as error:
        raise ImgmountError(
            f"{description}: reading at byte {offset}: {error.strerror or error}"
        ) from error


def compression_at(fd: int, offset: int, size: int, description: str) -> Compression:
    """How the stretch of a file is compressed.  Raises ImgmountError."""
    return detect(read_at(fd, offset, min(MAGIC_BYTES, size), description))


class Beside:
    """Runs consume(piece) for each piece put, in order, in a thread of its own.

    What consume raises is raised by the next put() or at the end of the block.
    """

    def __init__(self, consume: Callable[[bytes], None]) -> None:
        self._consume = consume
        self._queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._room = threading.Semaphore(_BESIDE_MAX)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def put(self, piece: bytes) -> None:
        self._room.acquire()
        if self._error is not None:
            raise self._error
        self._queue.put(piece)

    def _run(self) -> None:
        while (piece := self._queue.get()) is not None:
            if self._error is None:
                try:
                    self._consume(piece)
                except BaseException as error:  # handed to the thread that waits for it
                    self._error = error
            self._room.release()

    def __enter__(self) -> Beside:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None and self._error is None:
            self._error = error  # the pieces that wait are for nobody
        self._queue.put(None)
        self._thread.join()
        if self._error is not None and error is None:
            raise self._error


def malformed(description: str, error: FormatError, head: bytes) -> MalformedImage:
    """The one translator of the scanner's errors.  head: the first bytes, which may tell more."""
    if error.offset == 0 and (what := foreign(head)):
        return MalformedImage(f"{description}: {what}")
    named = f"member {quoted(os.fsdecode(error.member))} at byte" if error.member else "at byte"
    return MalformedImage(f"{description}: {named} {error.offset}: {error.message}")


class LayerScan:
    """A Scanner whose errors are told in words, with the description of what is scanned."""

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
        """Raises MalformedImage; also where zeros, which end a tar, begin something else."""
        try:
            index = self._scanner.finish()
        except FormatError as error:
            raise malformed(self._description, error, self._head) from None
        if len(index) == 0:
            check_empty(self._description, self._head)
        return index


def check_empty(description: str, head: bytes) -> None:
    """Of an archive without members.  Raises MalformedImage where it is a file system's image."""
    if what := foreign(head):
        raise MalformedImage(f"{description}: {what}")


def scan(fd: int, offset: int, size: int, description: str) -> LayerIndex:
    """The index of an uncompressed tar, contents skipped."""
    try:
        index = LayerIndex.scan(fd, offset, size)
    except FormatError as error:
        head = read_at(fd, offset, min(size, HEAD_BYTES), description)
        raise malformed(description, error, head) from None
    except OSError as error:
        raise ImgmountError(f"{description}: {error.strerror or error}") from error
    if len(index) == 0:
        check_empty(description, read_at(fd, offset, min(size, HEAD_BYTES), description))
    return index


def hash_in_place(blob: LayerBlob, advance: Advance) -> tuple[Facts, LayerIndex]:
    """An uncompressed blob: hashed and scanned in one pass."""
    sha256, scanner = hashlib.sha256(), LayerScan(blob.description)
    reader = StretchReader(blob.fd, blob.offset, blob.size, blob.description, advance, False)
    with Beside(sha256.update) as beside:
        while piece := reader.read(PIECE):
            beside.put(piece)
            scanner.feed(piece)
    index = scanner.finish()
    digest = "sha256:" + sha256.hexdigest()
    return Facts(digest, digest, blob.size), index


def unpack(
    blob: LayerBlob,
    compression: Compression,
    cache: Cache,
    check: Check,
    advance: Advance,
    budget: Budget,
) -> tuple[Facts, LayerIndex, int]:
    """A compressed blob: its tar is put into the cache under the diff_id that was computed.

    check sees the facts before that and may refuse them.  The descriptor is the tar's, to read;
    the caller closes it: the name may be taken away at any time.
    """
    sha256, scanner = hashlib.sha256(), LayerScan(blob.description)
    reader = StretchReader(blob.fd, blob.offset, blob.size, blob.description, advance, True)
    with cache.temporary("layers") as (temporary, fd):
        writer = SparseWriter(fd)

        def consume(piece: bytes) -> None:
            sha256.update(piece)
            scanner.feed(piece)
            writer.write(piece)

        with Beside(consume) as beside:
            for piece in decompress(reader.read, compression, blob.description, budget, blob.size):
                beside.put(piece)
        index = scanner.finish()
        facts = Facts(reader.digest(), "sha256:" + sha256.hexdigest(), writer.size)
        check(facts)
        writer.finish()
        os.fsync(fd)
        whole = open_file(temporary)
        try:
            os.rename(temporary, cache.layer_path(facts.diff_id))
            with suppress(ImgmountError):  # then it is unpacked again the next time
                cache.record_tar(cache.layer_path(facts.diff_id), whole)
        except BaseException:
            os.close(whole)
            raise
    return facts, index, whole


def unpack_archive(
    fd: int,
    compression: Compression,
    description: str,
    cache: Cache,
    to: Path,
    advance: Advance,
    budget: Budget,
) -> None:
    """A compressed outer archive: what is in it appears as `to`."""
    size = os.fstat(fd).st_size
    reader = StretchReader(fd, 0, size, description, advance, False)
    with cache.replacing(to, durable=True) as out:
        writer = SparseWriter(out)
        with Beside(writer.write) as beside:
            for piece in decompress(reader.read, compression, description, budget, size):
                beside.put(piece)
        writer.finish()
    fd = open_file(to)
    try:
        cache.record_tar(to, fd)
    finally:
        os.close(fd)
