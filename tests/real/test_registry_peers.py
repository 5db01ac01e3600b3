"""dockerd, podman and imgmount share a registry: what one pushes, the others pull unchanged."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from buildahimage import Buildah
from busyboximage import busybox_layers
from dockerd import Dockerd, dockerd
from imagewriter import ImageSpec, docker_archive, oci_files
from mounted import Command, mounted
from oracle import differences, dump_directory, run, without_layer
from realregistry import real_registry
from storing import clean, load
from tarwriter import TarWriter
from transferring import dumped, pulled, pushed, upload

from fusemount.compression import Compression
from fusemount.imagename import parse_name
from fusemount.store import Store

TIME = 1_400_000_000_123_456_789
RUN = ("cat /etc/motd /d/c && test ! -e /gone && id -u && echo $SHOWN", "hello\nc0\nyes\n")


def layers() -> list[bytes]:
    low = TarWriter().dir("d", mtime_ns=TIME).file("d/a", b"a" * 70_000).file("gone", b"g")
    low.file("one", b"1", mode=0o4755, uid=7, gid=8).hardlink("d/two", "one").symlink("l", "d/a")
    top = TarWriter().whiteout("gone").dir("d", mtime_ns=TIME).opaque("d").file("d/c", b"c")
    return [*busybox_layers(), low.tar(), top.tar()]


@dataclass
class Peers:
    base: Path
    docker: Dockerd
    buildah: Buildah
    host: str
    archive: Path
    lines: list[bytes]

    def podman(self, *words: str | Path) -> str:
        return self.buildah.podman(*words)

    def podman_run(self, image: str) -> str:
        # The limits are this machine's current ones, because runc may not be allowed to raise them.
        limits = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000")
        return self.podman("--runtime", "runc", "--cgroup-manager", "cgroupfs", "run", "--rm",
                           *limits, "--network", "none", image, "sh", "-c", RUN[0])  # fmt: skip


@pytest.fixture(scope="module")
def peers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peers]:
    base = tmp_path_factory.mktemp("p")
    for name in ("registry", "docker"):
        (base / name).mkdir()
    buildah = Buildah(base / "storage", "vfs")
    config = {"config": {"Env": ["PATH=/bin", "SHOWN=yes"], "Cmd": ["/bin/sh"]}}
    archive = docker_archive(
        base / "image.tar", layers(), tags=["mine:1"], config=config, compress="none"
    )  # docker cannot load zstd
    lines = dumped(f"docker-archive:{archive}", base)
    try:
        with real_registry(base / "registry") as registry, dockerd(base / "docker") as docker:
            docker("load", "-q", "-i", archive)
            yield Peers(base, docker, buildah, registry.domain, archive, lines)
    finally:
        buildah.clean()
        run("rm", "-r", base)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "dirs/root", create=True)


def shown(store: Store, text: str) -> list[bytes]:
    return dumped(f"store:[{store.root}]{text}", store.root.parent)


def docker_says(peers: Peers, image: str) -> dict[str, Any]:
    (inspected,) = json.loads(peers.docker("image", "inspect", image))
    found: dict[str, Any] = inspected
    return found


def podman_says(peers: Peers, image: str) -> dict[str, Any]:
    (inspected,) = json.loads(peers.podman("image", "inspect", image))
    found: dict[str, Any] = inspected
    return found


def test_what_docker_pushed(peers: Peers, store: Store, tmp_path: Path) -> None:
    name = f"{peers.host}/docker/pushed:1"
    peers.docker("tag", "mine:1", name)
    peers.docker("push", "-q", name)
    image = pulled(store, name).pulled.image
    inspected = docker_says(peers, name)
    assert image.image_id == inspected["Id"]
    assert [row.diff_id for row in image.summary.layers] == inspected["RootFS"]["Layers"]
    assert list(image.repo_digests) == [
        # other tests push the same image under other names
        d
        for d in inspected["RepoDigests"]
        if d.startswith(f"{peers.host}/docker/pushed@")
    ]
    with mounted(Command(tmp_path / "dirs"), Path(name), tmp_path / "m", "--read-only") as at:
        found = differences(dump_directory(at), without_layer(peers.lines))
        assert not found, "mounted (ours) and the archive (theirs):\n" + found
    assert shown(store, name) == peers.lines
    clean(store, images=1)


@pytest.mark.parametrize("form", ["v2s2", "oci"])
def test_what_podman_pushed(peers: Peers, store: Store, form: str) -> None:
    name = f"{peers.host}/podman/{form}:1"
    ident = peers.podman("load", "-q", "-i", peers.archive).rpartition(" ")[2]
    digests = store.root.parent / "digest"
    peers.podman("push", "-q", "--tls-verify=false", "--format", form, "--digestfile", digests,
                 ident, name)  # fmt: skip
    image = pulled(store, name).pulled.image
    inspected = podman_says(peers, ident)
    own = image.summary.original or image.digest  # a docker manifest is kept in OCI's form too
    assert own == digests.read_text()
    assert [row.diff_id for row in image.summary.layers] == inspected["RootFS"]["Layers"]
    if form == "v2s2":
        assert image.image_id == "sha256:" + inspected["Id"]
    assert shown(store, name) == peers.lines
    clean(store, images=1)


def push_all_kinds(peers: Peers, store: Store) -> dict[str, str]:
    """Pushes images of all kinds with imgmount: {name: image ID}."""
    load(store, peers.archive)
    upload(peers.host, "theirs/a", "1", oci_files([ImageSpec(layers(), tags=("t",), compress="gzip",
           config=_config(store))]))  # fmt: skip
    pulled(store, f"{peers.host}/theirs/a:1")
    kinds = {"packed": "mine:1", "pulled": f"{peers.host}/theirs/a:1"}
    names = {}
    for kind, what in kinds.items():
        name = f"{peers.host}/ours/{kind}:1"
        pushed(store, what, name)
        names[name] = str(store.find(what).image_id)
    return names


def _config(store: Store) -> dict[str, Any]:
    config = json.loads(store.layout.blob(store.find("mine:1").image_id).read_bytes())
    return {"config": config["config"], "author": "somebody else"}


def test_what_we_pushed(peers: Peers, store: Store, tmp_path: Path) -> None:
    """docker and podman pull the same ID and run its containers; docker saves the same layers."""
    for name, ident in push_all_kinds(peers, store).items():
        peers.docker("pull", "-q", name)
        assert docker_says(peers, name)["Id"] == ident
        peers.docker("save", "-o", tmp_path / "saved.tar", name)
        assert dumped(f"docker-archive:{tmp_path}/saved.tar", tmp_path) == peers.lines
        peers.podman("pull", "-q", "--tls-verify=false", name)
        assert "sha256:" + podman_says(peers, name)["Id"] == ident
        assert peers.podman_run(name) + "\n" == RUN[1]
    zstd = f"{peers.host}/ours/zstd:1"
    pushed(store, "mine:1", zstd, compression=Compression.ZSTD)
    peers.podman("pull", "-q", "--tls-verify=false", zstd)
    assert peers.podman_run(zstd) + "\n" == RUN[1]


def test_a_digest_beside_a_tag(peers: Peers, store: Store) -> None:
    """A pull by tag and digest makes no tag, as in docker."""
    name = f"{peers.host}/pinned/a"
    digest = upload(peers.host, "pinned/a", "1", oci_files([ImageSpec(layers(), tags=("t",),
                    compress="gzip", config={"author": "pinned"})]))  # fmt: skip
    peers.docker("pull", "-q", f"{name}:1@{digest}")
    image = pulled(store, f"{name}:1@{digest}").pulled.image
    inspected = docker_says(peers, f"{name}@{digest}")
    assert [str(n) for n in image.names] == inspected["RepoTags"] == []
    assert list(image.repo_digests) == inspected["RepoDigests"] == [f"{name}@{digest}"]
    peers.docker("rmi", f"{name}@{digest}")


CHANGES = (
    'CMD ["sh","-c","echo $A"]', "ENTRYPOINT /bin/tool x", "ENV A=1 B='two words'", "EXPOSE 80/tcp",
    "LABEL a.b=c d=\"e f\"", "USER 7:8", "VOLUME /data /more", "WORKDIR /w",
)  # fmt: skip


@pytest.mark.parametrize("how", ["file", "gzip", "bzip2", "xz", "zstd", "stdin"])
def test_import(peers: Peers, tmp_path: Path, how: str) -> None:
    """`imgmount import` gives the same as `docker import` of the same tar."""
    command = Command(tmp_path / "dirs")
    tar = tmp_path / "root.tar"
    tar.write_bytes(layers()[0])
    changes = [word for line in CHANGES for word in ("--change", line)]
    peers.docker("import", *changes, "-m", "why", tar, "imported:1")
    inspected = docker_says(peers, "imported:1")
    given = tar
    if how not in ("file", "stdin"):
        run(how, "-k", tar)
        (given,) = tmp_path.glob("root.tar.*")
    words = ["import", *changes, "-m", "why"]
    if how == "stdin":
        made = subprocess.run(
            [sys.executable, "-m", "fusemount", *words, "-", "imported:1"],
            env=command.environment, check=True, input=tar.read_bytes(), capture_output=True,
        ).stdout.decode()  # fmt: skip
    else:
        made = command(*words, given, "imported:1").stdout
    store = Store(tmp_path / "dirs/root")
    image = store.find("imported:1")
    assert made.strip() == image.image_id
    assert [row.diff_id for row in image.summary.layers] == inspected["RootFS"]["Layers"]
    config = json.loads(store.layout.blob(image.image_id).read_bytes())
    theirs = {k: v for k, v in inspected["Config"].items() if v and k not in ("Image", "Hostname")}
    assert config["config"] == theirs
    assert config["history"][0]["comment"] == inspected["Comment"] == "why"
    assert (config["os"], config["architecture"]) == (inspected["Os"], inspected["Architecture"])
    peers.docker("save", "-o", tmp_path / "saved.tar", "imported:1")
    peers.docker("rmi", "imported:1")
    assert shown(store, "imported:1") == dumped(f"docker-archive:{tmp_path}/saved.tar", tmp_path)
    assert parse_name("imported:1") in image.names
    clean(store, images=1)
