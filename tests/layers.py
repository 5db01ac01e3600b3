"""Layers in memory become a tree or a view, without images: for tests of rootfs/ and below."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from imagewriter import UNSAID, compress

from fusemount import _native
from fusemount.budget import Budget
from fusemount.compression import Compression
from fusemount.layer import BlobFile, LayerBlob
from fusemount.layer.decode import read_compressed
from fusemount.layer.reframe import Sidecar
from fusemount.rootfs import RootFs, open_rootfs

_BEFORE = b"x" * 7  # the tar does not start at 0: offsets are relative


@dataclass
class MemoryLayer:
    """A tar in a memory file, with its index; packed reads one that is compressed."""

    index: _native.LayerIndex
    fd: int
    offset: int
    description: str
    packed: _native.Packed | None = None

    def rescan(self) -> None:
        """Its index is of this moment."""

    def close(self) -> None:
        if self.packed is not None:
            self.packed.close()
        else:
            os.close(self.fd)


def open_layer(tar: bytes, number: int = 0) -> MemoryLayer:
    """Compressed as the option --layers says; its chunks are kept nowhere then."""
    data, name = compress(tar, UNSAID.compress), f"layer {number}"
    fd = os.memfd_create(name)
    with open(os.dup(fd), "wb") as file:
        file.write(_BEFORE + data)
    at = len(_BEFORE)
    if UNSAID.compress == "none":
        return MemoryLayer(_native.LayerIndex.scan(fd, at, len(tar)), fd, at, name)
    blob = LayerBlob(None, None, "", BlobFile(Path(f"/dev/fd/{fd}")), at, len(data), name)
    passed = read_compressed(
        blob, Compression(UNSAID.compress), Sidecar(None), lambda _: None, Budget()
    )[1]
    assert passed.access is not None
    points, digests = passed.access.points, passed.access.digests
    packed = _native.Packed(points, digests, blob.fd, at, -1, None, b"", name.encode())
    blob.file.close()
    os.close(fd)
    return MemoryLayer(passed.index, -1, 0, name, packed)


@contextmanager
def rootfs_of(
    tars: Sequence[bytes],
    *,
    upper: Path | None = None,
    work: Path | None = None,
    follow: bool = False,
) -> Iterator[RootFs]:
    """The view over these layers, bottom first; read-only without work."""
    layers: list[MemoryLayer] = []
    try:
        layers.extend(open_layer(tar, i) for i, tar in enumerate(tars))
        view = open_rootfs(
            layers, upper=upper, work=work, read_only=work is None, follow_symlink_parents=follow
        )
        try:
            yield view
            view.tree.check()
        finally:
            view.close()
    finally:
        for layer in layers:
            layer.close()
