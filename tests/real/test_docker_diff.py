"""`imgmount diff` and `docker diff` print the same after the same changes by hand."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dockerd import Dockerd, dockerd, plain_image
from imagewriter import docker_archive
from mounted import Command, mounted
from oracle import run
from tarwriter import TarWriter

TIME = 1_400_000_000_123_456_789

SCRIPT = """
set -e
rm etc/motd && echo new > etc/new && echo more >> etc/passwd
rm -r gone && rm -r kind && echo file > kind && rm plain && mkdir plain && touch plain/inside
chmod 700 d/sub/deep && touch -d @1400000001 d/sub/x && chown 7:8 d/b
mkfifo pipe && mkdir -p new/deep && ln -s nowhere new/deep/link && ln one d/four
rm l && ln -s etc/passwd l && printf x > "$(printf 'caf\\303\\251')"
"""


def layers() -> list[bytes]:
    low = TarWriter().dir(".", mtime_ns=TIME)
    for name in ("etc", "d", "d/sub", "d/sub/deep", "gone", "gone/below", "kind", "still"):
        low.dir(name, mtime_ns=TIME)
    for name in ("etc/motd", "etc/passwd", "d/b", "d/sub/x", "d/sub/deep/y", "gone/below/z",
                 "kind/k", "plain", "still/here", "one"):  # fmt: skip
        low.file(name, b"lower " + name.encode(), mtime_ns=TIME)
    top = TarWriter().dir("etc", mtime_ns=TIME).file("etc/top", b"t", mtime_ns=TIME)
    return [low.symlink("l", "etc/motd", mtime_ns=TIME).tar(), top.tar()]


@contextmanager
def container_root(docker: Dockerd, name: str, at: Path) -> Iterator[Path]:
    """Mounts the container's root as docker does at its start; no program needs to run in it."""
    (container,) = json.loads(docker("container", "inspect", name))
    data = container["GraphDriver"]["Data"]
    at.mkdir()
    options = f"lowerdir={data['LowerDir']},upperdir={data['UpperDir']},workdir={data['WorkDir']}"
    run("mount", "-t", "overlay", "overlay", "-o", options, at)
    try:
        yield at
    finally:
        run("umount", at)


def test_the_same_lines(tmp_path: Path) -> None:
    image = docker_archive(tmp_path / "image.tar", layers(), tags=["t:1"])
    command = Command(tmp_path / "dirs")
    with mounted(command, image, tmp_path / "mnt") as at:
        run("bash", "-c", SCRIPT, cwd=at)
        ours = command("diff", at).stdout.splitlines()
    base = tmp_path / "d"
    base.mkdir()
    try:
        with dockerd(base) as docker:
            docker("load", "-q", "-i", plain_image(image, layers(), "t:1"))
            docker("create", "--name", "box", "t:1", "/sh")
            with container_root(docker, "box", tmp_path / "root") as root:
                run("bash", "-c", SCRIPT, cwd=root)
            theirs = docker("diff", "box").splitlines()
    finally:
        shutil.rmtree(base)
    assert ours == sorted(theirs, key=lambda line: line[2:].encode())
