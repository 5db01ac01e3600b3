"""Starts the real registry that most tests share, with an image that skopeo pushed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from busyboximage import busybox_layers
from hostile import Hostile, hostile
from imagewriter import oci_layout
from realregistry import Authority, RealRegistry, make_authority, real_registry
from talking import Pushed, manifest_of, push


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealRegistry]:
    with real_registry(tmp_path_factory.mktemp("registry")) as server:
        yield server


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """busybox in two layers, as `oci:DIR:t`."""
    path = tmp_path_factory.mktemp("layout") / "oci"
    oci_layout(path, busybox_layers(), tags=("t",), compress="gzip")
    return path


@pytest.fixture(scope="session")
def pushed(registry: RealRegistry, layout: Path) -> Pushed:
    push(layout, f"{registry.domain}/library/busybox:t", "--dest-tls-verify=false")
    return Pushed("library/busybox", "t", layout, manifest_of(layout))


@pytest.fixture
def server() -> Iterator[Hostile]:
    with hostile() as found:
        yield found
