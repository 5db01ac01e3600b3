"""Law: opens an image's layers as tars with an index, and reads no more of them than it must.

A layer of which nothing is known costs one pass over its bytes (decode.py).  If facts about it are
in the cache, a few small files are read.  An uncompressed layer without verification costs a scan
that skips contents.  With verification, the claims of manifest and config are compared with the
facts at every open, whether these are new or from the cache.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from fusemount._native import INDEX_BYTES_MAX, LayerIndex
from fusemount.budget import Budget
from fusemount.compression import Compression
from fusemount.digest import Digest
from fusemount.errors import ImgmountError, MalformedImage, VerificationFailed
from fusemount.layer.blob import LayerBlob, OpenLayer, Rebuild, measured
from fusemount.layer.cache import Cache, Facts
from fusemount.layer.decode import compression_at, hash_in_place, scan, unpack
from fusemount.layer.filestate import await_new_ctime, identity, lasting
from fusemount.layer.progress import Progress, reported
from fusemount.record import say_damaged
from fusemount.settings import Directories, ImageOptions

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
    opener = _Opener(options, cache, progress, budget)
    budget.announce(dict(measured(b.file, b.offset, b.size) for b in image.layers))
    try:
        with ExitStack() as undo:
            layers = [undo.enter_context(opener.open(blob)) for blob in image.layers]
            undo.pop_all()
    except ImgmountError as error:
        if budget.spoilt_by(error):
            cache.drop(budget.made)
        raise
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
        self, options: ImageOptions, cache: Cache, progress: Progress, budget: Budget
    ) -> None:
        self._verify = options.verify
        self._budget = budget
        self._cache = cache
        self._progress = progress
        self._seen: dict[str, OpenLayer] = {}
        self._index_bytes = 0
        self._facts: dict[str, Facts] = {}  # by identity; also if the cache cannot be written

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
            layer = replace(seen, fd=os.dup(seen.fd), description=blob.description)
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
        diff_id = None if facts is None else facts.diff_id
        rebuild = None
        if index is None:
            index, rebuild = self._index(blob.fd, blob.offset, blob.size, blob, diff_id, key)
        known = blob.diff_id if diff_id is None else Digest(diff_id)
        fd = os.dup(blob.fd)
        return OpenLayer(known, index, fd, blob.offset, blob.size, blob.description, rebuild)

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
        index, name = None, key
        fd = -1 if facts is None else self._open_tar(facts)
        if facts is None or fd < 0:
            await_new_ctime(blob.fd)
            name = lasting(blob.fd, key)
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
        rebuild = None
        try:
            if index is not None:
                self._keep(blob, key, name, facts, index)
            else:
                index, rebuild = self._index(fd, 0, facts.archive_size, blob, facts.diff_id, key)
        except BaseException:
            os.close(fd)
            raise
        diff_id, size = Digest(facts.diff_id), facts.archive_size
        return OpenLayer(diff_id, index, fd, 0, size, blob.description, rebuild)

    def _open_tar(self, facts: Facts) -> int:
        return self._cache.open_tar(self._cache.layer_path(facts.diff_id), facts.archive_size)

    def _index(
        self, fd: int, offset: int, size: int, blob: LayerBlob, diff_id: str | None, key: str
    ) -> tuple[LayerIndex, Rebuild | None]:
        """The index from the cache and a function that makes a new one; or a new index and None. A
        new index is kept."""
        path = self._cache.index_path(diff_id, key)

        def build(fd: int) -> LayerIndex:
            kept_at = self._cache.index_path(diff_id, key if diff_id else lasting(fd, key))
            index = scan(fd, offset, size, blob.description)
            with suppress(ImgmountError):  # without the cache the next mount only takes longer
                self._cache.keep_index(kept_at, index)
            return index

        def rebuild(fd: int) -> LayerIndex:
            say_damaged(path, "no tree can be made of it")
            return build(fd)

        index = self._cache.index(path)
        if index is None:
            return build(fd), None
        if index.archive_bytes > size:
            say_damaged(path, "of a longer archive")
            return build(fd), None
        return index, rebuild

    def _keep(self, blob: LayerBlob, key: str, name: str, facts: Facts, index: LayerIndex) -> None:
        """Keeps index and facts. name: filestate.lasting() of the key, called before the bytes were
        read."""
        if identity(blob.fd, blob.offset, blob.size) != key:
            raise ImgmountError(f"{blob.description}: changed while it was read")
        self._facts[key] = facts
        with suppress(ImgmountError):
            self._cache.keep_index(self._cache.index_path(facts.diff_id, key), index)
            self._cache.keep_facts(name, facts)


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
