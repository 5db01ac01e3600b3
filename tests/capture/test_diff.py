"""`imgmount diff`: docker's lines for a mount or a kept upper, and the lines of its errors."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from imagewriter import docker_archive, oci_archive
from mounted import Command, mounted
from oracle import run
from tarwriter import TarWriter
from treediff import tree_diff

TIME = 1_400_000_000_123_456_789


def layers() -> list[bytes]:
    low = TarWriter().dir(".", mtime_ns=TIME)
    for name in ("d", "d/sub", "d/sub/deep", "e", "moved", "moved/in", "etc", "empty", "kind"):
        low.dir(name, mtime_ns=TIME)
    for name in (
        "d/a",
        "d/sub/x",
        "d/sub/deep/y",
        "e/b",
        "e/c",
        "moved/in/f",
        "etc/motd",
        "kind/k",
    ):
        low.file(name, b"lower " + name.encode(), mtime_ns=TIME)
    low.file("etc/passwd", b"root", mtime_ns=TIME).file("plain", b"p", mtime_ns=TIME)
    low.file("one", b"linked", mtime_ns=TIME).hardlink("moved/in/two", "one")
    low.hardlink("e/three", "one").symlink("l", "etc/motd", mtime_ns=TIME)
    top = TarWriter().dir("e", mtime_ns=TIME).whiteout("e/c").file("e/top", b"t", mtime_ns=TIME)
    return [low.tar(), top.tar()]


SCRIPT = """
set -e
rm etc/motd && echo new > etc/new && echo more >> etc/passwd   # the lines of docker's manual
rm -r e && mkdir e && echo again > e/again && echo b > e/b     # opaque
rm -r kind && echo file > kind                                 # a directory becomes a file
rm plain && mkdir plain && touch plain/inside                  # and a file a directory
chmod 700 d/sub/deep && touch -d @1400000001 d/sub/x
mkfifo pipe && mkdir -p new/deep && ln -s nowhere new/deep/link
printf x > "$(printf 'caf\\351')" && printf x > "$(printf 'two\\nlines')"
setfattr -n user.k -v v empty
rm l && ln -s etc/passwd l
"""


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return docker_archive(tmp_path / "image.tar", layers())


@pytest.fixture
def command(tmp_path: Path) -> Command:
    return Command(tmp_path / "dirs")


def lines(command: Command, *words: str | Path) -> list[bytes]:
    """The paths exactly, from --json, as `A /path`."""
    rows = json.loads(command("diff", "--json", *words).stdout)
    return [os.fsencode(f"{row['kind']} {row['path']}") for row in rows]


def change(root: Path, script: str) -> None:
    run("bash", "-c", script, cwd=root)


def test_lines_are_dockers(command: Command, image: Path, tmp_path: Path) -> None:
    with mounted(command, image, tmp_path / "old", "--read-only") as old:
        with mounted(command, image, tmp_path / "mnt") as at:
            change(at, SCRIPT)
            theirs = tree_diff(old, at)
            assert lines(command, at) == theirs
            text = command("diff", at).stdout.splitlines()
    expected = {"C /etc", "A /etc/new", "D /etc/motd", "C /etc/passwd", "D /e/three", "C /kind"}
    assert expected <= set(text) and "A /two\\x0alines" in text and "D /kind/k" not in text


def test_a_renamed_directory_is_added_whole(command: Command, image: Path, tmp_path: Path) -> None:
    with mounted(command, image, tmp_path / "mnt") as at:
        (at / "moved").rename(at / "d" / "here")
        (at / "d" / "here" / "in" / "g").touch()
        assert lines(command, at) == [
            b"C /d", b"A /d/here", b"A /d/here/in", b"A /d/here/in/f", b"A /d/here/in/g",
            b"A /d/here/in/two", b"D /moved",
        ]  # fmt: skip


def test_nothing_changed_is_nothing_printed(command: Command, image: Path, tmp_path: Path) -> None:
    with mounted(command, image, tmp_path / "mnt") as at:
        assert (at / "etc/motd").read_bytes() == b"lower etc/motd"
        assert command("diff", at).stdout == ""


def test_what_the_kernel_still_holds_is_seen(command: Command, image: Path, tmp_path: Path) -> None:
    with mounted(command, image, tmp_path / "mnt") as at:
        with open(at / "etc/new", "wb", buffering=0) as file:
            file.write(b"not closed")
            assert lines(command, at) == [b"C /etc", b"A /etc/new"]


def test_a_kept_upper_knows_its_image(command: Command, image: Path, tmp_path: Path) -> None:
    upper = tmp_path / "upper"
    with mounted(command, image, tmp_path / "mnt", "--upper", upper) as at:
        change(at, SCRIPT)
        theirs = lines(command, at)
        assert lines(command, upper) == theirs  # in use: the same as for its mount
    assert lines(command, upper) == theirs
    elsewhere = tmp_path / "elsewhere.tar"
    image.rename(elsewhere)
    failed = command("diff", upper, check=False)
    assert failed.returncode == 3 and "--base" in failed.stderr
    assert lines(command, upper, "--base", elsewhere) == theirs


def test_a_relative_image_is_found_from_anywhere(image: Path, tmp_path: Path) -> None:
    command, mountpoint = Command(tmp_path / "dirs"), tmp_path / "mnt"
    mountpoint.mkdir()
    words = ["-m", "fusemount", "image.tar", "mnt", "-o", f"upperdir={tmp_path}/u"]
    run(sys.executable, *words, cwd=tmp_path, env=command.environment)
    try:
        (mountpoint / "x").touch()
        assert lines(command, mountpoint) == [b"A /x"]
    finally:
        command("umount", mountpoint)
    assert lines(command, tmp_path / "u") == [b"A /x"]


def test_options_of_the_mount_are_remembered(command: Command, tmp_path: Path) -> None:
    low = TarWriter().dir("usr").dir("usr/bin").symlink("bin", "usr/bin")
    image = oci_archive(tmp_path / "i.tar", [low.tar(), TarWriter().file("bin/tool", b"t").tar()])
    upper = tmp_path / "upper"
    with mounted(
        command, image, tmp_path / "mnt", "--upper", upper, "-o", "symlink-parents=follow"
    ) as at:
        (at / "usr/bin/tool").unlink()
    expected = [b"C /usr", b"C /usr/bin", b"D /usr/bin/tool"]
    assert lines(command, upper) == expected
    os.removexattr(upper, "trusted.overlay.imgmount.base")
    base = ("--base", image, "--symlink-parents")
    assert lines(command, upper, *base, "follow") == expected
    assert lines(command, upper, *base, "replace") != expected


def test_another_image_of_that_name_is_an_error(
    command: Command, image: Path, tmp_path: Path
) -> None:
    upper = tmp_path / "upper"
    with mounted(command, image, tmp_path / "mnt", "--upper", upper) as at:
        (at / "x").touch()
    docker_archive(image, layers()[:1])
    failed = command("diff", upper, check=False)
    assert failed.returncode == 8 and failed.stderr.count("sha256:") == 2
    assert command("diff", upper, "--base", image, check=False).returncode == 8


def test_an_upper_that_says_nothing_wants_base(
    command: Command, image: Path, tmp_path: Path
) -> None:
    upper = tmp_path / "upper"
    upper.mkdir()
    (upper / "x").touch()
    failed = command("diff", upper, check=False)
    assert failed.returncode == 8 and "--base" in failed.stderr and str(upper) in failed.stderr
    assert lines(command, upper, "--base", image)[0].startswith(b"A /x")


@pytest.mark.parametrize("what", ["no", "file", "ro"])
def test_what_is_neither_mount_nor_upper(
    command: Command, image: Path, tmp_path: Path, what: str
) -> None:
    (tmp_path / "file").touch()
    with mounted(command, image, tmp_path / "ro", "--read-only"):
        failed = command("diff", tmp_path / what, check=False)
    assert failed.returncode == (7 if what == "ro" else 8)
    assert str(tmp_path / what) in failed.stderr and failed.stderr.count("\n") == 1


def test_an_upper_of_a_killed_mount(command: Command, image: Path, tmp_path: Path) -> None:
    mountpoint = tmp_path / "mnt"
    mountpoint.mkdir()
    command(image, mountpoint)
    (mount,) = json.loads(command("mounts", "--json").stdout)
    try:
        (mountpoint / "x").write_bytes(b"x")
        os.kill(mount["pid"], 9)
        run("umount", "--lazy", mountpoint)
        assert lines(command, Path(mount["upper"])) == [b"A /x"]
    finally:
        command("umount", "--lazy", mountpoint, check=False)
        shutil.rmtree(mount["scratch"], ignore_errors=True)
