"""`imgmount export` and `imgmount diff IMAGE IMAGE`, compared with GNU tar and with a mount."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from imagewriter import docker_archive
from mounted import Command, mounted
from oracle import differences, dump_directory, unpack
from tarwriter import TarWriter

TIME = 1_600_000_000_123_456_789


def base() -> list[bytes]:
    low = TarWriter().dir(".", mode=0o751, mtime_ns=TIME).dir("d", mtime_ns=TIME)
    low.file("d/gone", b"1", mtime_ns=TIME).file("h1", b"linked", mtime_ns=TIME, mode=0o4755)
    low.hardlink("d/h2", "h1").symlink("l", "d/x", mtime_ns=TIME).node("p", "fifo", mtime_ns=TIME)
    low.file("x", b"xattrs", mtime_ns=TIME, xattrs={"user.k": b"v\0w"})
    low.dir("tree", mtime_ns=TIME).dir("tree/below", mtime_ns=TIME)
    low.file("tree/below/f", b"", mtime_ns=TIME).file("same", b"s" * 3000, mtime_ns=TIME)
    top = TarWriter().dir("d", mtime_ns=TIME).whiteout("d/gone").file("d/new", b"2", mtime_ns=TIME)
    return [low.tar(), top.tar()]


@pytest.fixture
def command(tmp_path: Path) -> Command:
    return Command(tmp_path / "dirs", True)


def test_export_is_what_the_mount_shows(command: Command, tmp_path: Path) -> None:
    image = docker_archive(tmp_path / "image.tar", base(), tags=("a:1",))
    upper = tmp_path / "upper"
    with mounted(command, image, tmp_path / "mnt", "--upper", upper) as at:
        untouched = dump_directory(at)
        command("export", image, "-o", tmp_path / "image.out")
        (at / "d/mine").write_bytes(b"mine")
        os.remove(at / "same")
        command("export", at, "-o", tmp_path / "mount.out")
        changed = dump_directory(at)
    command("export", upper, "-o", tmp_path / "upper.out")
    assert (tmp_path / "upper.out").read_bytes() == (tmp_path / "mount.out").read_bytes()
    for name, wanted in (("image", untouched), ("mount", changed)):
        tree = unpack((tmp_path / f"{name}.out").read_bytes(), tmp_path / name)
        assert not (found := differences(dump_directory(tree), wanted)), found


def test_export_to_places_that_cannot_be(command: Command, tmp_path: Path) -> None:
    image = docker_archive(tmp_path / "image.tar", base(), tags=("a:1",))
    command("export", image, "-o", tmp_path / "out")
    for place in (tmp_path, tmp_path / "not/there"):
        done = command("export", image, "-o", place, check=False)
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1
    assert sorted(os.listdir(tmp_path)) == ["dirs", "image.tar", "out"]


def test_diff_of_two_images(command: Command, tmp_path: Path) -> None:
    old = docker_archive(tmp_path / "old.tar", base(), tags=("a:1",))
    low, top = base()
    more = TarWriter().dir("tree", mtime_ns=TIME).whiteout("tree/below").file("tree/t", b"t")
    more.file("h1", b"linkeD", mtime_ns=TIME, mode=0o4755).dir("l", mtime_ns=TIME)
    more.file("l/in", b"").file("x", b"xattrs", mtime_ns=TIME, xattrs={"user.k": b"v"})
    more.dir("a-new", mtime_ns=TIME).file("a-new/f", b"")
    new = docker_archive(tmp_path / "new.tar", [low, top, more.tar()], tags=("b:1",))
    assert command("diff", old, new).stdout.splitlines() == [
        "A /a-new", "A /a-new/f", "C /h1", "C /l", "A /l/in", "C /tree", "D /tree/below",
        "A /tree/t", "C /x",
    ]  # fmt: skip
    assert command("diff", new, old).stdout.splitlines() == [
        "D /a-new", "C /h1", "C /l", "C /tree", "A /tree/below", "A /tree/below/f", "D /tree/t",
        "C /x",
    ]  # fmt: skip


def test_one_tree_of_other_layers_does_not_differ(command: Command, tmp_path: Path) -> None:
    """The same files in one layer: contents are compared, not layers."""
    image = docker_archive(tmp_path / "image.tar", base(), tags=("a:1",))
    command("export", image, "-o", tmp_path / "flat.tar")
    assert command("diff", image, tmp_path / "flat.tar").stdout == ""
    with mounted(command, tmp_path / "flat.tar", tmp_path / "mnt") as at:
        subprocess.run(["touch", "-d", "2001-01-01", at / "same"], check=True)
        command("export", at, "-o", tmp_path / "touched.tar")
    assert command("diff", image, tmp_path / "touched.tar").stdout == "C /same\n"
