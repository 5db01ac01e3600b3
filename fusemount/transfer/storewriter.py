"""Law: writes an image into a store by the calls with which ImageWriter (sources/writing.py) writes
one into an archive: layers, then the config.  The store has the image when finish() returns.

Layers that the store has already are not copied.  A new layer is uncompressed, so that it can be
mounted without unpacking.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from types import TracebackType

from fusemount.budget import Budget
from fusemount.compression import Compression
from fusemount.digest import Digest
from fusemount.imagename import ImageName
from fusemount.layer import LayerBlob, OpenLayer, Progress, UnpackedLayer
from fusemount.layer.decode import StretchReader, compression_at
from fusemount.layer.progress import reported
from fusemount.settings import UNLIMITED, Platform
from fusemount.sources.writing import WrittenLayer
from fusemount.store import Store, StoredImage
from fusemount.store.intake import Claims, Part, Read, take_layer
from fusemount.transfer.newimage import add_new_image
from fusemount.transfer.remadetar import reading, take_unpacked
from fusemount.transfer.reports import SilentTransfers


class StoreWriter:
    """A context manager.  Raises NoSpace, ImgmountError, VerificationFailed.

    names: the image gets them with finish(); other images lose them.
    """

    def __init__(self, store: Store, names: Sequence[ImageName], progress: Progress) -> None:
        self._store, self._names, self._progress = store, names, progress
        self._budget = Budget(store.unpack)
        self.image: StoredImage | None = None

    def __enter__(self) -> StoreWriter:
        self._lease = self._store.lease("commit", ", ".join(name.familiar for name in self._names))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._lease.end()

    def add_layer(self, pieces: Iterable[bytes], compression: Compression) -> WrittenLayer:
        """Stores a new layer from its tar; compression is always NONE."""
        return self._take(reading(pieces), Claims(), "the new layer", Budget(UNLIMITED))

    def carry_layer(self, blob: LayerBlob, layer: OpenLayer) -> WrittenLayer:
        """Stores a layer of another image, unchanged."""
        if blob.digest is not None and layer.diff_id is not None:
            self._lease.hold([blob.digest])
            if self._has(blob, blob.digest):
                compression = compression_at(blob.fd, blob.offset, blob.size, blob.description)
                return WrittenLayer(layer.diff_id, blob.digest, blob.size, compression)
        what, size = blob.description, blob.size
        claims = Claims(blob.digest, size, layer.diff_id)
        try:
            with reported(self._progress, f"storing {what}", size) as advance:
                reader = StretchReader(blob.fd, blob.offset, size, what, advance, False)
                return self._take(reader.read, claims, what, self._budget)
        finally:
            blob.file.release()

    def _has(self, blob: LayerBlob, digest: Digest) -> bool:
        """Whether the store has these bytes.  With --no-verify nobody has compared them with the
        digest, which anybody can name who knows it."""
        try:
            fd = self._store.layout.open_blob(digest)
        except OSError:
            return False
        same = os.path.samestat(os.fstat(fd), os.fstat(blob.fd))
        size = os.fstat(fd).st_size
        os.close(fd)
        if blob.size != size:
            return False
        whole = (blob.fd, blob.offset, blob.size, blob.description, lambda _: None)
        return same or StretchReader(*whole, True).digest() == digest

    def rebuild_layer(self, layer: UnpackedLayer, compression: Compression) -> WrittenLayer:
        """Stores a layer that another program keeps unpacked; compression is always NONE."""
        with reported(self._progress, f"storing {layer.description}", layer.size):
            taken = take_unpacked(self._store, self._lease, layer, SilentTransfers(), self._budget)
        return WrittenLayer(taken.diff_id, taken.digest, taken.size, taken.compression)

    def _take(self, read: Read, claims: Claims, description: str, budget: Budget) -> WrittenLayer:
        layout = self._store.layout
        with Part(layout, None) as part:
            layer = take_layer(layout, self._lease, part, read, claims, description, budget)
        return WrittenLayer(layer.diff_id, layer.digest, layer.size, layer.compression)

    def finish(
        self, config: bytes, platform: Platform, layers: Sequence[WrittenLayer], name: str
    ) -> Digest:
        """Adds the image to the store.  Returns the image ID.  As ImageWriter.finish()."""
        self.image = add_new_image(self._store, self._lease, config, layers, platform, self._names)
        return Digest.of(config)
