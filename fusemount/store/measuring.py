"""Law: reads a layer's blob that is in the store already, and finds out what its bytes are.

Nothing that was remembered about the blob is believed; `verify` compares it with this.
"""

from __future__ import annotations

import hashlib
import os

from fusemount._native import LayerIndex
from fusemount.budget import Budget
from fusemount.codec import decompress
from fusemount.compression import Compression
from fusemount.dataclass import dataclass
from fusemount.digest import Digest
from fusemount.errors import MalformedImage
from fusemount.layer.decode import Advance, StretchReader, compression_at
from fusemount.layer.tarpass import TarPass
from fusemount.settings import UNPACK_LIMIT, UnpackLimit
from fusemount.store import diffids
from fusemount.store.intake import StoredLayer, remember
from fusemount.store.layout import Layout, store_errors


def _allowed(layout: Layout, digest: Digest) -> UnpackLimit:
    """What a layer of the store may unpack to: as much as it did when it was taken in."""
    known = diffids.known(layout, digest)
    return UnpackLimit(known.size, 0) if known is not None and known.size else UNPACK_LIMIT


@dataclass(frozen=True)
class Measured:
    """What the bytes of a layer's blob are."""

    digest: Digest
    size: int
    diff_id: Digest
    archive_size: int
    compression: Compression
    index: LayerIndex
    digests: bytes  # of the tar's chunks (tarpass.Access)


def measure(layout: Layout, digest: Digest, advance: Advance = lambda _: None) -> Measured:
    """Reads the blob that has this name.  It may unpack to as much as when it was taken in.

    Raises MalformedImage if it is no layer, ImgmountError.
    """
    description = f"layer {digest}"
    with store_errors(layout.blob(digest)):
        fd = layout.open_blob(digest)
    try:
        size = os.fstat(fd).st_size
        compression = compression_at(fd, 0, size, description)
        reader = StretchReader(fd, 0, size, description, advance, True)
        passing = TarPass(description, compression)
        with passing.running() as put:
            budget = Budget(_allowed(layout, digest))
            for piece in decompress(reader.read, compression, description, budget, size):
                put(piece)
        computed = Digest(reader.digest())
        passed = passing.finish(size)
        diff_id = Digest(passed.diff_id)
        return Measured(
            computed, size, diff_id, passed.size, compression, passed.index, passed.digests
        )
    finally:
        os.close(fd)


def learn(layout: Layout, digest: Digest) -> StoredLayer | None:
    """Measures and remembers a layer that another program put into the store.

    None if the blob's digest is not its name.  Raises MalformedImage, NoSpace, ImgmountError.
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
