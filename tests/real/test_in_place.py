"""Images that a real docker, podman, buildah and skopeo keep, read where they keep them.

Law: the mounted tree equals the archive that the store's own program saves, and the kernel's
overlayfs over the same directories.  No file of the stores changes.  All daemons have ended before.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from buildahimage import Buildah
from busyboximage import busybox_layers
from dockerd import Dockerd, dockerd, plain_image
from imagewriter import docker_archive
from mounted import Command
from oracle import differences, dump_directory, overlay, run, without_layer
from realregistry import real_registry
from tarwriter import TarWriter

TIME = 1_400_000_000_123_456_789
CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")  # cap_net_raw=ep
NAME = "built:1"
DOCKERFILE = """
FROM base:1
ENV SHOWN=yes
RUN rm -r /d /kind && mkdir /d && echo new > /d/new && mkdir /kind.d && echo k > /kind
RUN mv /moved /here && ln /one /four && rm /plain && mkdir /plain && echo in > /plain/side
RUN echo longer >> /etc/motd && rm /opt/tool && chown 7:8 /one && chmod 4711 /four
LABEL where=here
"""
# a mark of an overlayfs in a user's container; for root's overlayfs it is an ordinary xattr
OTHERS_MARKS = {"user.overlay.opaque": b"y", "user.fuseoverlayfs.opaque": b"y"}


def layers() -> list[bytes]:
    low = TarWriter()
    for name in ("d", "d/sub", "kind", "moved", "moved/in", "opt", "gone", "nested", "nested/d"):
        low.dir(name, mtime_ns=TIME)
    for name in ("d/a", "d/sub/deep", "kind/k", "moved/in/f", "plain", "gone/x", "nested/d/low"):
        low.file(name, b"lower " + name.encode(), mtime_ns=TIME)
    low.file("one", b"linked", mtime_ns=TIME).hardlink("moved/two", "one")
    low.file("opt/capable", b"#", mode=0o755, xattrs={"security.capability": CAPABILITY})
    low.file("opt/tool", b"t" * 70_000, uid=2_200_000, gid=3_000_000, mode=0o6755)
    low.file("tagged", b"", xattrs={"user.note": b"a=b,c", "user.binary": b"\0\xff\n="})
    low.symlink("dangle", "nowhere").node("pipe", "fifo").node("far", "block", (300, 70000))
    low.file("n" * 255, b"long").file(b"caf\xe9", b"latin").file("a b", b"space")
    top = TarWriter().dir("gone", mtime_ns=TIME).opaque("gone").file("gone/y", b"y")
    top.dir("opt", mtime_ns=TIME).dir("d", mtime_ns=TIME).whiteout("d/a").file("opt/top", b"top")
    top.dir("nested", mtime_ns=TIME).dir("nested/d", xattrs=OTHERS_MARKS, mtime_ns=TIME)
    top.file("nested/d/top", b"t", xattrs={"user.overlay.whiteout": b"y"})
    return [*busybox_layers(), low.tar(), top.tar()]


@dataclass
class Kept:
    """An image in a store.

    reference: the name for imgmount.  saved: the archive of the store's own program.  directories:
    the image's layers, lowest first.  inspected: the program's own `image inspect`.  loses_xattrs:
    docker's vfs does not copy user xattrs from layer to layer."""

    root: Path
    reference: str
    saved: str
    directories: list[Path]
    inspected: dict[str, Any]
    more: dict[str, Any] = field(default_factory=dict)
    loses_xattrs: bool = False


def listing(root: Path) -> list[tuple[Any, ...]]:
    """All files below root with their attributes, without atimes, which may change."""
    found = []
    for here, directories, files in os.walk(root):
        for name in [".", *directories, *files]:
            st = os.lstat(os.path.join(here, name))
            what = (st.st_ino, st.st_mode, st.st_size, st.st_nlink)
            found.append((here, name, *what, st.st_mtime_ns, st.st_ctime_ns))
    return sorted(found)


def build(docker: Dockerd, base: Path) -> None:
    docker("load", "-q", "-i", plain_image(base / "base.tar", layers(), "base:1"))
    (base / "context").mkdir()
    docker.build(NAME, DOCKERFILE, base / "context")
    docker("save", "-o", base / "saved.tar", NAME)


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Command:
    return Command(tmp_path_factory.mktemp("dirs"))


@pytest.fixture(scope="module")
def docker(tmp_path_factory: pytest.TempPathFactory, command: Command) -> Iterator[Kept]:
    """docker with overlay2; the image has several names, and a repo digest of a real registry."""
    base = tmp_path_factory.mktemp("d")
    try:
        (base / "registry").mkdir()
        with real_registry(base / "registry") as registry, dockerd(base) as daemon:
            host = registry.domain
            build(daemon, base)
            daemon("tag", NAME, f"{host}/team/app:2")
            daemon("push", "-q", f"{host}/team/app:2")
            daemon("tag", NAME, "also:latest")
            daemon("tag", "base:1", "localhost/also:latest")
            daemon("create", "--name", "box", NAME, "/bin/sh")
            (inspected,) = json.loads(daemon("image", "inspect", NAME))
            rows = daemon("history", "--no-trunc", "--human=false", "--format",
                          "{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}", NAME)  # fmt: skip
            reference = f"docker:[{base}/data]{NAME}"
            while_it_runs = dump(command, reference)
        data = inspected["GraphDriver"]["Data"]
        assert inspected["GraphDriver"]["Name"] == "overlay2"
        stacked = [Path(d) for d in (data["UpperDir"], *data["LowerDir"].split(":"))]
        yield Kept(
            base / "data", reference, f"docker-archive:{base}/saved.tar", stacked[::-1], inspected,
            {"while it runs": while_it_runs, "history": rows, "app": f"{host}/team/app:2"},
        )  # fmt: skip
    finally:
        shutil.rmtree(base)


@pytest.fixture(scope="module")
def docker_vfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kept]:
    base = tmp_path_factory.mktemp("v")
    try:
        with dockerd(base, "--storage-driver=vfs") as daemon:
            build(daemon, base)
            (inspected,) = json.loads(daemon("image", "inspect", NAME))
        reference = f"docker:[{base}/data]{NAME}"
        saved = f"docker-archive:{base}/saved.tar"
        yield Kept(base / "data", reference, saved, [], inspected, loses_xattrs=True)
    finally:
        shutil.rmtree(base)


BY_HAND = """
set -e
cd "$1"
rm -r d kind && mkdir d && echo new > d/new && echo k > kind && mv moved here
ln one four && rm plain && mkdir plain && echo in > plain/side && setcap cap_net_raw+ep opt/tool
echo longer >> etc/motd && chown 7:8 one && chmod 4711 four && setfattr -n user.x -v 1 opt
"""


def containers(base: Path, driver: str) -> Kept:
    archive = docker_archive(base / "base.tar", layers(), tags=["base:1"])
    words = f"[{driver}@{base}/root+{base}/run]"
    run("skopeo", "--insecure-policy", "copy", "-q", f"docker-archive:{archive}",
        f"containers-storage:{words}localhost/base:1")  # fmt: skip
    tool = Buildah(base, driver)
    try:
        with tool.container("localhost/base:1", "localhost/built:1") as box:
            tool.by_hand(box, BY_HAND)
        tool("tag", "localhost/built:1", "quay.io/team/app:2")
        (inspected,) = json.loads(tool.podman("image", "inspect", "localhost/built:1"))
        saved = base / "saved.tar"
        tool.podman("save", "-q", "--format", "docker-archive", "-o", saved, "localhost/built:1")
        data = inspected["GraphDriver"]["Data"]
        stacked = [data["UpperDir"], *data.get("LowerDir", "").split(":")] if data else []
    finally:
        subprocess.run(["umount", base / "root" / driver], capture_output=True, timeout=20)
    reference = f"containers-storage:{words}built:1"
    dirs = [Path(each) for each in stacked[::-1] if each]
    return Kept(base / "root", reference, f"docker-archive:{saved}", dirs, inspected)


@pytest.fixture(scope="module")
def podman_overlay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kept]:
    base = tmp_path_factory.mktemp("c")
    yield containers(base, "overlay")
    shutil.rmtree(base)


@pytest.fixture(scope="module")
def podman_vfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kept]:
    base = tmp_path_factory.mktemp("c")
    yield containers(base, "vfs")
    shutil.rmtree(base)


@pytest.fixture(params=["podman_overlay", "podman_vfs"])
def podman(request: pytest.FixtureRequest) -> Kept:
    found: Kept = request.getfixturevalue(request.param)
    return found


@pytest.fixture(params=["docker", "docker_vfs", "podman_overlay", "podman_vfs"])
def kept(request: pytest.FixtureRequest) -> Iterator[Kept]:
    """Each store in turn; it must be unchanged afterwards."""
    found: Kept = request.getfixturevalue(request.param)
    before = listing(found.root)
    yield found
    assert listing(found.root) == before


def dump(command: Command, reference: str) -> list[bytes]:
    dumped = command("dump", "--digest", reference).stdout
    return without_layer(dumped.encode(errors="surrogateescape").splitlines())


@contextmanager
def mounted(command: Command, reference: str, at: Path, *options: str | Path) -> Iterator[Path]:
    at.mkdir()
    command(reference, at, *options)
    try:
        yield at
    finally:
        command("umount", at)


def without_xattrs(lines: Sequence[bytes]) -> list[bytes]:
    return [re.sub(rb" user\.\S*", b" -", line) for line in lines]


def but_root(lines: Sequence[bytes]) -> list[bytes]:
    """The lines without the root's, the first: no store keeps the mode and the time of a root."""
    return list(lines[1:])


# ---- what is shown ------------------------------------------------------------------------


def test_the_archive_that_their_own_program_saves(kept: Kept, command: Command) -> None:
    ours, theirs = dump(command, kept.reference), dump(command, kept.saved)
    if kept.loses_xattrs:
        theirs = without_xattrs(theirs)
    found = differences(but_root(ours), but_root(theirs))
    assert not found, "in place (ours) and as saved (theirs):\n" + found
    text = b"\n".join(ours)
    xattrs = () if kept.loses_xattrs else (b"user.note", b"user.overlay.opaque")
    for line in (b"security.capability", b"/here/in/f ", b"/d/new ", b"/gone/y ",
                 b"/nested/d/low ", *xattrs):  # fmt: skip
        assert line in text, line
    assert not any(gone in text for gone in (b"/d/a ", b"/gone/x ", b"/moved", b"/kind/k "))


def test_the_kernels_overlayfs(docker: Kept, command: Command, tmp_path: Path) -> None:
    with overlay(docker.directories, tmp_path / "kernel") as at:
        theirs = dump_directory(at)
    assert not differences(dump(command, docker.reference), theirs)
    assert not differences(docker.more["while it runs"], theirs)
    with mounted(command, docker.reference, tmp_path / "m", "--read-only") as at:
        assert not differences(dump_directory(at), theirs)
        (record,) = json.loads(command("mounts", "--json").stdout)
        assert record["image"] == docker.reference


def test_the_kernels_overlayfs_over_podmans(
    podman_overlay: Kept, command: Command, tmp_path: Path
) -> None:
    with overlay(podman_overlay.directories, tmp_path / "kernel") as at:
        theirs = dump_directory(at)
    with mounted(command, podman_overlay.reference, tmp_path / "m", "--read-only") as at:
        assert not differences(dump_directory(at), theirs)


def test_dockers_fuse_overlayfs(tmp_path_factory: pytest.TempPathFactory, command: Command) -> None:
    base = tmp_path_factory.mktemp("f")
    try:
        with dockerd(base, "--storage-driver=fuse-overlayfs") as daemon:
            build(daemon, base)
        ours = dump(command, f"docker:[{base}/data]{NAME}")
        theirs = dump(command, f"docker-archive:{base}/saved.tar")
        assert not differences(but_root(ours), but_root(theirs))
        assert (base / "data/fuse-overlayfs").exists()
    finally:
        shutil.rmtree(base)


# ---- what inspect prints ------------------------------------------------------------------


def test_docker_inspect_and_history(docker: Kept, command: Command) -> None:
    (ours,) = json.loads(command("inspect", docker.reference).stdout)
    for key in ("Id", "RepoTags", "RepoDigests", "RootFS", "Created", "Architecture", "Os", "Size",
                "Author", "Comment", "DockerVersion"):  # fmt: skip
        assert ours[key] == docker.inspected[key], key
    assert len(ours["RepoDigests"]) == 1 and len(ours["RepoTags"]) == 3
    theirs = docker.inspected["Config"]
    assert {k: ours["Config"].get(k) for k in theirs} == theirs
    rows = json.loads(command("history", "--json", docker.reference).stdout)
    history = [f"{row['created_by']}\t{row['size']}\t{row['comment']}" for row in rows]
    assert "\n".join(history).strip() == docker.more["history"]


def test_podman_inspect(podman: Kept, command: Command) -> None:
    (ours,) = json.loads(command("inspect", podman.reference).stdout)
    assert ours["Id"] == f"sha256:{podman.inspected['Id']}"
    for key in ("RepoTags", "RepoDigests", "RootFS", "Created", "Architecture", "Os"):
        theirs = podman.inspected[key]
        assert (sorted(ours[key]) if key == "RepoDigests" else ours[key]) == (
            sorted(theirs) if key == "RepoDigests" else theirs
        ), key
    assert {k: ours["Config"].get(k) for k in podman.inspected["Config"]} == podman.inspected[
        "Config"
    ]
    assert len(json.loads(command("history", "--json", podman.reference).stdout)) > 1


def ident(command: Command, reference: str) -> str:
    (found,) = json.loads(command("inspect", reference).stdout)
    return str(found["Id"])


def test_docker_names(docker: Kept, command: Command) -> None:
    store, own = f"docker:[{docker.root}]", docker.inspected["Id"]
    digest = docker.inspected["RepoDigests"][0]
    for name in (own, own[7:], own[7:19], digest, "also", "docker.io/library/built:1",
                 docker.more["app"]):  # fmt: skip
        assert ident(command, store + name) == own
    assert ident(command, f"docker:[overlay2@{docker.root}]{NAME}") == own
    assert ident(command, f"{store}localhost/also") != own
    for name, why in (("", "which image? Give one as docker:NAME: "), ("no:1", "no image 'no:1'")):
        done = command("inspect", store + name, check=False)
        assert done.returncode == 3 and done.stderr.count("\n") == 1
        assert why in done.stderr and "base:1" in done.stderr and "built:1" in done.stderr


def test_podman_names(podman: Kept, command: Command) -> None:
    store, own = podman.reference.removesuffix("built:1"), podman.inspected["Id"]
    for name in (own, own[:12], f"@{own}", f"built@{own}", podman.inspected["RepoDigests"][0],
                 "quay.io/team/app:2"):  # fmt: skip
        assert ident(command, store + name) == f"sha256:{own}"
    done = command("inspect", f"{store}nope", check=False)
    assert done.returncode == 3 and "localhost/built:1" in done.stderr


# ---- what is done -------------------------------------------------------------------------


def test_run(kept: Kept, command: Command) -> None:
    done = command("run", kept.reference, "/bin/sh", "-c", "cat /etc/motd; touch /x; cat /d/new")
    assert done.stdout == "hello\nlonger\nnew\n"


def test_copy(kept: Kept, command: Command, tmp_path: Path) -> None:
    """A copy into the store, and from there into an archive, has the same image ID and layers."""
    command("copy", kept.reference, "copied:1")
    command("copy", kept.reference, f"docker-archive:{tmp_path}/copy.tar:copied:1")
    for copied in ("copied:1", f"{tmp_path}/copy.tar"):
        (image,) = json.loads(command("inspect", copied).stdout)
        assert image["Id"] == ident(command, kept.reference)
        assert image["RootFS"] == kept.inspected["RootFS"] and image["RepoTags"] == ["copied:1"]
        assert not differences(dump(command, copied), dump(command, kept.saved))
    done = command("copy", "copied:1", "docker:copied:1", check=False)
    assert done.returncode == 2 and "never written" in done.stderr


@pytest.mark.parametrize("form", ["docker-archive", "oci-archive"])
def test_diff_and_commit(kept: Kept, command: Command, tmp_path: Path, form: str) -> None:
    """The lower layers of the committed image have the bytes of the store's, by their diff_ids."""
    with mounted(command, kept.reference, tmp_path / "m", "--upper", tmp_path / "upper") as at:
        os.remove(at / "one")
        (at / "d/more").write_text("more\n")
        changes = command("diff", at).stdout.splitlines()
        assert changes == ["C /d", "A /d/more", "D /one"]
        before = dump_directory(at)
    new = tmp_path / "new.tar"
    # Without --base, the upper's mark names the base.
    base = ("--base", kept.reference) if form == "oci-archive" else ()
    command("commit", *base, tmp_path / "upper", "new:1", "-o", f"{form}:{new}")
    (image,) = json.loads(command("inspect", new).stdout)
    assert image["RootFS"]["Layers"][:-1] == kept.inspected["RootFS"]["Layers"]
    after = dump(command, str(new))
    if kept.loses_xattrs:  # in the trees of vfs, not in the layers
        after = without_xattrs(after)
    found = differences(but_root(after), but_root(before))
    assert not found, found
