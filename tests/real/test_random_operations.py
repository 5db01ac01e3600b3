"""R 25-40: the same random operations on a mount and on a plain directory, answer by answer.

The plain directory lies on the file system of the temporary directory (ext4 or alike), which is
the oracle.  In the middle of a run, and at its end, the image is mounted again over its upper.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random

import pytest
from imagewriter import docker_archive
from mounted import Command, mounted
from operations import LONG_AGO, Operation, Side, choose
from oracle import differences, dump_directory, overlay, run, unpack
from tarwriter import TarWriter

TIME = 1_400_000_000_123_456_789
OPERATIONS, PER_DUMP = 900, 150


def layers() -> list[bytes]:
    """Something of every kind, under the names that operations use."""
    low = TarWriter().dir(".", mode=0o777, mtime_ns=TIME).dir("d", mode=0o777, mtime_ns=TIME)
    low.file("d/a", b"lower a", mtime_ns=TIME, xattrs={"user.k": b"v"})
    low.dir("d/sub", mtime_ns=TIME).file("d/sub/x", b"deep", mtime_ns=TIME)
    low.dir("d/sub/sub", mtime_ns=TIME).file("d/sub/sub/a", b"deeper", mtime_ns=TIME)
    low.file("f", b"lower f" * 3000, mode=0o644, uid=5, gid=6, mtime_ns=TIME)
    low.file("g", b"lower g" * 700, mode=0o600, uid=1234, gid=1234, mtime_ns=TIME)
    low.file("h1", b"linked", mtime_ns=TIME).hardlink("h2", "h1").hardlink("d/h3", "h1")
    low.symlink("l", "d/a", mtime_ns=TIME).node("p", "fifo", mtime_ns=TIME)
    low.dir("e", mtime_ns=TIME).dir("e/sub", mtime_ns=TIME).file("e/b", b"b", mtime_ns=TIME)
    low.dir("empty", mtime_ns=TIME)
    top = TarWriter().dir(".", mode=0o777, mtime_ns=TIME)
    top.dir("d", mode=0o777, uid=4, mtime_ns=TIME).file("d/b", b"top b", mtime_ns=TIME)
    top.dir("e", mtime_ns=TIME).whiteout("e/sub").symlink("e/l", "./b", mtime_ns=TIME)
    top.dir("many", mtime_ns=TIME)
    for i in range(40):
        top.file(f"many/{i:03}", b"%d" % i, mtime_ns=TIME)
    return [low.tar(), top.tar()]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """The image, and a directory with its tree: copied from the kernel's overlayfs."""
    base = tmp_path_factory.mktemp("random")
    tars = layers()
    unpacked = [unpack(tar, base / f"layer{i}") for i, tar in enumerate(tars)]
    with overlay(unpacked, base / "kernel") as at:
        run("cp", "-a", at, base / "plain")
    yield docker_archive(base / "image.tar", tars), base / "plain"
    run("rm", "-r", base)


def comparable(root: Path) -> list[bytes]:
    """Dump lines; times that no operation set are the clock's."""
    lines = []
    for line in dump_directory(root):
        fields = line.split(b" ")
        if float(fields[6]) >= LONG_AGO / 1e9:
            fields[6] = b"now"
        lines.append(b" ".join(fields))
    return lines


def check(ours: Side, theirs: Side, done: Sequence[Operation], when: str) -> None:
    found = differences(comparable(ours.root), comparable(theirs.root))
    assert not found, f"{when}: the mount (ours), the directory (theirs):\n{found}\n{tail(done)}"


def tail(done: Sequence[Operation]) -> str:
    return "\n".join(f"{operation!r:.120}" for operation in done[-25:])


def perform(ours: Side, theirs: Side, random: Random, count: int) -> list[Operation]:
    done: list[Operation] = []
    for i in range(count):
        done.append(choose(random))
        here, there = ours(done[-1]), theirs(done[-1])
        assert here == there, f"{i}: {here!r:.300} is not {there!r:.300} after\n{tail(done)}"
        if i % PER_DUMP == PER_DUMP - 1:
            check(ours, theirs, done, f"after {i}")
    return done


@pytest.mark.parametrize("seed", range(3))
def test_r33_answers_are_a_local_file_systems(
    image: tuple[Path, Path], tmp_path: Path, fastpath: bool, seed: int
) -> None:
    archive, original = image
    run("cp", "-a", original, tmp_path / "plain")
    theirs, ours = Side(tmp_path / "plain"), Side(tmp_path / "mnt")
    random, command = Random(seed), Command(tmp_path / "dirs", fastpath)
    where = (command, archive, ours.root, "--upper", tmp_path / "upper")
    old_umask = os.umask(0o022)
    try:
        done: list[Operation] = []
        for _ in range(2):
            with mounted(*where):
                check(ours, theirs, done, "mounted")
                done = perform(ours, theirs, random, OPERATIONS // 2)
                check(ours, theirs, done, "before unmounting")
                ours.close_all()
                theirs.close_all()
        with mounted(*where):
            check(ours, theirs, done, "mounted again")
    finally:
        os.umask(old_umask)
        ours.close_all()
        theirs.close_all()
