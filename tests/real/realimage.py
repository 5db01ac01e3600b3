"""Describes the session's image for the tests; conftest.py makes and removes it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import archivelayers
from buildahimage import Buildah
from kernelview import KernelView


@dataclass
class Real:
    """base: scratch space of the session.  layout: the image as buildah pushed it."""

    base: Path
    buildah: Buildah
    name: str
    layout: Path
    kernel: KernelView

    @cached_property
    def layers(self) -> list[Path]:
        """The image's layers, as kernelview.KernelView.layers returns them."""
        blobs = archivelayers.blobs(self.layout, "real")
        return self.kernel.layers([archivelayers.plain(blob) for blob in blobs])
