"""Law: a blob comes into a store in one pass, and everything wanted of it is taken in that pass.

    source ─► part in ingest/, digest ─► decompress ─► beside: diff_id, index

Only then, and if digest and diff_id are what was claimed, it gets its name (S1).  What came before
a broken connection stands in the part, and passes first when the rest comes.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from fusemount._native import LayerIndex
from fusemount.budget import Budget, check_room
from fusemount.codec import PIECE, decompress, recognise
from fusemount.compression import Compression
from fusemount.dataclass import dataclass
from fusemount.digest import Digest
from fusemount.errors import ImgmountError, MalformedImage, NoSpace, VerificationFailed
from fusemount.layer.cache import Cache, Facts
from fusemount.layer.decode import Beside, LayerScan, StretchReader, compression_at
from fusemount.layer.filestate import identity
from fusemount.ownfile import (
    file_size,
    is_still,
    lock_if_free,
    open_file,
    open_or_make,
    read_file,
)
from fusemount.settings import UNPACK_LIMIT, UnpackLimit
from fusemount.store import diffids
from fusemount.store.layout import Layout, replace_file, sync_directory, translated
from fusemount.store.locks import Lease, locked

_PATIENCE = 0.05  # seconds until a part is asked for again

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
    """What is said of a layer before its bytes are seen; None: nothing is."""

    digest: Digest | None = None
    size: int | None = None
    diff_id: Digest | None = None


class Part:
    """A blob on its way in, a context manager; nobody else writes it meanwhile.

    digest: as claimed; then what a broken pull left is gone on with.  size: bytes that are there.
    waiting() is called again and again while another has it, and may raise.
    Without commit() they stay, for the next who wants that blob, unless drop() was called or
    nobody can know which blob they were to be.
    """

    def __init__(
        self, layout: Layout, digest: Digest | None, waiting: Callable[[], None] = lambda: None
    ) -> None:
        self._layout, self._digest = layout, digest
        name = digest.hex if digest else f"{os.getpid()}-{os.urandom(8).hex()}"
        self.path = layout.ingest / f"{name}.part"
        self._keep, self._named = digest is not None, False
        with translated(self.path):
            self._fd = _locked(self.path, waiting)
            self.size = os.fstat(self._fd).st_size

    def there(self) -> bool:
        """Whether the blob is in the store already: another process may just have brought it."""
        return self._digest is not None and self._layout.has_blob(self._digest)

    def read(self, offset: int, size: int) -> bytes:
        with translated(self.path):
            return os.pread(self._fd, size, offset)

    def append(self, data: bytes) -> None:
        view = memoryview(data)
        with translated(self.path):
            if view:
                check_room(self._fd, len(data))
            while view:
                done = os.pwrite(self._fd, view, self.size)
                self.size += done
                view = view[done:]

    def cut(self) -> None:
        """Nothing of it is good; it may be filled again."""
        with translated(self.path):
            os.ftruncate(self._fd, 0)
        self.size = 0
        self._keep = self._digest is not None

    def drop(self) -> None:
        self._keep = False

    def commit(self, digest: Digest) -> Path:
        """It is the blob of that digest, which the caller has computed."""
        blob = self._layout.blob(digest)
        with translated(blob):
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
        if not self._named and (full or not self._keep):  # else the path may be another's by now
            with suppress(OSError):
                self.path.unlink()
        os.close(self._fd)


def _locked(path: Path, waiting: Callable[[], None]) -> int:
    """Opened and locked; waits for who has it.  Raises OSError, and what waiting() raises.

    It asks again and again: a thread that sleeps in flock() hears of no interrupt.
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
    """A manifest, index or config among the blobs."""
    digest = Digest.of(data)
    blob = layout.blob(digest)
    with locked(layout, exclusive=False), translated(blob):
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
    """A layer from its bytes: read(n) gives what follows the part's, b"" at the end.

    budget: of what it unpacks to, and where nobody says its size, of the bytes themselves.
    The lease holds it.  Blocks: run it in a thread of its own.  Raises VerificationFailed,
    MalformedImage, NoSpace, ImgmountError, and what read raises; then it is not in the store.
    """
    flow = _Flow(part, read, claims, description, budget, advance)
    cache = Cache(layout.cache)
    try:
        compression, read_all = recognise(flow.read)
        facts, index = _pass(flow, read_all, compression, description, budget)
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
    with suppress(ImgmountError, OSError):  # a cache that takes nothing costs time only
        _keep(cache, blob, facts, index)
    return layer


def _pass(
    flow: _Flow, read: Read, compression: Compression, description: str, budget: Budget
) -> tuple[Facts, LayerIndex]:
    """What the bytes are."""
    scanner, sha256, size = LayerScan(description), hashlib.sha256(), 0

    def consume(piece: bytes) -> None:
        scanner.feed(piece)
        if compression is not Compression.NONE:
            sha256.update(piece)

    try:
        with Beside(consume) as beside:
            for piece in decompress(read, compression, description, budget, flow.claims.size):
                size += len(piece)
                beside.put(piece)
        index = scanner.finish()
    except MalformedImage:
        claimed = flow.claims.digest  # without one the rest is not read: it may have no end
        if claimed is not None and claimed != flow.digest():  # the better reason
            raise flow.wrong_digest() from None
        raise
    digest = flow.digest()
    if compression is Compression.NONE:
        return Facts(digest, digest, flow.size), index
    return Facts(digest, "sha256:" + sha256.hexdigest(), size), index


class _Flow:
    """The blob's bytes, first those of the part and then the source's, hashed and kept."""

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
        """Of all, what a decoder left unread included."""
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


def _keep(cache: Cache, blob: Path, facts: Facts, index: LayerIndex) -> None:
    fd = open_file(blob)
    try:
        key = identity(fd, 0, os.fstat(fd).st_size)
    finally:
        os.close(fd)
    cache.keep_index(cache.index_path(facts.diff_id, key), index)
    cache.keep_facts(key, facts)


def remember(layout: Layout, layer: StoredLayer) -> None:
    diffids.remember(layout, layer.digest, layer.diff_id, layer.archive_size)


def _allowed(layout: Layout, digest: Digest) -> UnpackLimit:
    """Of a layer of the store: what it was found to unpack to, which somebody allowed."""
    known = diffids.known(layout, digest)
    return UnpackLimit(known.size, 0) if known is not None and known.size else UNPACK_LIMIT


@dataclass(frozen=True)
class Measured:
    """What the bytes of a blob are, if they are a layer's."""

    digest: Digest
    size: int
    diff_id: Digest
    archive_size: int
    compression: Compression
    index: LayerIndex


def measure(layout: Layout, digest: Digest, advance: Advance = lambda _: None) -> Measured:
    """Reads the blob that has this name, which may unpack to what it did when it came.

    Raises MalformedImage, ImgmountError.
    """
    description = f"layer {digest}"
    with translated(layout.blob(digest)):
        fd = layout.open_blob(digest)
    try:
        size = os.fstat(fd).st_size
        compression = compression_at(fd, 0, size, description)
        reader = StretchReader(fd, 0, size, description, advance, True)
        sha256, scanner, length = hashlib.sha256(), LayerScan(description), 0

        def consume(piece: bytes) -> None:
            sha256.update(piece)
            scanner.feed(piece)

        with Beside(consume) as beside:
            budget = Budget(_allowed(layout, digest))
            for piece in decompress(reader.read, compression, description, budget, size):
                length += len(piece)
                beside.put(piece)
        index = scanner.finish()
        diff_id = Digest("sha256:" + sha256.hexdigest())
        return Measured(Digest(reader.digest()), size, diff_id, length, compression, index)
    finally:
        os.close(fd)


def learn(layout: Layout, digest: Digest) -> StoredLayer | None:
    """Of a blob that came by other hands than ours, and is what its name says; else None.

    Raises MalformedImage, NoSpace, ImgmountError.
    """
    try:
        found = measure(layout, digest)
    except MalformedImage:
        with open(layout.open_blob(digest), "rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() == digest.hex:
                raise
        return None
    if found.digest != digest:
        return None
    layer = StoredLayer(digest, found.size, found.diff_id, found.archive_size, found.compression)
    remember(layout, layer)
    return layer
