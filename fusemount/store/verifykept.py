"""Law: checks what is kept of one layer that was measured: map, facts, index, tar, access points.

Each mismatch is one line, as of `verify`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from fusemount._native import CHUNK, FormatError, LayerIndex, Packed, Points
from fusemount.codec import PIECE
from fusemount.dataclass import dataclass
from fusemount.digest import Digest
from fusemount.layer.cache import Cache, Facts
from fusemount.store import diffids
from fusemount.store.collection import facts_of
from fusemount.store.layout import Layout
from fusemount.store.measuring import Measured


def check_kept(
    layout: Layout,
    layer: Measured,
    hash_file: Callable[[Path], Digest],
    wrong: Callable[[str], None],
) -> None:
    """wrong: gets each mismatch.  hash_file: the digest of a file; FileNotFoundError."""
    check = _Kept(layout, Cache(layout.cache), layer, wrong)
    check.mapped()
    check.index()
    check.tar(hash_file)
    check.access()
    check.facts()


@dataclass(frozen=True)
class _Kept:
    layout: Layout
    cache: Cache
    layer: Measured
    wrong: Callable[[str], None]

    def mapped(self) -> None:
        """Checks the diff_id that the store remembers."""
        entry = self.layout.diff_id(self.layer.digest)
        known = diffids.known(self.layout, self.layer.digest)
        where = entry.relative_to(self.layout.root)
        if known is None and os.path.lexists(entry):
            self.wrong(f"{where}: damaged")
        elif known is not None and known.diff_id != self.layer.diff_id:
            self.wrong(f"{where}: {known.diff_id}, it is {self.layer.diff_id}")

    def index(self) -> None:
        path = self.cache.index_path(self.layer.diff_id, "")
        kept = self.cache.index(path)
        whole = kept is not None and _saved(kept) == _saved(self.layer.index)
        if not whole and os.path.lexists(path):
            self.wrong(f"cache/index/{path.name}: not the index of that layer")

    def tar(self, hash_file: Callable[[Path], Digest]) -> None:
        """Checks the unpacked tar."""
        tar = self.cache.layer_path(self.layer.diff_id)
        with suppress(FileNotFoundError):
            found = hash_file(tar)
            if found != self.layer.diff_id:
                self.wrong(f"cache/layers/{tar.name}: digest is {found}")

    def facts(self) -> None:
        digest = self.layer.digest
        facts = facts_of(self.layout, self.layout.blob(digest))
        right = Facts(digest, self.layer.diff_id, self.layer.archive_size)
        if facts and os.path.lexists(facts) and self.cache.facts(facts.stem) != right:
            self.wrong(f"cache/facts/{facts.name}: not what blob {digest} is")

    def access(self) -> None:
        """Checks that the kept digests of chunks are the layer's, and that each access point leads
        to the bytes that they say."""
        if not self.layer.compression.in_place:
            return
        sums = self.cache.sums_path(self.layer.diff_id)
        path = self.cache.points_path(self.layer.digest)
        if self.cache.sums(self.layer.diff_id) != self.layer.digests and os.path.lexists(sums):
            self.wrong(f"cache/chunks/{sums.name}: not of that layer")
        points = self.cache.points(self.layer.digest)
        if points is None:
            if os.path.lexists(path):
                self.wrong(f"cache/points/{path.name}: not of that layer")
            return
        try:
            self._read_from(points)
        except (OSError, FormatError):
            self.wrong(f"cache/points/{path.name}: does not lead to the layer's bytes")

    def _read_from(self, points: Points) -> None:
        """Raises OSError, FormatError."""
        digest, rows = self.layer.digest, points.rows()
        if points.sidecar_bytes:  # of which each byte counts, not only where a decoder begins
            rows = [(at, 0, 0, False) for at in range(0, points.tar_bytes, CHUNK)]
        sidecar = self.cache.open_sidecar(digest)
        blob = self.layout.open_blob(digest)
        try:
            packed = Packed(
                points, self.layer.digests, blob, 0, sidecar, None, b"", digest.encode()
            )
            try:
                for out, *_ in reversed(rows):  # so that each point is where a decoder begins
                    chunk = -(-out // CHUNK) * CHUNK
                    packed.read(min(chunk, packed.size), 1 if chunk < packed.size else 0)
            finally:
                packed.close()
        finally:
            os.close(blob)
            if sidecar >= 0:
                os.close(sidecar)


def _saved(index: LayerIndex) -> list[bytes]:
    """The bytes of its file, in pieces."""
    fd = os.memfd_create("index", os.MFD_CLOEXEC)
    try:
        index.save(fd)
        size = os.fstat(fd).st_size
        return [os.pread(fd, PIECE, at) for at in range(0, size, PIECE)]
    finally:
        os.close(fd)
