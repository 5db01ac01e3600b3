"""Law: takes a blob into a store; one pass over its bytes gives digest, diff_id and index.

    source ─► part in ingest/, digest ─► decompress ─► another thread: diff_id, index

The blob gets its name (S1) only after that, and only if digest and diff_id are the claimed ones.
The part of a broken pull has the bytes that came before.  When the pull goes on, these are hashed
and unpacked first, then the rest.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

from fusemount.budget import Budget, check_room
from fusemount.codec import PIECE, decompress, recognise
from fusemount.compression import Compression
from fusemount.dataclass import dataclass
from fusemount.digest import Digest
from fusemount.errors import ImgmountError, MalformedImage, NoSpace, VerificationFailed
from fusemount.layer.cache import Cache, Facts
from fusemount.layer.filestate import identity
from fusemount.layer.reframe import Sidecar
from fusemount.layer.tarpass import Passed, TarPass
from fusemount.ownfile import (
    file_size,
    is_still,
    lock_if_free,
    open_file,
    open_or_make,
    read_file,
)
from fusemount.store import diffids
from fusemount.store.layout import Layout, replace_file, store_errors, sync_directory
from fusemount.store.locks import Lease, locked

_PATIENCE = 0.05  # seconds between two attempts to lock a part

Read = Callable[[int], bytes]
Advance = Callable[[int], None]


@dataclass(frozen=True)
class StoredLayer:
    """A layer's blob in a store.  size: of the blob; archive_size: of its tar."""

    digest: Digest
    size: int
    diff_id: Digest
    archive_size: int
    compression: Compression


@dataclass(frozen=True)
class Claims:
    """What documents claim about a layer before its bytes are read; None: nothing."""

    digest: Digest | None = None
    size: int | None = None
    diff_id: Digest | None = None


class Part:
    """A blob that is not complete yet; a context manager.  No other process writes it meanwhile.

    digest: as claimed; the part of a broken pull with that digest is continued.  None: the part
    is new.  size: bytes that the part has.  waiting() is called again and again while another
    process has the part, and may raise.

    Without commit(), the bytes stay for the next process that needs the blob.  They are deleted if
    drop() was called, if the digest is None, or if the disk is full.
    """

    def __init__(
        self, layout: Layout, digest: Digest | None, waiting: Callable[[], None] = lambda: None
    ) -> None:
        self._layout, self._digest = layout, digest
        name = digest.hex if digest else f"{os.getpid()}-{os.urandom(8).hex()}"
        self.path = layout.ingest / f"{name}.part"
        self._keep, self._named = digest is not None, False
        with store_errors(self.path):
            self._fd = _locked(self.path, waiting)
            self.size = os.fstat(self._fd).st_size

    def is_stored(self) -> bool:
        """Whether the store has the blob: another process may have just brought it."""
        return self._digest is not None and self._layout.has_blob(self._digest)

    def read(self, offset: int, size: int) -> bytes:
        with store_errors(self.path):
            return os.pread(self._fd, size, offset)

    def append(self, data: bytes) -> None:
        view = memoryview(data)
        with store_errors(self.path):
            if view:
                check_room(self._fd, len(data))
            while view:
                done = os.pwrite(self._fd, view, self.size)
                self.size += done
                view = view[done:]

    def cut(self) -> None:
        """Empties the part, because its bytes are wrong."""
        with store_errors(self.path):
            os.ftruncate(self._fd, 0)
        self.size = 0
        self._keep = self._digest is not None

    def drop(self) -> None:
        """The part is deleted at the end of the block."""
        self._keep = False

    def commit(self, digest: Digest) -> Path:
        """Makes the part the blob of that digest, which the caller has computed.  Its path."""
        blob = self._layout.blob(digest)
        with store_errors(blob):
            os.fchmod(self._fd, 0o644)
            os.fsync(self._fd)
            os.rename(self.path, blob)
            self._named = True
            sync_directory(blob.parent)
        return blob

    def __enter__(self) -> Part:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        full = kind is not None and issubclass(kind, NoSpace)
        # After commit() the path may be that of another process's part.
        if not self._named and (full or not self._keep):
            with suppress(OSError):
                self.path.unlink()
        os.close(self._fd)


def _locked(path: Path, waiting: Callable[[], None]) -> int:
    """A descriptor of the part, locked.  Raises OSError, and what waiting() raises.

    Waits while another process has the lock.  It tries again and again, because no signal wakes a
    thread that sleeps in flock().
    """
    while True:
        fd = open_or_make(path, os.O_RDWR, 0o600)
        try:
            free = lock_if_free(fd)
            if free and is_still(fd, path):
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
        if not free:
            waiting()
            time.sleep(_PATIENCE)


def put_document(layout: Layout, data: bytes) -> Digest:
    """Writes a manifest, index or config as a blob.  Raises NoSpace, ImgmountError."""
    digest = Digest.of(data)
    blob = layout.blob(digest)
    with locked(layout, exclusive=False), store_errors(blob):
        if not _holds(blob, data):
            replace_file(blob, data)
    return digest


def _holds(path: Path, data: bytes) -> bool:
    try:
        return file_size(path) == len(data) and read_file(path) == data
    except FileNotFoundError:
        return False


def take_layer(
    layout: Layout,
    lease: Lease,
    part: Part,
    read: Read,
    claims: Claims,
    description: str,
    budget: Budget,
    advance: Advance = lambda _: None,
) -> StoredLayer:
    """Takes a layer into the store.  It blocks, so run it in a thread of its own.

    read(n) gives the bytes that follow those in the part, b"" at the end.  budget: limits what the
    layer unpacks to and, if its size is not claimed, the blob itself.  The lease lists the blob.
    Raises VerificationFailed, MalformedImage, NoSpace, ImgmountError, and what read raises; then
    the store does not have the layer.
    """
    flow = _Flow(part, read, claims, description, budget, advance)
    cache = Cache(layout.cache)
    with ExitStack() as undo:
        made: list[tuple[Path, int]] = []

        def make() -> int:
            made.append(undo.enter_context(cache.temporary("points")))
            return made[0][1]

        layer, blob, facts, passed = _take(
            layout, lease, part, flow, claims, description, budget, Sidecar(make)
        )
        with suppress(ImgmountError, OSError):  # a cache that takes nothing costs time only
            _keep(cache, blob, facts, passed, made[0][0] if made else None)
    return layer


def _take(
    layout: Layout,
    lease: Lease,
    part: Part,
    flow: _Flow,
    claims: Claims,
    description: str,
    budget: Budget,
    sidecar: Sidecar,
) -> tuple[StoredLayer, Path, Facts, Passed]:
    """The pass, the checks, and the blob's name."""
    try:
        compression, read_all = recognise(flow.read)
        facts, passed = _pass(flow, read_all, compression, description, budget, sidecar)
        _check(flow, facts, claims, description)
        layer = StoredLayer(
            Digest(facts.digest), flow.size, Digest(facts.diff_id), facts.archive_size, compression
        )
        lease.hold([layer.digest])
        remember(layout, layer)
        blob = part.commit(layer.digest)
    except (VerificationFailed, MalformedImage):
        part.drop()
        raise
    return layer, blob, facts, passed


def _pass(
    flow: _Flow,
    read: Read,
    compression: Compression,
    description: str,
    budget: Budget,
    sidecar: Sidecar,
) -> tuple[Facts, Passed]:
    """Reads the whole blob."""
    passing = TarPass(description, compression, sidecar)
    try:
        with passing.running() as put:
            for piece in decompress(read, compression, description, budget, flow.claims.size, put):
                put(piece)
        digest = flow.digest()
        passed = passing.finish(flow.size)
    except MalformedImage:
        claimed = flow.claims.digest  # without one, the rest is not read: it may have no end
        if claimed is None or budget.refused:
            raise
        if claimed != flow.digest():  # the better message: the wrong digest
            raise flow.wrong_digest() from None
        raise
    return Facts(digest, passed.diff_id, passed.size), passed


class _Flow:
    """The blob's bytes: first those of the part, then the source's, which are added to the part.

    All are hashed and counted.  size: bytes that were read.
    """

    def __init__(
        self,
        part: Part,
        read: Read,
        claims: Claims,
        description: str,
        budget: Budget,
        advance: Advance,
    ) -> None:
        self.claims, self.size = claims, 0
        self._budget = budget
        self._part, self._source, self._description = part, read, description
        self._advance = advance
        self._there = part.size
        self._sha256 = hashlib.sha256()
        self._ended = False

    def read(self, n: int) -> bytes:
        if self._ended:
            return b""
        if self.size < self._there:
            data = self._part.read(self.size, min(n, self._there - self.size))
        else:
            data = self._source(n)
            self._part.append(data)
            self._advance(len(data))
        self._ended = not data
        self._sha256.update(data)
        self.size += len(data)
        if self.claims.size is not None and self.size > self.claims.size:
            raise VerificationFailed(
                f"{self._description}: more than the {self.claims.size} bytes that were announced"
            )
        if self.claims.size is None:
            self._budget.check_taken(self._description, self.size)
        return data

    def digest(self) -> Digest:
        """Of all bytes, including those that a decoder left unread."""
        while self.read(PIECE):
            pass
        return Digest("sha256:" + self._sha256.hexdigest())

    def wrong_digest(self) -> VerificationFailed:
        found, claimed = self.digest(), self.claims.digest
        return VerificationFailed(
            f"{self._description}: digest is {found}, the manifest says {claimed}"
        )


def _check(flow: _Flow, facts: Facts, claims: Claims, description: str) -> None:
    if claims.size is not None and flow.size != claims.size:
        raise VerificationFailed(f"{description}: {flow.size} bytes, {claims.size} were announced")
    if claims.digest is not None and claims.digest != facts.digest:
        raise flow.wrong_digest()
    if claims.diff_id is not None and claims.diff_id != facts.diff_id:
        raise VerificationFailed(
            f"{description}: diff_id is {facts.diff_id}, the config says {claims.diff_id}"
        )


def _keep(cache: Cache, blob: Path, facts: Facts, passed: Passed, sidecar: Path | None) -> None:
    fd = open_file(blob)
    try:
        key = identity(fd, 0, os.fstat(fd).st_size)
    finally:
        os.close(fd)
    cache.keep_index(cache.index_path(facts.diff_id, key), passed.index)
    if passed.access is not None:
        cache.keep_access(facts, passed.access, sidecar)
    cache.keep_facts(key, facts)


def remember(layout: Layout, layer: StoredLayer) -> None:
    diffids.remember(layout, layer.digest, layer.diff_id, layer.archive_size)
