"""Law: makes a cache for each test, and blobs to open with it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from imagewriter import (
    sha256,
)
from tarwriter import TarWriter

from fusemount.budget import Budget
from fusemount.digest import Digest
from fusemount.layer import BlobFile, LayerBlob, OpenLayer, open_layers
from fusemount.settings import Directories, ImageOptions

CODECS = ["none", "gzip", "zstd", "xz", "bzip2"]
TAR = TarWriter().dir("d").file("d/f", b"contents" * 1000).file("g", bytes(300_000)).tar()
DIFF_ID = Digest("sha256:" + sha256(TAR))


@dataclass
class Setting:
    """A cache, and the layers that are opened with it."""

    directories: Directories
    opened: list[OpenLayer] = field(default_factory=list)
    passes: list[str] = field(default_factory=list)
    advanced: int = 0

    @property
    def cache(self) -> Path:
        return self.directories.cache

    def start(self, description: str, total: int) -> None:
        self.passes.append(description.split()[0])

    def advance(self, n: int) -> None:
        self.advanced += n

    def finish(self) -> None:
        pass

    def open(self, *blobs: LayerBlob, verify: bool = True) -> list[OpenLayer]:
        layers = open_layers(Blobs(blobs), ImageOptions(verify=verify), self.directories, self)
        self.opened += layers
        for blob in blobs:
            blob.file.close()
        return layers

    def kept(self, directory: str) -> list[str]:
        path = self.cache / directory
        return sorted(os.listdir(path)) if path.exists() else []


@dataclass(frozen=True)
class Blobs:
    layers: tuple[LayerBlob, ...]
    cache: Path | None = None
    budget: Budget | None = None


def blob(path: Path, data: bytes, **more: Any) -> LayerBlob:
    """A blob whose data are in a file between other bytes."""
    path.write_bytes(b"x" * 700 + data + b"y" * 900)
    claims: dict[str, Any] = {"diff_id": None, "digest": None} | more
    return LayerBlob(
        media_type="", file=BlobFile(path), offset=700, size=len(data), description="i.tar: layer",
        **claims,
    )  # fmt: skip


def tar_of(layer: OpenLayer, size: int = len(TAR)) -> bytes:
    return b"".join(layer.tar.pieces())[:size]


def paths(layer: OpenLayer) -> list[bytes]:
    return [layer.index.member(i).path for i in range(len(layer.index))]
