"""Law: layers that real programs have compressed are read in place, as the same tree as the plain
layers."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest
from imagewriter import oci_archive
from mounted import Command
from oracle import run
from tarwriter import TarWriter

FORMATS = ["gzip", "zstd", "zstd:chunked"]
NAME = "it:1"


def layers() -> list[bytes]:
    random, low = Random(7), TarWriter().dir("d")
    for i in range(60):
        low.file(f"d/{i}", random.randbytes(40_000) + b"text " * i * 4_000, mtime_ns=i * 10**9)
    low.hardlink("d/link", "d/3").symlink("d/sym", "3").file("d/zeros", bytes(3 << 20))
    return [low.tar(), TarWriter().dir("d").whiteout("d/5").file("d/new", b"new").tar()]


def check(tmp_path: Path, plain: Path, packed: Path, form: str) -> None:
    """packed: an OCI layout."""
    command = Command(tmp_path / "dirs")
    wanted = command("dump", "--digest", plain).stdout
    for _ in range(2):
        assert command("dump", "--digest", f"oci:{packed}:{NAME}").stdout == wanted
    (entry,) = json.loads((packed / "index.json").read_bytes())["manifests"]
    manifest = packed / "blobs" / "sha256" / entry["digest"].removeprefix("sha256:")
    suffixes = {
        x["mediaType"].rpartition("+")[2] for x in json.loads(manifest.read_bytes())["layers"]
    }
    assert suffixes == {form.partition(":")[0]}
    cache = tmp_path / "dirs" / "cache"
    assert len(list(cache.glob("points/*.pts"))) == 2 and not list(cache.glob("layers/*"))


@pytest.mark.parametrize("form", FORMATS)
def test_skopeo(tmp_path: Path, form: str) -> None:
    plain, packed = oci_archive(tmp_path / "i.tar", layers(), tags=[NAME]), tmp_path / "oci"
    run("skopeo", "copy", "-q", "--dest-compress-format", form, f"oci-archive:{plain}:{NAME}",
        f"oci:{packed}:{NAME}")  # fmt: skip
    check(tmp_path, plain, packed, form)


@pytest.mark.parametrize("program", ["podman", "buildah"])
def test_pushed(tmp_path: Path, program: str) -> None:
    plain, packed = oci_archive(tmp_path / "i.tar", layers(), tags=[NAME]), tmp_path / "oci"
    store = [
        program,
        "--root",
        tmp_path / "s",
        "--runroot",
        tmp_path / "r",
        "--storage-driver",
        "vfs",
    ]
    run(*store, "pull", "-q", f"oci-archive:{plain}:{NAME}")
    (image,) = set(run(*store, "images", "-q", "--no-trunc").stdout.decode().split())
    run(*store, "push", "-q", "--compression-format", "zstd", image, f"oci:{packed}:{NAME}")
    check(tmp_path, plain, packed, "zstd")
