"""Layers in memory become a tree or a view, without images: for tests of rootfs/ and below."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fusemount import _native
from fusemount.rootfs import RootFs, open_rootfs


@dataclass
class MemoryLayer:
    """A tar in a memory file, with its index."""

    index: _native.LayerIndex
    fd: int
    offset: int
    description: str
    packed: None = None

    def rescan(self) -> None:
        """Its index is of this moment."""


def open_layer(tar: bytes, number: int = 0) -> MemoryLayer:
    fd = os.memfd_create(f"layer{number}")
    os.write(fd, b"x" * 7)  # the tar does not start at 0: offsets are relative
    view = memoryview(tar)
    while view:
        view = view[os.write(fd, view) :]
    return MemoryLayer(_native.LayerIndex.scan(fd, 7, len(tar)), fd, 7, f"layer {number}")


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
            os.close(layer.fd)
