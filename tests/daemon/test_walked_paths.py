"""Uppers and mountpoints below a directory of another user, who cannot lead us to other ones."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
from imagewriter import docker_archive
from mounted import Command, mounted
from tarwriter import TarWriter

from fusemount.daemon.upperdirs import NewDirs, open_upper
from fusemount.rootfs.upper import Upper
from fusemount.settings import Directories, MountOptions
from fusemount.walk import open_found, open_walked

STRANGER = 65533


def test_the_path_is_walked(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    os.symlink("a/../a/b", tmp_path / "relative")
    os.symlink(tmp_path / "relative/new", tmp_path / "absolute")
    for path, is_new in ((tmp_path / "absolute", True), (tmp_path / "a/./b/../b/new", False)):
        place, fd, made = open_walked(path, make=True)
        assert (place, made) == (tmp_path / "a/b/new", is_new)
        assert os.path.samestat(os.fstat(fd), place.stat())
        os.close(fd)
    (tmp_path / "file").write_text("")
    os.symlink("loop", tmp_path / "loop")
    for name, why in (
        ("file", errno.ENOTDIR),
        ("file/new", errno.ENOTDIR),
        ("none/new", errno.ENOENT),
        ("loop", errno.ELOOP),
    ):
        with pytest.raises(OSError) as caught:
            open_walked(tmp_path / name, make=True)
        assert caught.value.errno == why
    for name, found in (("relative/none/../new", "a/b/new"), ("file/new", "file/new")):
        assert open_found(tmp_path / name) == (tmp_path / found, -1)


@pytest.mark.parametrize("at", ["home/chg", "home/dir/chg"])
def test_a_strangers_symlink_is_refused(tmp_path: Path, at: str) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "victim/chg").mkdir(parents=True)
    link = tmp_path / "/".join(at.split("/")[:2])
    os.symlink(tmp_path / "victim", link)
    os.chown(link, STRANGER, STRANGER, follow_symlinks=False)
    walks: list[Callable[[Path], object]] = [partial(open_walked, make=True), open_found]
    for walk in walks:
        with pytest.raises(OSError, match=f"{link} is a symlink of uid {STRANGER}: it is not fol"):
            walk(tmp_path / at)


def test_what_is_swapped_later_is_not_the_upper(tmp_path: Path) -> None:
    (tmp_path / "victim").mkdir(mode=0o700)
    path, fd, _ = open_walked(tmp_path / "chg", make=True)
    was = os.fstat(fd)
    os.rename(path, tmp_path / "old")
    os.symlink(tmp_path / "victim", path)
    upper = Upper(path, tmp_path / "work", at=fd)
    assert os.path.samestat(os.fstat(upper.fd), was)
    upper.close()
    os.close(fd)


def test_a_work_directory_is_a_name_in_a_directory(tmp_path: Path) -> None:
    """After the walk, the owner of the directory above replaces it by a link to one of root's."""
    (tmp_path / "victim/w/work").mkdir(parents=True, mode=0o700)
    (tmp_path / "victim/w/work/kept").write_text("")
    (tmp_path / "home").mkdir()
    with ExitStack() as stack:
        made = NewDirs()
        stack.callback(made.remove)
        directories = Directories(tmp_path / "c", tmp_path / "s", tmp_path / "r")
        asked = MountOptions(upper=tmp_path / "upper", work=tmp_path / "home/w")
        places = open_upper(asked, directories, stack, made)
        assert places.upper and places.work == tmp_path / "home/w"
        os.rename(tmp_path / "home", tmp_path / "moved")
        os.symlink(tmp_path / "victim", tmp_path / "home")
        Upper(places.upper, places.work, at=places.upper_fd, work_above=places.work_above).close()
        assert (tmp_path / "moved/w/work").is_dir()
    assert os.listdir(tmp_path / "victim/w/work") == ["kept"]
    assert os.listdir(tmp_path / "moved") == [] and not (tmp_path / "upper").exists()


@pytest.mark.parametrize("verb", ["mount", "diff", "commit", "export"])
def test_the_command_follows_no_strangers_symlink(tmp_path: Path, verb: str) -> None:
    for path in ("home", "victim/chg", "mnt", "base", "upper"):
        (tmp_path / path).mkdir(parents=True)
    link = tmp_path / "home/link"
    os.symlink(tmp_path / "victim", link)
    os.chown(link, STRANGER, STRANGER, follow_symlinks=False)
    base, upper, out = f"dir:{tmp_path / 'base'}", link / "chg", tmp_path / "out"
    lines: dict[str, list[str | Path]] = {
        "mount": [base, tmp_path / "mnt", "--upper", tmp_path / "upper", "--work", upper],
        "diff": ["diff", "--base", base, upper],
        "commit": ["commit", "--base", base, upper, "t", "-o", out],
        "export": ["export", "--base", base, upper, "-o", out],
    }
    done = Command(tmp_path / "dirs")(*lines[verb], check=False)
    assert done.returncode == 8, done.stderr
    assert done.stderr.endswith(f"{link} is a symlink of uid {STRANGER}: it is not followed\n")
    assert not out.exists() and os.listdir(tmp_path / "victim") == ["chg"]


def test_no_verb_for_a_mount_follows_a_strangers_symlink(tmp_path: Path) -> None:
    """Root's own is followed, as mount(8) and umount(8) follow it."""
    for path in ("base/etc", "home", "victim/empty", "mnt"):
        (tmp_path / path).mkdir(parents=True)
    base, out, command = f"dir:{tmp_path / 'base'}", tmp_path / "out", Command(tmp_path / "dirs")
    link, last = tmp_path / "home/link", tmp_path / "home/last"
    os.symlink(tmp_path, link)
    os.symlink(tmp_path / "mnt", last)
    for each in (link, last):
        os.chown(each, STRANGER, STRANGER, follow_symlinks=False)
    lines: list[tuple[int, list[str | Path]]] = [
        (7, [base, link / "victim/empty"]),
        (7, [base, last]),
        *((7, ["umount", *words, at]) for at in (link / "mnt", last)
          for words in ([], ["--force"], ["--lazy"])),
        (7, ["-o", "remount,ro", base, last]),
        (7, ["stats", last]),
        (8, ["diff", last]),
        (8, ["commit", last, "t", "-o", out]),
        (8, ["export", last, "-o", out]),
    ]  # fmt: skip
    os.symlink(tmp_path / "mnt", tmp_path / "ours")
    with mounted(command, base, tmp_path / "ours"):
        (tmp_path / "mnt/new").write_text("")
        for code, words in lines:
            done = command(*words, check=False)
            assert (done.returncode, done.stderr.count("\n")) == (code, 1), (words, done.stderr)
            assert f" is a symlink of uid {STRANGER}: it is not followed\n" in done.stderr
        (tmp_path / "mnt/etc/still-writable").write_text("")
        assert "still-writable" in command("diff", tmp_path / "ours").stdout
    assert not out.exists() and not os.listdir(tmp_path / "victim/empty")
    assert not os.listdir(tmp_path / "mnt")


def test_whose_directory_takes_on_the_roots_owner(tmp_path: Path) -> None:
    """Root's directories do, and with sudo those that a user made in a directory of their own."""
    tar = TarWriter().dir(".", uid=7, gid=8, mode=0o751)
    archive = docker_archive(tmp_path / "image.tar", [tar.tar()])
    command = Command(tmp_path / "dirs")
    for name in ("ours", "home", "home/theirs", "strangers", "mnt"):
        (tmp_path / name).mkdir()
    for name in ("home", "home/theirs", "strangers"):
        os.chown(tmp_path / name, STRANGER, STRANGER)
    for name, owner in (("ours", 7), ("home/theirs", 7), ("strangers", STRANGER)):
        command(archive, tmp_path / "mnt", "--upper", tmp_path / name)
        try:
            assert (tmp_path / "mnt").stat().st_uid == owner
        finally:
            command("umount", tmp_path / "mnt")
        assert (tmp_path / name).stat().st_uid == owner
