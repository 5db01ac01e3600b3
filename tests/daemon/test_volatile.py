"""`volatile` through real mounts: its marks, when an upper is refused, and how the marks end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from mounted import Command
from oracle import differences, dump_directory, overlay, run

MARK = "trusted.overlay.imgmount.volatile"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    for name in ("low/d", "upper", "work", "mnt"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "low/d/file").write_text("low\n")
    return tmp_path


def mount(base: Path, command: Command, *words: str, check: bool = True) -> tuple[int, str]:
    fast = "fastpath=on" if command.fastpath else "fastpath=off"
    places = f"lowerdir={base}/low,upperdir={base}/upper,workdir={base}/work"
    done = command("-o", ",".join((places, fast, *words)), base / "mnt", check=check)
    return done.returncode, done.stderr


@contextmanager
def mounted(base: Path, command: Command, *words: str) -> Iterator[Path]:
    mount(base, command, *words)
    try:
        yield base / "mnt"
    finally:
        command("umount", base / "mnt")


def killed(base: Path, command: Command) -> None:
    (record,) = json.loads(command("mounts", "--json").stdout)
    os.kill(record["pid"], signal.SIGKILL)
    run("umount", "--lazy", base / "mnt")


def kernel(base: Path) -> subprocess.CompletedProcess[bytes]:
    """A mount of the kernel's overlayfs with this upper and work directory, and its result."""
    (base / "kernel").mkdir(exist_ok=True)
    words = f"lowerdir={base}/low,upperdir={base}/upper,workdir={base}/work"
    return run("mount", "-t", "overlay", "overlay", "-o", words, base / "kernel", check=False)


def another_boot(base: Path) -> None:
    """Changes the mark as if the machine had been restarted."""
    assert os.getxattr(base / "upper", MARK)
    os.setxattr(base / "upper", MARK, b"another boot")


def fill(at: Path) -> None:
    (at / "d/file").write_text("changed\n")
    (at / "new").write_bytes(b"n" * 100_000)
    fd = os.open(at / "new", os.O_RDWR)
    os.fsync(fd)  # succeeds without syncing
    os.close(fd)
    os.rename(at / "d", at / "e")


def test_a_killed_mount(base: Path, fastpath: bool) -> None:
    """In the same boot nothing is lost. After another boot data may be lost, so the upper is
    refused; the kernel refuses it too."""
    command, incompat = Command(base, fastpath), base / "work/work/incompat/volatile"
    mount(base, command, "volatile")
    fill(base / "mnt")
    before = dump_directory(base / "mnt")
    assert incompat.is_dir()
    killed(base, command)
    assert incompat.is_dir() and kernel(base).returncode == 32
    with mounted(base, command, "volatile") as at:
        assert not differences(dump_directory(at), before)
        killed(base, command)
        another_boot(base)
        for words in (["volatile"], []):
            assert mount(base, command, *words, check=False) == (
                8,
                f"imgmount: {base}/upper: was mounted volatile when the machine stopped, so it "
                f"may be damaged; to use it all the same remove {incompat}\n",
            )
        assert incompat.is_dir()  # so the next mount is refused as well
        incompat.rmdir()
        mount(base, command)
    with mounted(base, command) as at:
        assert not differences(dump_directory(at), before)
    assert not incompat.exists()


def test_a_clean_end(base: Path, fastpath: bool) -> None:
    """The mark stays, because nothing was synced; the next mount of this boot syncs and ends it."""
    command, incompat = Command(base, fastpath), base / "work/work/incompat/volatile"
    with mounted(base, command, "volatile") as at:
        fill(at)
        before = dump_directory(at)
    assert incompat.is_dir() and kernel(base).returncode == 32
    for words in (["fsync=0"], []):
        with mounted(base, command, *words) as at:
            assert not differences(dump_directory(at), before)
    assert os.listdir(base / "work/work") == [] and MARK not in os.listxattr(base / "upper")
    with overlay([base / "low"], base / "kernel", base / "upper", base / "work") as at:
        assert not differences(dump_directory(at), before)
    with mounted(base, command, "volatile"):
        pass
    another_boot(base)
    assert mount(base, command, check=False)[0] == 8
