"""docker, podman, skopeo and umoci unpack a committed image to the tree that was mounted."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from buildahimage import Buildah
from dockerd import dockerd
from imagewriter import oci_archive
from mounted import Command, mounted
from oracle import differences, dump_directory, overlay, run, unpack
from tarwriter import TarWriter

TIME = 1_400_000_000_123_456_789
NAME = "committed:1"
PODMANS_NAMES = ("localhost", "docker.io/library")  # of an OCI archive, and a docker archive


def layers() -> list[bytes]:
    low = TarWriter().dir(".", mtime_ns=TIME)
    for name in (
        "d/", "d/a", "d/b", "d/sub/", "d/sub/deep/", "d/sub/deep/y", "e/", "e/b", "kind/", "kind/k",
        "moved/", "moved/in/", "moved/in/f", "opt/", "opt/tool", "plain", "links/",
    ):  # fmt: skip
        if name.endswith("/"):
            low.dir(name, mtime_ns=TIME)
        else:
            low.file(name, b"lower " + name.encode(), mtime_ns=TIME)
    low.file("one", b"linked", mtime_ns=TIME).hardlink("links/two", "one")
    low.hardlink("moved/three", "one").symlink("l", "d/a", mtime_ns=TIME)
    low.file("big", b"0123456789abcdef" * 65536, mtime_ns=TIME)
    top = TarWriter().dir(".", mtime_ns=TIME).dir("e", mtime_ns=TIME)
    top.file("e/top", b"t", mtime_ns=TIME).whiteout("d/b")
    return [low.tar(), top.tar()]


SCRIPT = r"""
set -e
rm d/a && rm -r e && mkdir e && echo again > e/again              # a whiteout, an opaque mark
rm -r kind && echo file > kind && rm plain && mkdir plain         # kinds change
mv moved d/here && touch -d @1400000001.987654321 d/here/in/f     # a directory of the layers
ln one links/four && chmod 0600 links/two                         # one file, all its names
chown 2200000:3000000 opt/tool && chmod 6755 opt/tool
setcap cap_net_raw+ep opt/tool && cp --preserve=all opt/tool opt/copy
setfattr -n user.binary -v 0x00ff0a3d opt && setfattr -n user.text -v 'a=b' big
mkdir acl && setfacl -m u:77:rwx -d -m g:88:r-x acl && touch acl/inherits
mknod null c 1 3 && mknod far b 300 70000 && mkfifo pipe && mkdir -m 1777 sticky
truncate -s 3M sparse && printf end >> sparse && truncate -s 5M sparse
printf latin > "$(printf 'caf\351')" && printf u > 'é…' && printf s > 'a b'
long=$(printf 'n%.0s' $(seq 255)) && mkdir "$long" && echo long > "$long/$long"
ln "$long/$long" "$long/b" && ln -s "$(printf 'x%.0s' $(seq 300))" longlink && ln -s nowhere dangle
touch -d '1999-12-31 23:59:59.5' old && touch -d '2060-01-01' future && touch -h -d @7 dangle
: > nothing && chmod 0 nothing
"""


@dataclass
class Committed:
    """lines: the dump of the committed mount. images: the image files, by form."""

    base: Path
    command: Command
    lines: list[bytes]
    images: dict[str, Path]


@pytest.fixture(scope="module")
def committed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Committed]:
    base = tmp_path_factory.mktemp("committed")
    command = Command(base / "dirs")
    image = oci_archive(base / "image.tar", layers(), compress="gzip")
    images = {form: base / form for form in ("oci-archive", "docker-archive", "oci")}
    with mounted(command, image, base / "mnt") as at:
        run("bash", "-c", SCRIPT, cwd=at)
        for form, path in images.items():
            printed = command("commit", at, NAME, "-o", f"{form}:{path}").stdout
            assert printed.startswith("sha256:") and len(printed) == 72
        lines = dump_directory(at)
    yield Committed(base, command, lines, images)
    run("rm", "-r", base)


def check(committed: Committed, root: Path, *, but_root: bool = False) -> None:
    """but_root: leave the root out, the first line, because the tool keeps neither its mode nor its
    mtime."""
    skipped = 1 if but_root else 0
    found = differences(dump_directory(root)[skipped:], committed.lines[skipped:])
    assert not found, "what the tool made (ours) and what was mounted (theirs):\n" + found


@pytest.mark.parametrize("form", ["oci-archive", "docker-archive", "oci"])
def test_our_own_mount(committed: Committed, tmp_path: Path, form: str) -> None:
    with mounted(committed.command, committed.images[form], tmp_path / "m", "--read-only") as at:
        check(committed, at)


def test_gnu_tar_and_the_kernels_overlayfs(committed: Committed, tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.mkdir()
    run("tar", "-x", "-C", image, "-f", committed.images["docker-archive"])
    (entry,) = json.loads((image / "manifest.json").read_text())
    unpacked = [
        unpack((image / name).read_bytes(), tmp_path / f"layer{i}")
        for i, name in enumerate(entry["Layers"])
    ]
    with overlay(unpacked, tmp_path / "kernel") as at:
        check(committed, at)


@pytest.mark.parametrize("form", ["oci-archive", "oci"])
def test_skopeo_copies_and_umoci_unpacks(committed: Committed, tmp_path: Path, form: str) -> None:
    layout = tmp_path / "layout"
    run("skopeo", "copy", "-q", f"{form}:{committed.images[form]}:{NAME}", f"oci:{layout}:u")
    run("umoci", "unpack", "--image", f"{layout}:u", tmp_path / "bundle")
    check(committed, tmp_path / "bundle" / "rootfs")


@pytest.mark.parametrize("form", ["oci-archive", "docker-archive"])
def test_podman_loads(
    committed: Committed, tmp_path_factory: pytest.TempPathFactory, form: str
) -> None:
    podman = Buildah(tmp_path_factory.mktemp("p"))  # it refuses paths of over 50 characters
    try:
        printed = podman.podman("load", "-q", "-i", committed.images[form])
        assert printed in (f"Loaded image: {where}/{NAME}" for where in PODMANS_NAMES)
        check(committed, Path(podman.podman("image", "mount", NAME)), but_root=True)
        podman.podman("image", "umount", NAME)
    finally:
        podman.clean()


@pytest.mark.parametrize("form", ["oci-archive", "docker-archive"])
def test_docker_loads(committed: Committed, tmp_path: Path, form: str) -> None:
    """docker loads the image; its unpacked layers are stacked as overlay2 stacks them."""
    base = tmp_path / "d"
    base.mkdir()
    try:
        with dockerd(base) as docker:
            assert docker("load", "-i", committed.images[form]) == f"Loaded image: {NAME}"
            (image,) = json.loads(docker("image", "inspect", NAME))
            data = image["GraphDriver"]["Data"]
            assert image["GraphDriver"]["Name"] == "overlay2"
            dirs = [data["UpperDir"], *data["LowerDir"].split(":")]
            with overlay([Path(d) for d in reversed(dirs)], tmp_path / "kernel") as at:
                check(committed, at, but_root=True)
            docker("save", "-o", tmp_path / "saved.tar", NAME)
    finally:
        shutil.rmtree(base)
    with mounted(committed.command, tmp_path / "saved.tar", tmp_path / "m", "--read-only") as at:
        check(committed, at)
