"""A mount that fails removes the directories that it made for the user's upper, and no others."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from mounted import Command

from fusemount.daemon.mountpoint import unmount


@pytest.fixture
def at(tmp_path: Path) -> Path:
    path = tmp_path / "mnt"
    path.mkdir()
    return path


def without_fuse(command: Command, *words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["unshare", "-m", "sh", "-c", 'mount --bind /etc/hostname /dev/fuse && exec "$@"', "sh",
         sys.executable, "-m", "fusemount", *map(str, words)],
        env=command.environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


@pytest.mark.parametrize("verb", ["mount", "run"])
def test_what_was_made_goes_again(
    verb: str, command: Command, busybox_image: Path, at: Path, tmp_path: Path
) -> None:
    place = [busybox_image, at] if verb == "mount" else [busybox_image]
    upper, work = tmp_path / "upper", tmp_path / "work"
    done = without_fuse(command, verb, "--upper", upper, "--work", work, *place)
    assert done.returncode == (7 if verb == "mount" else 125), done.stderr
    assert not upper.exists() and not work.exists()
    without_fuse(command, verb, "--upper", upper, *place)
    assert not upper.exists()
    assert not (tmp_path / ".upper.imgmount-work").exists()


def test_what_was_there_stays(
    command: Command, busybox_image: Path, at: Path, tmp_path: Path
) -> None:
    upper, work = tmp_path / "upper", tmp_path / "work"
    upper.mkdir()
    (work / "work").mkdir(parents=True)
    (upper / "mine").write_text("x")
    done = without_fuse(command, busybox_image, at, "--upper", upper, "--work", work)
    assert done.returncode != 0
    assert (upper / "mine").exists() and (work / "work").is_dir()


def test_an_upper_that_was_served_stays_though_empty(
    command: Command, busybox_image: Path, at: Path, tmp_path: Path
) -> None:
    command(busybox_image, at, "--upper", tmp_path / "upper")
    command("umount", at)
    assert (tmp_path / "upper").is_dir()
    command("run", "--upper", tmp_path / "other", busybox_image, "true")
    assert (tmp_path / "other").is_dir()


@pytest.mark.parametrize("inside", [True, False])
def test_a_work_directory_in_the_mount_is_refused(
    inside: bool, command: Command, busybox_image: Path, at: Path, tmp_path: Path
) -> None:
    work = at / "work" if inside else at
    done = command(busybox_image, at, "--upper", tmp_path / "upper", "--work", work, check=False)
    if done.returncode == 0:
        unmount(at, lazy=True)
    assert done.returncode == 8
    assert "work directory and the mountpoint" in done.stderr
    assert not (tmp_path / "upper").exists()
    assert list(at.iterdir()) == []
