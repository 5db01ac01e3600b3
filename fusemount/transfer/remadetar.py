"""Law: takes a layer that another program keeps unpacked into a store: makes its tar again, and
verifies it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from fusemount.budget import Budget
from fusemount.compression import Compression
from fusemount.layer import UnpackedLayer
from fusemount.store import Lease, Store
from fusemount.store.intake import Claims, Part, Read, StoredLayer, take_layer
from fusemount.transfer.reports import Transfers


def take_unpacked(
    store: Store, lease: Lease, layer: UnpackedLayer, progress: Transfers, budget: Budget
) -> StoredLayer:
    """Stores the layer uncompressed, so its digest is its diff_id.

    Raises VerificationFailed, MalformedImage, NoSpace, ImgmountError; ImageNotFound if its tar
    cannot be made again.
    """
    task = progress.begin(layer.diff_id.hex[:12], layer.size)
    lease.hold([layer.diff_id])
    # Whoever knows another image's diff_id can name it in a store of their own.
    if store.layout.has_blob(layer.diff_id) and _is_there(store, layer):
        size = store.layout.blob_size(layer.diff_id)
        task.done("Already exists")
        return StoredLayer(layer.diff_id, size, layer.diff_id, size, Compression.NONE)
    claims = Claims(layer.diff_id, None, layer.diff_id)
    with Part(store.layout, None) as part:
        read = reading(layer.tar())
        taken = take_layer(
            store.layout, lease, part, read, claims, layer.description, budget, task.advance
        )
    task.done("Loaded")
    return taken


def _is_there(store: Store, layer: UnpackedLayer) -> bool:
    """Whether the store's blob is the tar that is made again, of which no more bytes are read."""
    sha256, left = hashlib.sha256(), store.layout.blob_size(layer.diff_id)
    for piece in layer.tar():
        sha256.update(piece)
        left -= len(piece)
        if left < 0:  # a sparse file in another's store may have no end
            return False
    return f"sha256:{sha256.hexdigest()}" == layer.diff_id


def reading(pieces: Iterable[bytes]) -> Read:
    """A read(n) that gives the bytes of the pieces, at most n at a time."""
    source = iter(pieces)
    rest = b""

    def read(n: int) -> bytes:
        nonlocal rest
        while not rest:
            try:
                rest = next(source)
            except StopIteration:
                return b""
        piece, rest = rest[:n], rest[n:]
        return piece

    return read
