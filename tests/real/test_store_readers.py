"""A store is an OCI layout: skopeo, umoci and podman read it by our names, imgmount reads images
that skopeo writes into it, and the kept chain of layers equals docker's.

`podman pull oci:ROOT:NAME` names its copy after the directory, as it does with any layout.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from buildahimage import Buildah
from dockerd import Dockerd, dockerd
from imagewriter import ImageSpec, docker_archive, oci_archive, oci_layout
from mounted import Command
from oracle import dump_directory, run, unpack
from storing import clean, load, names, save
from tarwriter import TarWriter

from fusemount.imagename import parse_name
from fusemount.store import Store
from fusemount.store.removal import prune, remove

NAMES = [
    "ubuntu:22.04", "localhost:5000/a/b:1", "plain:latest", "ghcr.io/org/img:v1.0-rc_1",
    "host.io:443/x/y_z:t",
]  # fmt: skip
# Owners, modes and times are the layer's, because the tests compare the trees that readers unpack.
TARS = [
    TarWriter().dir("etc", mtime_ns=10**18).file("etc/a", b"one" * 999, mtime_ns=10**18).tar(),
    TarWriter().file("etc/b", b"two", mode=0o600, mtime_ns=10**18).whiteout("etc/a").tar(),
]


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Store:
    base = tmp_path_factory.mktemp("readers")
    store = Store(base / "root", create=True)
    load(store, oci_archive(base / "in", TARS, tags=[NAMES[0]], compress="gzip"))
    for name in NAMES[1:]:
        store.tag(NAMES[0], parse_name(name))
    load(store, oci_archive(base / "other", TARS[:1], tags=["other:1"]))
    return store


@pytest.fixture(scope="module")
def docker() -> Iterator[Dockerd]:
    base = Path(tempfile.mkdtemp(prefix="imgd"))  # a socket's path must be short
    try:
        with dockerd(base) as daemon:
            yield daemon
    finally:
        shutil.rmtree(base, ignore_errors=True)


@pytest.fixture(scope="module")
def podman() -> Iterator[Buildah]:
    base = Path(tempfile.mkdtemp(prefix="imgp"))  # podman refuses paths of over 50 characters
    found = Buildah(base / "storage")
    try:
        yield found
    finally:
        found.clean()
        shutil.rmtree(base)


@pytest.mark.parametrize("name", NAMES)
def test_skopeo_reads_it(filled: Store, tmp_path: Path, name: str) -> None:
    reference, image = f"oci:{filled.root}:{name}", filled.find(name)
    document = json.loads(run("skopeo", "inspect", reference).stdout)
    assert document["Digest"] == image.digest
    assert document["Layers"] == [row.digest for row in image.summary.layers]
    run("skopeo", "copy", "-q", reference, f"dir:{tmp_path}/dir")
    for row in image.summary.layers:
        copied = (tmp_path / "dir" / row.digest.hex).read_bytes()
        assert copied == filled.layout.blob(row.digest).read_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_umoci_unpacks_it(filled: Store, tmp_path: Path, name: str) -> None:
    run("umoci", "unpack", "--image", f"{filled.root}:{name}", tmp_path / "bundle")
    wanted = unpack(TarWriter().dir("etc", mtime_ns=10**18).tar(), tmp_path / "wanted")
    (wanted / "etc/b").write_bytes(b"two")
    found = sorted(path.name for path in (tmp_path / "bundle/rootfs/etc").iterdir())
    assert found == sorted(path.name for path in (wanted / "etc").iterdir())


def test_umoci_lists_all(filled: Store) -> None:
    listed = run("umoci", "ls", "--layout", filled.root).stdout.decode().split()
    assert set(listed) == {*NAMES, "other:1"}


@pytest.mark.parametrize("name", NAMES[:2])
def test_podman_pulls_it(filled: Store, podman: Buildah, name: str) -> None:
    ident = podman.podman("pull", "-q", f"oci:{filled.root}:{name}")
    assert f"sha256:{ident}" == filled.find(name).image_id


@pytest.mark.parametrize("how", ["gzip", "zstd", "xz", "bzip2"])
def test_others_read_what_came_in_any_compression(tmp_path: Path, how: str) -> None:
    """OCI has media types for gzip and zstd only: layers in docker's other compressions are stored
    uncompressed."""
    store = Store(tmp_path / "root", create=True)
    load(store, docker_archive(tmp_path / "in", TARS, tags=["a:1"], compress=how))
    clean(store, images=1)
    run("skopeo", "copy", "-q", f"oci:{store.root}:a:1", f"oci-archive:{tmp_path}/out:a:1")
    load(store, tmp_path / "out")
    assert len({image.image_id for image in store.images()}) == 1
    if how != "zstd":  # this umoci cannot read zstd
        run("umoci", "unpack", "--image", f"{store.root}:a:1", tmp_path / "bundle")
        assert (tmp_path / "bundle/rootfs/etc/b").read_bytes() == b"two"


# ---- others write -------------------------------------------------------------------------


def test_what_skopeo_brings_is_an_image(tmp_path: Path) -> None:
    """An image of skopeo is listed, verified, mounted, saved, tagged and removed, beside another
    image with the same layers."""
    store = Store(tmp_path / "root", create=True)
    load(store, oci_archive(tmp_path / "ours", [TARS[0]], tags=["ours:1"], compress="gzip"))
    theirs = oci_layout(tmp_path / "theirs", TARS, tags=["x"], compress="gzip")
    run("skopeo", "copy", "-q", f"oci:{theirs}:x", f"dir:{tmp_path}/dir")
    for name in ("new", "v1.0", "their/own:3"):
        run("skopeo", "copy", "-q", f"dir:{tmp_path}/dir", f"oci:{store.root}:{name}")
    assert names(store) == {"ours:1", "new:latest", "their/own:3", "v1.0:latest"}
    clean(store, images=2)
    command, at = Command(tmp_path / "dirs"), tmp_path / "mnt"
    at.mkdir()
    command("--root", store.root, "their/own:3", at, "-o", "ro")
    try:
        assert [line.split()[0] for line in dump_directory(at)][1:] == [b"/etc", b"/etc/b"]
    finally:
        command("umount", at)
    store.tag("new", parse_name("tagged:1"))
    document = run("skopeo", "inspect", f"oci:{store.root}:new").stdout  # its own name stays
    assert json.loads(document)["Digest"] == store.find("tagged:1").digest
    prune(store)
    clean(store, images=2)
    load(store, save(store, "new", "docker-archive", tmp_path / "out"))
    clean(store, images=3)
    for name in ("new", "tagged:1", "their/own:3", "v1.0"):
        remove(store, name)
    prune(store)
    clean(store, images=1)
    run("umoci", "tag", "--image", f"{store.root}:ours:1", "By.Umoci")
    assert store.find("By.Umoci").digest == store.find("ours:1").digest
    prune(store)
    clean(store, images=1)


def test_umoci_collects_nothing_of_ours(tmp_path: Path) -> None:
    """umoci's garbage collector keeps what index.json leads to, and looks only into blobs/."""
    store = Store(tmp_path / "root", create=True)
    specs = [ImageSpec(TARS, config={"architecture": arch}) for arch in ("amd64", "arm64")]
    load(store, oci_layout(tmp_path / "in", images=specs, nested="multi:1"))
    load(store, oci_archive(tmp_path / "one", TARS, tags=["a:1"], compress="gzip"))
    run("umoci", "gc", "--layout", store.root)
    clean(store, images=2)


# ---- saved, and taken by them -------------------------------------------------------------


@pytest.mark.parametrize("form", ["docker-archive", "oci-archive"])
def test_docker_loads_what_is_saved(
    filled: Store, docker: Dockerd, tmp_path: Path, form: str
) -> None:
    docker("load", "-q", "-i", save(filled, NAMES[:2], form, tmp_path / "out"))
    for name in NAMES[:2]:
        assert docker("image", "inspect", "-f", "{{.Id}}", name) == filled.find(name).image_id
        docker("rmi", name)


@pytest.mark.parametrize("form", ["docker-archive", "oci-archive"])
def test_podman_loads_what_is_saved(
    filled: Store, podman: Buildah, tmp_path: Path, form: str
) -> None:
    name = "ghcr.io/org/img:v1.0-rc_1"
    podman.podman("load", "-q", "-i", save(filled, name, form, tmp_path / "out"))
    ident = podman.podman("image", "inspect", "-f", "{{.Id}}", name)
    assert f"sha256:{ident}" == filled.find(name).image_id


@pytest.mark.parametrize("form", ["docker-archive", "oci-archive", "oci"])
def test_skopeo_reads_what_is_saved(filled: Store, tmp_path: Path, form: str) -> None:
    save(filled, "ubuntu:22.04", form, tmp_path / "out")
    config = run("skopeo", "inspect", "--config", "--raw", f"{form}:{tmp_path}/out:ubuntu:22.04")
    assert config.stdout == filled.layout.blob(filled.find("ubuntu:22.04").image_id).read_bytes()


def test_docker_keeps_the_same_layerdb(filled: Store, docker: Dockerd, tmp_path: Path) -> None:
    """After `load` of dockerd's archive, the diff, parent and chain IDs are the same on both sides.

    The file `size` differs: docker adds up the files' bytes, a store has the tar's size.  cache-id
    differs too: it names the directory or file from which each of them reads a layer.
    """
    docker("load", "-q", "-i", save(filled, "ubuntu:22.04", "docker-archive", tmp_path / "out"))
    docker("save", "-o", tmp_path / "saved", "ubuntu:22.04")
    store = Store(tmp_path / "root", create=True)
    load(store, tmp_path / "saved")
    clean(store, images=1)
    assert store.find("ubuntu:22.04").image_id == filled.find("ubuntu:22.04").image_id
    (theirs,) = (docker.base / "data/image").glob("*/layerdb/sha256")
    chains = {path.name for path in store.layout.layerdb.iterdir()}
    assert chains == {path.name for path in theirs.iterdir()}
    for chain in chains:
        ours = store.layout.layerdb / chain
        for name in ("diff", "parent"):
            read = [d / chain / name for d in (store.layout.layerdb, theirs)]
            assert read[0].exists() == read[1].exists()
            assert not read[0].exists() or read[0].read_text() == read[1].read_text()
        assert {path.name for path in ours.iterdir()} >= {"diff", "size", "cache-id"}
        assert (theirs / chain / "size").read_text().isdigit()
    repositories = next((docker.base / "data/image").glob("*/repositories.json"))
    document = json.loads(repositories.read_bytes())["Repositories"]
    own = json.loads(store.layout.repositories.read_bytes())["Repositories"]
    assert own["ubuntu"] == document["ubuntu"]
