"""Law: opens an image's layers as tars with an index, and reads no more of them than it must.

A layer of which nothing is known costs one pass over its bytes (decode.py).  If facts about it are
in the cache, a few small files are read.  An uncompressed layer without verification costs a scan
that skips contents.  With verification, the claims of manifest and config are compared with the
facts at every open, whether these are new or from the cache.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from fusemount._native import INDEX_BYTES_MAX, LayerIndex, Packed
from fusemount.budget import Budget
from fusemount.compression import Compression
from fusemount.digest import Digest
from fusemount.errors import ImgmountError, MalformedImage, VerificationFailed
from fusemount.layer.blob import LayerBlob, OpenLayer, Rebuild, Tar, measured
from fusemount.layer.cache import Cache, ChunkDirectory, Facts
from fusemount.layer.decode import (
    compression_at,
    hash_in_place,
    read_compressed,
    scan_tar,
    unpack,
)
from fusemount.layer.descriptors import make_room
from fusemount.layer.filestate import await_new_ctime, identity, lasting
from fusemount.layer.progress import Progress, reported
from fusemount.layer.reframe import Sidecar
from fusemount.layer.tarpass import Access
from fusemount.record import say_damaged
from fusemount.settings import Directories, ImageOptions, Unpacking

_LOG = logging.getLogger("imgmount")


class LayeredImage(Protocol):
    """The attributes of fusemount.sources.Image that are used here."""

    @property
    def layers(self) -> Sequence[LayerBlob]: ...
    @property
    def cache(self) -> Path | None: ...
    @property
    def budget(self) -> Budget | None: ...


def open_layers(
    image: LayeredImage, options: ImageOptions, directories: Directories, progress: Progress
) -> list[OpenLayer]:
    """Opens all layers, lowest first; the caller closes them.  The image may be closed before them.

    Raises MalformedImage, VerificationFailed, NoSpace, ImageNotFound; then no layer stays open, and
    if the image is too large, the tars that were unpacked for it are removed.
    """
    cache, budget = Cache(image.cache or directories.cache), image.budget or Budget(options.unpack)
    make_room(len(image.layers))
    opener = _Opener(options, cache, Cache(directories.cache), progress, budget)
    budget.announce(dict(measured(b.file, b.offset, b.size) for b in image.layers))
    try:
        with ExitStack() as undo:
            layers = [undo.enter_context(opener.open(blob)) for blob in image.layers]
            undo.pop_all()
    except ImgmountError as error:
        if budget.spoilt_by(error):
            cache.drop(budget.made)
        raise
    finally:
        opener.end()
    return layers


def check_claims(blob: LayerBlob, facts: Facts) -> None:
    """Raises VerificationFailed if manifest or config claim other digests than the facts."""
    if blob.digest is not None and blob.digest != facts.digest:
        raise VerificationFailed(
            f"{blob.description}: digest is {facts.digest}, the manifest says {blob.digest}"
        )
    if blob.diff_id is not None and blob.diff_id != facts.diff_id:
        raise VerificationFailed(
            f"{blob.description}: diff_id is {facts.diff_id}, the config says {blob.diff_id}"
        )


class _Opener:
    """Opens blobs one after another; blobs with the same identity share one index."""

    def __init__(
        self,
        options: ImageOptions,
        cache: Cache,
        chunks: Cache,
        progress: Progress,
        budget: Budget,
    ) -> None:
        self._verify = options.verify
        self._always = options.unpacking is Unpacking.ALWAYS
        self._never = options.unpacking is Unpacking.NEVER
        self._directory: ChunkDirectory | None = None
        self._tried = False  # to open it
        self._said = False  # that the cache takes nothing
        self._chunks = chunks  # the caller's own: chunks are never shared between users
        self._budget = budget
        self._cache = cache
        self._progress = progress
        self._seen: dict[str, OpenLayer] = {}
        self._index_bytes = 0
        self._facts: dict[str, Facts] = {}  # by identity; also if the cache cannot be written

    def end(self) -> None:
        """Lets go of what only the opening needs: the functions of the layers keep this object."""
        self._seen.clear()
        self._directory = None

    def open(self, blob: LayerBlob) -> OpenLayer:
        if blob.offset + blob.size > blob.file.size:
            missing = blob.offset + blob.size - blob.file.size
            raise MalformedImage(f"{blob.description}: cut off, {missing} bytes are missing")
        key = identity(blob.fd, blob.offset, blob.size)
        facts = self._facts.get(key)
        if facts is not None:
            self._check(blob, facts)
        else:
            facts = self._kept_facts(blob, key)
        seen = self._seen.get(key)
        if seen is not None:
            # The claims for the two may differ; they were checked above if there are facts.
            layer = replace(seen.share(), description=blob.description)
            return layer if facts is not None else replace(layer, diff_id=blob.diff_id)
        compression = compression_at(blob.fd, blob.offset, blob.size, blob.description)
        if compression is Compression.NONE:
            layer = self._plain(blob, key, facts)
        else:
            layer = self._compressed(blob, key, facts, compression)
        blob.file.release()
        self._index_bytes += layer.index.nbytes
        if self._index_bytes > INDEX_BYTES_MAX:
            layer.close()
            raise MalformedImage(
                f"{blob.description}: names, xattrs and members of the image's layers take more "
                f"than {INDEX_BYTES_MAX} bytes of memory, the limit"
            )
        _log_oddities(layer)
        self._seen[key] = layer
        return layer

    def _kept_facts(self, blob: LayerBlob, key: str) -> Facts | None:
        """The facts from the cache. None also if they contradict the claims: then the layer is
        read, because only its bytes may prove an image wrong."""
        facts = self._cache.facts(key)
        if facts is not None:
            try:
                self._check(blob, facts)
            except VerificationFailed:
                say_damaged(self._cache.facts_path(key), "not what manifest and config say")
                self._seen.pop(key, None)
                return None
        return facts

    def _check(self, blob: LayerBlob, facts: Facts) -> None:
        if self._verify:
            check_claims(blob, facts)

    def _plain(self, blob: LayerBlob, key: str, facts: Facts | None) -> OpenLayer:
        index = None
        if facts is None and self._verify:
            facts, index = self._hash(blob, key)
        # A claimed diff_id names the layer, and an index only if it was computed.
        diff_id = None if facts is None else Digest(facts.diff_id)
        fd = os.dup(blob.fd)
        try:
            layer = self._opened(blob, key, diff_id, Tar(fd, blob.offset, blob.size), index)
        except BaseException:
            os.close(fd)
            raise
        return layer if diff_id is not None else replace(layer, diff_id=blob.diff_id)

    def _hash(self, blob: LayerBlob, key: str) -> tuple[Facts, LayerIndex]:
        await_new_ctime(blob.fd)
        name = lasting(blob.fd, key)
        with reported(self._progress, f"verifying {blob.description}", blob.size) as advance:
            facts, index = hash_in_place(blob, advance)
        self._check(blob, facts)
        self._keep(blob, key, name, facts, index)
        return facts, index

    def _compressed(
        self, blob: LayerBlob, key: str, facts: Facts | None, compression: Compression
    ) -> OpenLayer:
        fd = -1 if facts is None else self._open_tar(facts)
        if facts is not None and fd >= 0:
            return self._unpacked(blob, key, facts, fd, None)
        if compression.in_place and not self._always:
            try:
                return self._in_place(blob, key, facts, compression)
            except _BarrenLayer:
                self._budget.forget(blob.description)
        if self._never:
            much = " with much input that gives no output" if compression.in_place else ""
            raise ImgmountError(
                f"{blob.description}: {compression.value}{much} cannot be read in place, and "
                "-o unpack=never allows nothing else"
            )
        name = self._begin(blob, key)
        with reported(self._progress, f"unpacking {blob.description}", blob.size) as advance:
            facts, index, fd = unpack(
                blob,
                compression,
                self._cache,
                lambda found: self._check(blob, found),
                advance,
                self._budget,
            )
        self._budget.made.append(self._cache.layer_path(facts.diff_id))
        try:
            self._keep(blob, key, name, facts, index)
        except BaseException:
            os.close(fd)
            raise
        return self._unpacked(blob, key, facts, fd, index)

    def _begin(self, blob: LayerBlob, key: str) -> str:
        """To call before the bytes are read: the name under which facts are kept."""
        await_new_ctime(blob.fd)
        return lasting(blob.fd, key)

    def _unpacked(
        self, blob: LayerBlob, key: str, facts: Facts, fd: int, index: LayerIndex | None
    ) -> OpenLayer:
        tar = Tar(fd, 0, facts.archive_size)
        try:
            return self._opened(blob, key, Digest(facts.diff_id), tar, index)
        except BaseException:
            os.close(fd)
            raise

    def _in_place(
        self, blob: LayerBlob, key: str, facts: Facts | None, compression: Compression
    ) -> OpenLayer:
        """Opens a layer that is read in its compressed bytes."""
        access, index = None, None
        # A lost index is made in a pass over the blob: reading the tar would fill the chunk cache.
        if facts is not None and self._cache.index_path(facts.diff_id, key).exists():
            access = self._cache.access(facts)
        with ExitStack() as fds:
            sidecar = -1
            if facts is not None and access is not None and access.points.sidecar_bytes:
                sidecar = self._sidecar(fds, facts, access)
                access = None if sidecar < 0 else access
            if facts is None or access is None:
                facts, access, index, sidecar = self._pass(fds, blob, key, compression)
            if not self._tried:
                self._directory, self._tried = self._chunks.open_chunks(), True
            packed = Packed(
                access.points,
                access.digests,
                blob.fd,
                blob.offset,
                sidecar,
                self._directory,
                os.fsencode(self._chunks.chunks / self._chunks.chunks_name(facts.diff_id)),
                os.fsencode(blob.description),
            )
        tar = Tar(-1, 0, facts.archive_size, packed)
        return self._opened(blob, key, Digest(facts.diff_id), tar, index)

    def _sidecar(self, fds: ExitStack, facts: Facts, access: Access) -> int:
        """-1: it is not there, or not the one that belongs to the points."""
        fd = self._cache.open_sidecar(facts.digest, access.points.sidecar_bytes)
        if fd >= 0:
            fds.callback(os.close, fd)
        return fd

    def _pass(
        self, fds: ExitStack, blob: LayerBlob, key: str, compression: Compression
    ) -> tuple[Facts, Access, LayerIndex, int]:
        """Reads all of the blob, and keeps what was found out.  The last one is the sidecar's
        descriptor, which fds closes; -1: there is none."""
        name = self._begin(blob, key)
        with ExitStack() as undo, reported(
            self._progress, f"reading {blob.description}", blob.size
        ) as advance:  # fmt: skip
            made: list[tuple[Path, int]] = []

            def make() -> int:
                made.append(undo.enter_context(self._cache.temporary("points")))
                return made[0][1]

            facts, passed = read_compressed(blob, compression, Sidecar(make), advance, self._budget)
            if passed.barren:
                raise _BarrenLayer
            makeshift = passed.access is None  # the sidecar could not be written
            if makeshift:
                _LOG.warning("%s: its frames are large, and the cache takes no smaller ones: "
                             "reading takes longer", blob.description)  # fmt: skip
                self._budget.forget(blob.description)
                plain = Sidecar(None)
                facts, passed = read_compressed(blob, compression, plain, advance, self._budget)
                made.clear()
            self._check(blob, facts)
            access = passed.access
            assert access is not None
            sidecar = -1
            if made:
                sidecar = os.dup(made[0][1])
                fds.callback(os.close, sidecar)
            self._cache.forget_points(facts.digest)
            self._keep(blob, key, name, facts, passed.index)
            # Without the points, an image that is refused for its size is measured again, and
            # refused again.
            points = self._cache.points_path(facts.digest)
            self._budget.made += [points, points.with_suffix(".zst")]
            if not makeshift:  # else the next mount may find room
                with self._kept_if_possible():
                    access = self._cache.keep_access(facts, access, made[0][0] if made else None)
        return facts, access, passed.index, sidecar

    @contextmanager
    def _kept_if_possible(self) -> Iterator[None]:
        """A cache that takes nothing costs only time, which the log says once."""
        try:
            yield
        except ImgmountError as error:
            if not self._said:
                self._said = True
                _LOG.warning("%s: the next mount reads the layers again", error)

    def _open_tar(self, facts: Facts) -> int:
        return self._cache.open_tar(self._cache.layer_path(facts.diff_id), facts.archive_size)

    def _opened(
        self, blob: LayerBlob, key: str, diff_id: Digest | None, tar: Tar, index: LayerIndex | None
    ) -> OpenLayer:
        """The layer, with the index that is given; or with the kept one, or a new one."""
        rebuild = None
        if index is None:
            index, rebuild = self._index(tar, blob.description, diff_id, key)
        return OpenLayer(
            diff_id, index, tar.fd, tar.offset, tar.size, blob.description, rebuild, tar.packed
        )

    def _index(
        self, tar: Tar, description: str, diff_id: Digest | None, key: str
    ) -> tuple[LayerIndex, Rebuild | None]:
        """The index from the cache and a function that makes a new one; or a new index and None. A
        new index is kept."""
        name = None if diff_id is None else str(diff_id)
        path = self._cache.index_path(name, key)

        def build(tar: Tar) -> LayerIndex:
            kept_at = self._cache.index_path(name, key if diff_id else lasting(tar.fd, key))
            index = scan_tar(tar, description)
            with self._kept_if_possible():
                self._cache.keep_index(kept_at, index)
            return index

        def rebuild(layer: OpenLayer) -> LayerIndex:
            say_damaged(path, "no tree can be made of it")
            return build(Tar(layer.fd, layer.offset, layer.size, layer.packed))

        index = self._cache.index(path)
        if index is None:
            return build(tar), None
        if index.archive_bytes > tar.size:
            say_damaged(path, "of a longer archive")
            return build(tar), None
        return index, rebuild

    def _keep(self, blob: LayerBlob, key: str, name: str, facts: Facts, index: LayerIndex) -> None:
        """Keeps index and facts. name: filestate.lasting() of the key, called before the bytes were
        read."""
        if identity(blob.fd, blob.offset, blob.size) != key:
            raise ImgmountError(f"{blob.description}: changed while it was read")
        self._facts[key] = facts
        with self._kept_if_possible():
            self._cache.keep_index(self._cache.index_path(facts.diff_id, key), index)
            self._cache.keep_facts(name, facts)


class _BarrenLayer(Exception):
    """The layer must not be read in place (codec.Barren)."""


def _log_oddities(layer: OpenLayer) -> None:
    """Logs members that no reader can show as the archive has them; that is no error."""
    kinds = (
        "%s: %d members' names lead out of the root by '..' and end at it; the first shows as %r",
        "%s: %d members' owners are no ids and show as 0; the first shows as %r",
        "%s: %d members of an unknown type are left out; the first is %r",
    )
    for (count, first), kind in zip(layer.index.oddities, kinds, strict=True):
        if count:
            _LOG.info(kind, layer.description, count, first.decode(errors="backslashreplace"))
