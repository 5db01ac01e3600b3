"""A view of an image ends with the stack it was given, and leaves nothing open."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

from imagewriter import oci_layout
from tarwriter import TarWriter

from fusemount.daemon.openview import open_view
from fusemount.layer import SilentProgress
from fusemount.reference import Reference
from fusemount.settings import Directories, ImageOptions, MountOptions, Platform


def test_no_layer_stays_open(tmp_path: Path) -> None:
    tars = [TarWriter().file(name, name.encode()).tar() for name in ("a", "b")]
    layout = oci_layout(tmp_path / "i", tars, compress="gzip")
    (tmp_path / "d").mkdir()
    directories = Directories(tmp_path / "cache", tmp_path / "state", tmp_path / "run")
    looking = MountOptions(read_only=True)
    before = set(os.listdir("/proc/self/fd"))
    for reference in (
        Reference("oci", layout, None),
        Reference("dir", tmp_path / "d", None, (tmp_path / "d",)),
    ):
        options = ImageOptions(Platform("linux", "amd64"))
        with ExitStack() as stack:
            view = open_view(reference, options, looking, directories, SilentProgress(), stack)
            root = view.rootfs.lookup(1, b"a") if reference.transport == "oci" else None
            assert root is None or view.rootfs.read(root, 0, 9) == b"a"
        assert set(os.listdir("/proc/self/fd")) == before
