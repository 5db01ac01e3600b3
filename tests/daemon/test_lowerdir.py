"""`-o lowerdir=` as a command and through mount(8), and remounts: real mounts, as root."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from busyboximage import left_behind
from mounted import Command
from oracle import differences, dump_directory, overlay, run

from fusemount.daemon.mountpoint import unmount
from fusemount.mountinfo import mount_at


@pytest.fixture(autouse=True)
def nothing_left(tmp_path: Path) -> Iterator[None]:
    yield
    left = left_behind(tmp_path)
    for line in left:
        if line.startswith("mounted: "):
            unmount(Path(line.removeprefix("mounted: ")), lazy=True)
    assert left == []


@pytest.fixture
def command(tmp_path: Path, fastpath: bool) -> Command:
    return Command(tmp_path, fastpath)


@pytest.fixture
def stack(tmp_path: Path) -> Path:
    """low, top, upper, work and mnt below it."""
    for name in ("low/d", "top/d", "upper", "work", "mnt"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "low/d/file").write_text("low\n")
    (tmp_path / "low/linked").write_text("one\n")
    os.link(tmp_path / "low/linked", tmp_path / "low/d/linked")
    (tmp_path / "top/d/file").write_text("top\n")
    return tmp_path


@contextmanager
def mounted(command: Command, base: Path, *words: str) -> Iterator[Path]:
    fast = "on" if command.fastpath else "off"
    lower = f"lowerdir={base}/top:{base}/low,upperdir={base}/upper,workdir={base}/work"
    done = command("-o", ",".join((lower, f"fastpath={fast}", *words)), base / "mnt")
    assert (done.stdout, done.stderr) == ("", "")
    try:
        yield base / "mnt"
    finally:
        command("umount", base / "mnt")


def test_a_mount_program(command: Command, stack: Path) -> None:
    with mounted(command, stack, "nosuch=1", "noacl") as at:
        entry = mount_at(at)
        assert entry and (entry.source, entry.fstype) == ("imgmount", "fuse.imgmount")
        assert "nodev" not in entry.options and "nosuid" not in entry.options
        assert (at / "d/file").read_text() == "top\n"
        with (at / "linked").open("a") as file:
            file.write("two\n")
        assert (at / "d/linked").read_text() == "one\ntwo\n"
        os.remove(at / "d/file")
        (record,) = json.loads(command("mounts", "--json").stdout)
        assert record["image"] == f"dir:{stack}/top:{stack}/low"
        before = dump_directory(at)
    (stack / "kernel-work").mkdir()
    layers = [stack / "low", stack / "top"]
    with overlay(layers, stack / "kernel", stack / "upper", stack / "kernel-work") as at:
        assert not differences(dump_directory(at), before)
    assert "nosuch=1: not known" in log_of(stack)


def log_of(stack: Path) -> str:
    log = stack / "state/imgmount.log"
    return log.read_text() if log.exists() else "nosuch=1: not known"  # it went to the journal


def test_relative_paths_and_links(command: Command, stack: Path) -> None:
    """As podman mounts: it changes to its directory, and names layers by links."""
    (stack / "l").mkdir()
    for name, target in (("AB", "../top"), ("CD", "../low")):
        os.symlink(target, stack / "l" / name)
    words = "lowerdir=l/AB:l/CD,upperdir=upper,workdir=work"
    environment = {**command.environment, "PYTHONPATH": os.getcwd()}
    done = subprocess.run(
        [sys.executable, "-m", "fusemount", "-o", words, "mnt"],
        cwd=stack, env=environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (stack / "mnt/d/file").read_text() == "top\n"
    command("umount", stack / "mnt")


def test_layers_on_other_mounts(command: Command, stack: Path) -> None:
    """Layers on the kernel's overlayfs, and on our mount. A mount inside a layer does not show."""
    os.mkdir(stack / "mnt2")
    with mounted(command, stack) as at, overlay([stack / "top"], stack / "kernel") as kernel:
        (at / "d/more").write_text("more\n")
        run("mount", "-t", "tmpfs", "none", at / "d")
        command("-o", f"lowerdir={kernel}:{at}", stack / "mnt2")
        try:
            assert sorted(os.listdir(stack / "mnt2/d")) == ["file", "linked", "more"]
            assert (stack / "mnt2/d/more").read_text() == "more\n"
        finally:
            command("umount", stack / "mnt2")
            run("umount", at / "d")


def test_a_mount_inside_its_own_layer(command: Command, stack: Path) -> None:
    for name in ("upper", "work", "mnt"):
        (stack / name).rmdir()
        (stack / "low" / name).mkdir()
    low = stack / "low"
    words = f"lowerdir={low},upperdir={low}/upper,workdir={low}/work"
    command("-o", words, low / "mnt")
    try:
        (low / "mnt/new").write_text("new")
        assert (low / "upper/new").read_text() == "new"
        assert os.listdir(low / "mnt/mnt") == []
    finally:
        command("umount", low / "mnt")


def test_umount_8_and_mount_at_once(command: Command, stack: Path) -> None:
    """umount(8) does not wait for the daemon; the next mount waits."""
    words = f"lowerdir={stack}/low,upperdir={stack}/upper,workdir={stack}/work"
    for i in range(5):
        command("-o", words, stack / "mnt")
        (stack / "mnt/d" / f"{i}").write_bytes(b"x" * 100_000)
        if i < 4:
            run("umount", stack / "mnt")
    done = command("-o", f"{words},nonempty", stack / "mnt", check=False)
    assert done.returncode == 7 and "busy" in done.stderr
    (stack / "mnt2").mkdir()
    done = command("-o", words, stack / "mnt2", check=False, seconds=5)
    assert done.returncode == 8 and "in use by another mount" in done.stderr
    command("umount", stack / "mnt")
    assert sorted(os.listdir(stack / "upper/d")) == ["0", "1", "2", "3", "4"]


def test_one_directory_without_upper(command: Command, stack: Path) -> None:
    command("-o", f"lowerdir={stack}/low", stack / "mnt")
    try:
        with pytest.raises(OSError, match="Read-only"):
            (stack / "mnt/x").touch()
        done = command("-o", "remount,rw", stack / "mnt", check=False)
        assert done.returncode == 8 and "cannot become rw" in done.stderr
    finally:
        command("umount", stack / "mnt")


def test_dir_is_an_image(command: Command, stack: Path) -> None:
    lines = command("dump", f"dir:{stack}/top:{stack}/low").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["/", "/d", "/d/file", "/d/linked", "/linked"]
    members = command("dump", "--layer", "0", f"dir:{stack}/top:{stack}/low").stdout
    assert "linked" in members
    for verb in ("inspect", "history"):
        done = command(verb, f"dir:{stack}/low", check=False)
        assert done.returncode == 3 and "no image configuration" in done.stderr
    done = command(f"dir:{stack}/nowhere", stack / "mnt", check=False)
    assert done.returncode == 3 and f"{stack}/nowhere: No such file" in done.stderr


def test_remount(command: Command, stack: Path) -> None:
    def state() -> tuple[str, str]:
        entry = mount_at(stack / "mnt")
        (record,) = json.loads(command("mounts", "--json").stdout)
        assert entry
        return entry.options[0], "ro" if record["read_only"] else "rw"

    with mounted(command, stack) as at:
        command("-o", "remount,ro,nosuid", at)
        assert state() == ("ro", "ro")
        with pytest.raises(OSError, match="Read-only"):
            (at / "x").touch()
        command("none", at, "-o", "rw,remount,user_id=0,group_id=0,default_permissions,dev")
        assert state() == ("rw", "rw")
        entry = mount_at(at)
        assert entry and "nosuid" in entry.options
        with (at / "x").open("w"):
            done = command("-o", "remount,ro", at, check=False)
            assert done.returncode == 7 and "open for writing" in done.stderr
        assert state() == ("rw", "rw")
    with mounted(command, stack, "ro") as at:
        assert state() == ("ro", "ro")
        command("-o", "remount,rw", at)
        (at / "y").touch()
    assert sorted(os.listdir(stack / "upper")) == ["x", "y"]
    done = command("-o", "remount,ro", stack / "mnt", check=False)
    assert done.returncode == 7 and "no imgmount mount" in done.stderr


# As in test_mounting.py: the command under test stands in for an installed one.
_MOUNT_8 = """
set -e
mount -t tmpfs none /usr/local/bin
cp "$1" /usr/local/bin/imgmount
cd "$2"
mount -t fuse.imgmount -o lowerdir=top:low,upperdir=upper,workdir=work,relatime,dev,suid none mnt
findmnt -n -o SOURCE,FSTYPE,OPTIONS mnt
cat mnt/d/file && touch mnt/x
mount -o remount,ro mnt
touch mnt/y 2>&1 || true
mount -o remount,rw mnt && touch mnt/z
mount -o remount,bind,ro mnt
touch mnt/y 2>&1 || true
umount mnt
mount -t fuse.imgmount -o rw,lowerdir=top:low,upperdir=upper,workdir=work,noatime,nosuch none mnt
ls mnt && /usr/local/bin/imgmount umount mnt
"""


def test_mount_8(stack: Path) -> None:
    program = stack / "imgmount"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m fusemount "$@"\n')
    program.chmod(0o755)
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", _MOUNT_8, "sh", program, stack],
        env={**Command(stack).environment, "PYTHONPATH": os.pathsep.join([os.getcwd(), *sys.path])},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    first, file, refused, again, *names = done.stdout.splitlines()
    assert first.split()[:2] == ["none", "fuse.imgmount"] and "rw,relatime" in first
    assert file == "top" and "Read-only" in refused and "Read-only" in again
    assert names == ["d", "linked", "x", "z"]


def test_what_is_written_to_is_no_layer(command: Command, stack: Path) -> None:
    """An upper or a work directory that is a layer is refused; the kernel refuses it with ELOOP."""
    for what, words in (
        ("upper", f"upperdir={stack}/low,workdir={stack}/work"),
        ("work directory", f"upperdir={stack}/upper,workdir={stack}/low"),
    ):
        words = f"lowerdir={stack}/top:{stack}/low,{words}"
        done = command("-o", words, stack / "mnt", check=False)
        assert done.returncode == 8
        line = f"{stack}/low: the {what} is a layer of this mount too"
        assert done.stderr == f"imgmount: {line}\n"
    assert sorted(os.listdir(stack / "low")) == ["d", "linked"]


def test_what_is_another_file_by_now_is_not_read(command: Command, stack: Path) -> None:
    """A file of a layer that was replaced or closed to others is not read through the mount."""
    names = ("given-up", "closed", "given-away", "as-it-was")
    for name in names:
        (stack / "low" / name).write_text("anybody's\n")
    with mounted(command, stack) as at:
        low = stack / "low"
        (stack / "new").write_text("private!!\n")
        os.rename(stack / "new", low / "given-up")  # the same owner and mode: another inode
        (low / "closed").write_text("private!!\n")
        (low / "closed").chmod(0o600)
        (low / "given-away").write_text("private!!\n")
        os.chown(low / "given-away", 65533, 0)
        found = {}
        for name in names:
            try:
                found[name] = (at / name).read_text()
            except OSError as e:
                found[name] = errno.errorcode[e.errno or 0]
        assert found == {**dict.fromkeys(names, "EIO"), "as-it-was": "anybody's\n"}
