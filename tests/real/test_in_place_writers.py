"""Law: layers that real programs have compressed are read in place, as the same tree as the plain
layers, and at any place as the same bytes as the tar that gzip(1) or zstd(1) make of the blob.

skopeo, podman and buildah write zstd:chunked as github.com/containers/storage does, and
stargz-snapshotter's ctr-remote writes eStargz and zstd:chunked as
github.com/containerd/stargz-snapshotter does.  One dockerd, with the containerd that belongs to it,
and one store of podman serve all tests.  They cost some 10 s, and 20 s with those that are `long`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest
from dockerd import Dockerd, dockerd, plain_image
from imagewriter import oci_archive
from inplace import directories_of, opened
from mounted import Command
from oracle import run
from tarwriter import TarWriter

from fusemount._native import CHUNK
from fusemount.layer import LayerBlob, SilentProgress, chunkcache
from fusemount.reference import parse_reference
from fusemount.settings import Directories, ImageOptions
from fusemount.sources import open_image

FORMATS = ["gzip", "zstd", "zstd:chunked"]
NAME = "it:1"
_UNPACK = {"gzip": ("gzip", "-dc"), "zstd": ("zstd", "-qdc", "--long=31")}


def layers() -> list[bytes]:
    random, low = Random(7), TarWriter().dir("d")
    for i in range(40):
        low.file(f"d/{i}", random.randbytes(40_000) + b"text " * i * 4_000, mtime_ns=i * 10**9)
    low.hardlink("d/link", "d/3").symlink("d/sym", "3").file("d/zeros", bytes(3 << 20))
    return [low.tar(), TarWriter().dir("d").whiteout("d/5").file("d/new", b"new").tar()]


@dataclass(frozen=True)
class Plain:
    """The image with plain layers.  archive: of OCI.  dump: its lines."""

    base: Path
    archive: Path
    dump: str


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Plain:
    base = tmp_path_factory.mktemp("plain")
    archive = oci_archive(base / "i.tar", layers(), tags=[NAME], compress="none")
    return Plain(base, archive, Command(base / "dirs")("dump", "--digest", archive).stdout)


def suffixes(layout: Path) -> set[str]:
    """How the manifest says that layers are compressed."""
    (entry,) = json.loads((layout / "index.json").read_bytes())["manifests"]
    manifest = layout / "blobs" / "sha256" / entry["digest"].removeprefix("sha256:")
    types = [layer["mediaType"] for layer in json.loads(manifest.read_bytes())["layers"]]
    return {kind.rpartition("+")[2] for kind in types}


def _bytes(blob: LayerBlob) -> bytes:
    return os.pread(blob.fd, blob.size, blob.offset)


def check_random_reads(reference: str, directories: Directories, how: str) -> None:
    """Reads of all sizes at places of all layers; meanwhile chunks are removed."""
    random = Random(reference.rpartition("/")[2])
    named = parse_reference(reference, os.path.exists)
    with open_image(named, ImageOptions(), directories, SilentProgress()) as image:
        blobs = [_bytes(blob) for blob in image.layers]
    with opened(reference, directories) as found:
        for layer, blob in zip(found, blobs, strict=True):
            done = subprocess.run(_UNPACK[how], input=blob, capture_output=True, check=True)
            tar = done.stdout
            assert layer.packed is not None and layer.size == len(tar)
            for turn in range(60):
                at, size = random.randrange(len(tar)), random.randrange(3 * CHUNK)
                size = min(size, len(tar) - at)
                assert layer.packed.read(at, size) == tar[at : at + size], (at, size)
                if turn % 20 == 19:
                    chunkcache.evict(directories.cache / "chunks", 0)
            assert layer.packed.counts()["wrong"] == 0


def check(tmp_path: Path, wanted: str, reference: str, how: str, added: Sequence[str] = ()) -> None:
    """added: names in the root that the writer adds to layers."""
    command = Command(tmp_path / "dirs")
    for _ in range(2):
        found = command("dump", "--digest", reference).stdout.splitlines(keepends=True)
        kept = [line for line in found if line.split(" ")[0].lstrip("/") not in added]
        assert "".join(kept) == wanted
        assert len(found) - len(kept) == len(added)
    cache = command.base / "cache"
    assert len(list(cache.glob("points/*.pts"))) == 2 and not list(cache.glob("layers/*"))
    check_random_reads(reference, directories_of(command), how)


def check_layout(tmp_path: Path, plain: Plain, form: str) -> None:
    how = form.partition(":")[0]
    assert suffixes(tmp_path / "oci") == {how}
    check(tmp_path, plain.dump, f"oci:{tmp_path}/oci:{NAME}", how)


# ---- github.com/containers


@pytest.mark.parametrize("form", FORMATS)
def test_skopeo(tmp_path: Path, plain: Plain, form: str) -> None:
    run("skopeo", "copy", "-q", "--dest-compress-format", form,
        f"oci-archive:{plain.archive}:{NAME}", f"oci:{tmp_path}/oci:{NAME}")  # fmt: skip
    check_layout(tmp_path, plain, form)


@pytest.fixture(scope="module")
def storage(plain: Plain) -> list[str | Path]:
    """Flags for a store that has the image."""
    flags: list[str | Path] = ["--root", plain.base / "s", "--runroot", plain.base / "r"]
    flags += ["--storage-driver", "vfs"]
    run("podman", *flags, "pull", "-q", f"oci-archive:{plain.archive}:{NAME}")
    return flags


@pytest.mark.parametrize(
    ("program", "form"),
    [
        pytest.param("podman", "gzip", marks=pytest.mark.long),
        ("podman", "zstd"),
        pytest.param("podman", "zstd:chunked", marks=pytest.mark.long),
        pytest.param("buildah", "gzip", marks=pytest.mark.long),
        ("buildah", "zstd"),
        pytest.param("buildah", "zstd:chunked", marks=pytest.mark.long),
    ],
)
def test_pushed(
    tmp_path: Path, plain: Plain, storage: list[str | Path], program: str, form: str
) -> None:
    (image,) = set(run(program, *storage, "images", "-q", "--no-trunc").stdout.decode().split())
    run(program, *storage, "push", "-q", "--compression-format", form, image,
        f"oci:{tmp_path}/oci:{NAME}")  # fmt: skip
    check_layout(tmp_path, plain, form)


# ---- docker and containerd


@dataclass(frozen=True)
class Daemons:
    docker: Dockerd
    socket: Path

    def ctr(self, *words: str | Path, program: str = "ctr") -> None:
        """Of containerd, or of stargz-snapshotter (`ctr-remote`)."""
        run(program, "-a", self.socket, "images", *words)


@pytest.fixture(scope="module")
def daemons(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemons]:
    """dockerd, and the containerd that it starts, which has the image with gzipped layers."""
    base = tmp_path_factory.mktemp("d")
    try:
        with dockerd(base) as docker:
            found = Daemons(docker, base / "exec" / "containerd" / "containerd.sock")
            oci_archive(base / "i.tar", layers(), tags=[f"docker.io/library/{NAME}"],
                        compress="gzip")  # fmt: skip
            found.ctr("import", "--no-unpack", base / "i.tar")
            yield found
    finally:
        shutil.rmtree(base)


@pytest.mark.long
def test_docker_save(tmp_path: Path, plain: Plain, daemons: Daemons) -> None:
    """docker 20.10 saves plain layers; with `| gzip`, all of them in one stream."""
    daemons.docker("load", "-q", "-i", plain_image(tmp_path / "i.tar", layers(), NAME))
    daemons.docker("save", "-o", tmp_path / "saved.tar", NAME)
    run("gzip", "-k", tmp_path / "saved.tar")
    command = Command(tmp_path / "dirs")
    for path in (tmp_path / "saved.tar", tmp_path / "saved.tar.gz"):
        assert command("dump", "--digest", path).stdout == plain.dump


@pytest.mark.long
def test_containerd_export(tmp_path: Path, plain: Plain, daemons: Daemons) -> None:
    daemons.ctr("convert", "--oci", f"docker.io/library/{NAME}", "exported:1")
    daemons.ctr("export", tmp_path / "e.tar", "exported:1")
    for kind in ("oci-archive", "docker-archive"):  # the tar is both
        (tmp_path / kind).mkdir()
        check(tmp_path / kind, plain.dump, f"{kind}:{tmp_path}/e.tar", "gzip")


_LANDMARK = ".no.prefetch.landmark"
_ESTARGZ = ["stargz.index.json", _LANDMARK]


@pytest.mark.parametrize(
    ("words", "how", "added"),
    [
        ("convert --oci --estargz", "gzip", _ESTARGZ),
        pytest.param("convert --oci --estargz --estargz-chunk-size 70000", "gzip", _ESTARGZ,
                     marks=pytest.mark.long),
        ("convert --oci --zstdchunked", "zstd", [_LANDMARK]),
        pytest.param("optimize --oci --no-optimize", "gzip", _ESTARGZ, marks=pytest.mark.long),
    ],
)  # fmt: skip
def test_ctr_remote(
    tmp_path: Path,
    plain: Plain,
    daemons: Daemons,
    words: str,
    how: str,
    added: Sequence[str],
) -> None:
    name = f"made:{len(words)}"
    daemons.ctr(*words.split(), f"docker.io/library/{NAME}", name, program="ctr-remote")
    daemons.ctr("export", tmp_path / "e.tar", name)
    check(tmp_path, plain.dump, f"oci-archive:{tmp_path}/e.tar", how, added)
