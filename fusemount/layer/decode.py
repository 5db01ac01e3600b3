"""Law: reads the bytes of a blob once, and hashes, scans and unpacks them in that one pass.

    plain    read ──► scan                compressed   read ─► hash ─► decompress
               └────► hash (beside)                                      └─► beside: TarPass, and
                                                                 for `unpack` the cache's file

"beside": in other threads (beside.py).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from fusemount._native import FormatError, LayerIndex
from fusemount.budget import Budget
from fusemount.codec import INPUT, PIECE, decompress
from fusemount.compression import MAGIC_BYTES, Compression, detect
from fusemount.errors import ImgmountError, MalformedImage, translated
from fusemount.layer.beside import Beside
from fusemount.layer.blob import LayerBlob, Tar
from fusemount.layer.cache import Cache, Facts
from fusemount.layer.reframe import Sidecar
from fusemount.layer.sparse import SparseWriter
from fusemount.layer.tarpass import LayerScan, Passed, TarPass, check_empty, malformed
from fusemount.magic import HEAD_BYTES
from fusemount.ownfile import open_file

Advance = Callable[[int], None]
Check = Callable[[Facts], None]


class StretchReader:
    """read(n) over a stretch of a file; counts the bytes for progress, and hashes them if asked to.

    Raises MalformedImage if the file ends before the stretch does, ImgmountError for I/O errors.
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
        """The digest of the whole stretch. Reads the bytes that have not been read yet."""
        while self._left:
            self.read(INPUT)
        assert self._hash is not None
        return "sha256:" + self._hash.hexdigest()


def read_at(fd: int, offset: int, size: int, description: str) -> bytes:
    with translated(f"{description}: reading at byte {offset}"):
        return os.pread(fd, size, offset)


def compression_at(fd: int, offset: int, size: int, description: str) -> Compression:
    """How the stretch of a file is compressed.  Raises ImgmountError."""
    return detect(read_at(fd, offset, min(MAGIC_BYTES, size), description))


def scan(fd: int, offset: int, size: int, description: str) -> LayerIndex:
    """The index of an uncompressed tar; the contents of its members are not read."""
    try:
        with translated(description):
            index = LayerIndex.scan(fd, offset, size)
    except FormatError as error:
        head = read_at(fd, offset, min(size, HEAD_BYTES), description)
        raise malformed(description, error, head) from None
    if len(index) == 0:
        check_empty(description, read_at(fd, offset, min(size, HEAD_BYTES), description))
    return index


def read_tar(tar: Tar, description: str, advance: Advance) -> Iterator[bytes]:
    """All bytes of a tar.  Raises MalformedImage if it is cut off, ImgmountError."""
    done = 0
    with translated(f"{description}: reading its tar"):
        for piece in tar.pieces():
            done += len(piece)
            advance(len(piece))
            yield piece
    if done < tar.size:
        raise MalformedImage(f"{description}: cut off, {tar.size - done} bytes are missing")


def scan_tar(tar: Tar, description: str) -> LayerIndex:
    """The index of a tar.  Raises MalformedImage, ImgmountError."""
    if tar.packed is None:
        return scan(tar.fd, tar.offset, tar.size, description)
    scanner = LayerScan(description)
    for piece in read_tar(tar, description, lambda _: None):
        scanner.feed(piece)
    return scanner.finish()


def hash_in_place(blob: LayerBlob, advance: Advance) -> tuple[Facts, LayerIndex]:
    """Hashes and scans an uncompressed blob in one pass."""
    sha256, scanner = hashlib.sha256(), LayerScan(blob.description)
    reader = StretchReader(blob.fd, blob.offset, blob.size, blob.description, advance, False)
    with Beside(sha256.update) as beside:
        while piece := reader.read(PIECE):
            beside.put(piece)
            scanner.feed(piece)
    index = scanner.finish()
    digest = "sha256:" + sha256.hexdigest()
    return Facts(digest, digest, blob.size), index


def read_compressed(
    blob: LayerBlob,
    compression: Compression,
    sidecar: Sidecar | None,
    advance: Advance,
    budget: Budget,
) -> tuple[Facts, Passed]:
    """Reads all of a compressed blob once, and keeps nothing.

    sidecar: as of TarPass.  Raises MalformedImage, NoSpace, ImgmountError.
    """
    passing = TarPass(blob.description, compression, sidecar)
    reader = StretchReader(blob.fd, blob.offset, blob.size, blob.description, advance, True)
    with passing.running() as put:
        for piece in decompress(reader.read, compression, blob.description, budget, blob.size, put):
            put(piece)
    digest = reader.digest()
    passed = passing.finish(blob.size)
    return Facts(digest, passed.diff_id, passed.size), passed


def unpack(
    blob: LayerBlob,
    compression: Compression,
    cache: Cache,
    check: Check,
    advance: Advance,
    budget: Budget,
) -> tuple[Facts, LayerIndex, int]:
    """Unpacks a compressed blob: puts its tar into the cache under the diff_id that was computed.

    check is called with the facts before that, and may raise.  The descriptor is the tar's, to
    read; the caller closes it.  The tar's name may be removed at any time.
    """
    passing = TarPass(blob.description, compression)
    reader = StretchReader(blob.fd, blob.offset, blob.size, blob.description, advance, True)
    with cache.temporary("layers") as (temporary, fd):
        writer = SparseWriter(fd)

        with passing.running() as put, Beside(writer.write) as beside:
            for piece in decompress(reader.read, compression, blob.description, budget, blob.size):
                put(piece)
                beside.put(piece)
        digest = reader.digest()
        passed = passing.finish(blob.size)
        facts = Facts(digest, passed.diff_id, passed.size)
        check(facts)
        writer.finish()
        os.fsync(fd)
        whole = open_file(temporary)
        try:
            os.rename(temporary, cache.layer_path(facts.diff_id))
            with suppress(ImgmountError):  # then the next mount unpacks it again
                cache.record_tar(cache.layer_path(facts.diff_id), whole)
        except BaseException:
            os.close(whole)
            raise
    return facts, passed.index, whole


def unpack_archive(
    fd: int,
    compression: Compression,
    description: str,
    cache: Cache,
    to: Path,
    advance: Advance,
    budget: Budget,
) -> None:
    """Unpacks a compressed outer archive to the path `to` in the cache."""
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
