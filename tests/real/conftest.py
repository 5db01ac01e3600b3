"""Makes, once for each session, a Debian image of three layers and the kernel's view of it.

Law: everything lies below one directory, which is removed at the end because unpacked layers take
gigabytes.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from buildahimage import Buildah
from debianbase import debian_root
from kernelview import KernelView
from oracle import run
from realimage import Real


@pytest.fixture(scope="session")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Real]:
    base = tmp_path_factory.mktemp("real")
    (base / "kernel").mkdir()
    buildah = Buildah(base / "storage")
    try:
        name = buildah.make(debian_root())
        buildah("push", "-q", name, f"oci:{base}/layout:real")
        yield Real(base, buildah, name, base / "layout", KernelView(base / "kernel"))
    finally:
        buildah.clean()
        shutil.rmtree(base)


@pytest.fixture(scope="session")
def docker_archive(real: Real) -> Path:
    """The image as a docker-archive of skopeo, whose uncompressed layers are read in place."""
    path = real.base / "docker.tar"
    run("skopeo", "copy", "-q", f"oci:{real.layout}:real", f"docker-archive:{path}:real:3")
    return path
