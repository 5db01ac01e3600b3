"""T 21-23, M: images of real tools show the same tree as the kernel's overlayfs."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import archivelayers
import pytest
from buildahimage import TAG
from dockerd import dockerd
from mounted import Command, mounted
from oracle import differences, dump_directory, run, without_layer
from realimage import Real

ENTRIES = 4000  # a Debian root has more; a comparison of two empty trees must not pass

DOCKERFILE = f"""
FROM {TAG}
RUN rm -r /etc/skel /opt/kinds/sticky && mkdir /etc/skel && echo docker > /etc/skel/by && \\
    rm /etc/issue && mkdir /etc/issue && ln /usr/bin/perl /usr/bin/perl-too && \\
    chmod 4755 /usr/bin/env && touch -h -d 2001-02-03 /opt/kinds/dangling
COPY Dockerfile /opt/
RUN rm -r /etc/issue /usr/bin/perl-too && echo back > /etc/issue
"""


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path) -> Iterator[None]:
    """A directory that is removed after the test: an image there has half a gigabyte."""
    yield
    shutil.rmtree(tmp_path)


def skopeo(source: object, target: object, *more: str) -> None:
    run("skopeo", "copy", "-q", *more, str(source), str(target))


def compare(real: Real, image: Path, tmp_path: Path, tag: str = TAG) -> list[Path]:
    """Compares every field of every line, contents included; returns the archive's layer files."""
    blobs = archivelayers.blobs(archivelayers.unwrap(image, tmp_path / "files"), tag)
    theirs = real.kernel.dump(real.kernel.layers([archivelayers.plain(b) for b in blobs]))
    ours = Command(tmp_path / "dirs")("dump", "--digest", f"{image}:{tag}").stdout.encode()
    found = differences(without_layer(ours.splitlines()), theirs)
    assert not found, "dump (ours) and the kernel's overlayfs (theirs):\n" + found
    assert len(theirs) > ENTRIES
    return blobs


# ---- the image itself ---------------------------------------------------------------------


def test_the_image_holds_what_it_is_made_for(real: Real) -> None:
    """The image has the files that the tests below compare, whatever version the tools have."""
    _, second, third = archivelayers.blobs(real.layout, "real")
    names = [_listing(blob, "-t").splitlines() for blob in (second, third)]
    assert {b"etc/.wh.issue.net", b"etc/skel/.wh..wh..opq", b"usr/share/.wh.bug"} <= set(names[0])
    assert {b"var/lib/apt/lists/.wh..wh..opq", b"opt/kinds/.wh.one"} <= set(names[1])
    assert {b"usr/bin/.wh.python3", b"usr/bin/.wh.python3.11"} <= set(names[1])
    details = _listing(second, "-tv")
    for text in (b" link to ", b"rwsr-sr-x", b"2200000/3000000", b"prw-", b"crw-"):
        assert text in details, text
    tar = archivelayers.plain(second)
    for name in (b"security.capability", b"user.note", b"user.binary"):
        assert b"SCHILY.xattr." + name + b"=" in tar, name


def _listing(blob: Path, how: str) -> bytes:
    return run("tar", how, "--numeric-owner", "--quoting-style=literal", "-f", blob).stdout


# ---- forms --------------------------------------------------------------------------------


def test_t22_oci_layout_of_buildah(real: Real, tmp_path: Path) -> None:
    blobs = compare(real, real.layout, tmp_path, "real")
    assert {archivelayers.compression(blob) for blob in blobs} == {"gzip"}


def test_t22_docker_archive_of_skopeo(real: Real, docker_archive: Path, tmp_path: Path) -> None:
    blobs = compare(real, docker_archive, tmp_path)
    assert {archivelayers.compression(blob) for blob in blobs} == {""}


@pytest.mark.parametrize("codec", ["gzip", "zstd"])
def test_t21_oci_archive_of_skopeo(real: Real, tmp_path: Path, codec: str) -> None:
    image = tmp_path / "image.tar"
    skopeo(
        f"oci:{real.layout}:real", f"oci-archive:{image}:real",
        "--dest-compress", "--dest-compress-format", codec,
    )  # fmt: skip
    blobs = compare(real, image, tmp_path, "real")
    assert {archivelayers.compression(blob) for blob in blobs} == {codec}


@pytest.mark.parametrize("form", ["docker-archive", "oci-archive"])
def test_t22_podman_save(real: Real, tmp_path: Path, form: str) -> None:
    image = tmp_path / "image.tar"
    real.buildah.podman("save", "-q", "--format", form, "-o", image, real.name)
    compare(real, image, tmp_path)


def test_t22_umoci_repack(real: Real, tmp_path: Path) -> None:
    """umoci compares trees with its own code: its whiteouts and attributes are not made by us."""
    layout, bundle = tmp_path / "layout", tmp_path / "bundle"
    shutil.copytree(real.layout, layout)
    run("umoci", "unpack", "--image", f"{layout}:real", bundle)
    root = bundle / "rootfs"
    script = """
    set -e
    cd "$1"
    rm -r usr/share/perl5 opt/kinds/deep && mkdir opt/kinds/deep && echo u > opt/kinds/deep/u
    rm etc/issue.net && ln -s issue etc/issue.net
    mv opt/kinds/sticky opt/kinds/moved/ && rm opt/kinds/two
    cp -a usr/bin/env opt/env && ln opt/env opt/env-again && setfattr -n user.u -v 1 opt/env
    chown 9:9 opt/kinds/null && chmod 4711 opt/kinds/setuid
    """
    run("bash", "-c", script, "bash", root)
    run("umoci", "repack", "--image", f"{layout}:umoci", bundle)
    shutil.rmtree(bundle)
    blobs = compare(real, layout, tmp_path, "umoci")
    assert len(blobs) == 4


def test_t22_docker_save(real: Real, docker_archive: Path, tmp_path: Path) -> None:
    """An image that Debian's dockerd loads, extends and saves."""
    image = tmp_path / "saved.tar"
    base, context = tmp_path / "d", tmp_path / "context"
    base.mkdir()
    context.mkdir()
    try:
        with dockerd(base) as docker:
            docker("load", "-q", "-i", docker_archive)
            docker.build("built:1", DOCKERFILE, context)
            docker("save", "-o", image, TAG, "built:1")
    finally:
        shutil.rmtree(base)
    assert len(compare(real, image, tmp_path, "built:1")) == 6
    shutil.rmtree(tmp_path / "files")
    assert len(compare(real, image, tmp_path)) == 3


def test_m_the_mount_shows_what_dump_prints(
    real: Real, docker_archive: Path, tmp_path: Path
) -> None:
    """`dump` prints the tree that a read-only mount shows through the kernel, FUSE and stat(2)."""
    theirs = real.kernel.dump(real.layers)
    with mounted(Command(tmp_path / "dirs"), docker_archive, tmp_path / "m", "--read-only") as at:
        found = differences(dump_directory(at), theirs)
    assert not found, "the mount (ours) and the kernel's overlayfs (theirs):\n" + found
