"""A real registry that most tests share, an image in every form, a store for each test."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from busyboximage import busybox_layers
from hostile import Hostile, hostile
from imagewriter import docker_archive, oci_layout
from realregistry import RealRegistry, real_registry
from tarwriter import TarWriter
from transferring import dumped

from fusemount.store import Store

TIME = 1_400_000_000_123_456_789


def image_layers() -> list[bytes]:
    """busybox, and one layer more that removes, replaces, links."""
    low = TarWriter().dir("d", mtime_ns=TIME).dir("d/sub", mtime_ns=TIME)
    low.file("d/a", b"a" * 70_000, mtime_ns=TIME).file("d/sub/b", b"b").file("gone", b"g")
    low.file("one", b"linked", mode=0o4755, uid=7, gid=8).hardlink("d/two", "one")
    low.file("tagged", b"", xattrs={"user.note": b"a=b"}).symlink("dangle", "nowhere")
    top = TarWriter().whiteout("gone").dir("d", mtime_ns=TIME).dir("d/sub", mtime_ns=TIME)
    top.opaque("d/sub").file("d/sub/c", b"c")
    return [*busybox_layers(), low.tar(), top.tar()]


@dataclass(frozen=True)
class Pictured:
    """One image as archive:NAME and oci:layout:t, its layers gzipped there; lines: its dump."""

    archive: Path
    layout: Path
    layers: list[bytes]
    lines: list[bytes]


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealRegistry]:
    with real_registry(tmp_path_factory.mktemp("registry")) as server:
        yield server


@pytest.fixture(scope="session")
def pictured(tmp_path_factory: pytest.TempPathFactory) -> Pictured:
    base = tmp_path_factory.mktemp("pictured")
    layers = image_layers()
    archive = docker_archive(base / "image.tar", layers, tags=["pictured:1"])
    layout = oci_layout(base / "oci", layers, tags=("t",), compress="gzip")
    return Pictured(archive, layout, layers, dumped(f"docker-archive:{archive}", base))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "root", create=True)


@pytest.fixture
def other(tmp_path: Path) -> Store:
    """Another store."""
    return Store(tmp_path / "other", create=True)


@pytest.fixture
def server() -> Iterator[Hostile]:
    with hostile() as found:
        yield found
