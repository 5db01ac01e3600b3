"""Gives a real registry that most tests share, an image in each form, a store for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hostile import Hostile, hostile
from imagewriter import docker_archive, oci_layout
from picture import Pictured, image_layers
from realregistry import RealRegistry, real_registry
from transferring import dumped

from fusemount.store import Store


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
