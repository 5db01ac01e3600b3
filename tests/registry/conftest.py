"""Law: the real registry that most tests share, and an image in it that skopeo pushed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from busyboximage import busybox_layers
from imagewriter import oci_layout
from oracle import run
from realregistry import RealRegistry, real_registry


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealRegistry]:
    with real_registry(tmp_path_factory.mktemp("registry")) as server:
        yield server


@dataclass(frozen=True)
class Pushed:
    """layout: what was pushed; manifest: its bytes."""

    repository: str
    tag: str
    layout: Path
    manifest: bytes

    @property
    def layer(self) -> dict[str, object]:
        found: dict[str, object] = json.loads(self.manifest)["layers"][0]
        return found

    def blob(self, digest: str) -> bytes:
        return (self.layout / "blobs/sha256" / digest.removeprefix("sha256:")).read_bytes()


@pytest.fixture(scope="session")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """busybox in two layers, as `oci:DIR:t`."""
    path = tmp_path_factory.mktemp("layout") / "oci"
    oci_layout(path, busybox_layers(), tags=("t",), compress="gzip")
    return path


def push(layout: Path, target: str, *options: str) -> None:
    run("skopeo", "copy", "-q", *options, f"oci:{layout}:t", f"docker://{target}")


@pytest.fixture(scope="session")
def pushed(registry: RealRegistry, layout: Path) -> Pushed:
    push(layout, f"{registry.domain}/library/busybox:t", "--dest-tls-verify=false")
    index = json.loads((layout / "index.json").read_bytes())
    digest = index["manifests"][0]["digest"]
    manifest = (layout / "blobs/sha256" / digest.removeprefix("sha256:")).read_bytes()
    return Pushed("library/busybox", "t", layout, manifest)
