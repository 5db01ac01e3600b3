"""The command works if the caller's descriptors are closed, full, or too many."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from imagewriter import docker_archive
from mounted import Command, mounted
from tarwriter import TarWriter


@pytest.fixture
def command(tmp_path: Path) -> Command:
    return Command(tmp_path)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return docker_archive(tmp_path / "image.tar", [TarWriter().file("motd", b"hello\n").tar()])


def shell(command: Command, script: str, *words: str | Path) -> subprocess.CompletedProcess[str]:
    """Runs a shell script with the command; `$@` are the words after the command."""
    return subprocess.run(
        ["sh", "-c", script, sys.executable, *map(str, words)],
        env=command.environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"])
def test_a_mount_with_closed_standard_descriptors(
    closed: str, command: Command, image: Path, tmp_path: Path
) -> None:
    at = tmp_path / "mnt"
    at.mkdir()
    done = shell(command, f'exec "$0" -m fusemount "$@" {closed}', image, at)
    try:
        assert (done.returncode, done.stderr) == (0, "")
        assert (at / "motd").read_text() == "hello\n"
    finally:
        command("umount", at)


@pytest.mark.parametrize("words", [["inspect"], ["dump"], ["history"], ["run"]])
def test_other_verbs_with_a_closed_output(words: list[str], command: Command, image: Path) -> None:
    done = shell(command, 'exec "$0" -m fusemount "$@" >&-', *words, image)
    expected = (127, 1) if words == ["run"] else (0, 0)  # this image has no command to run
    assert (done.returncode, done.stderr.count("\n")) == expected
    assert "bug" not in done.stderr


@pytest.mark.parametrize("words", [["--version"], ["--help"], ["help", "run"], ["mounts"]])
def test_a_full_disk_is_one_line(words: list[str], command: Command) -> None:
    done = shell(command, 'exec "$0" -m fusemount "$@" >/dev/full', *words)
    assert done.returncode == 10
    assert done.stderr == "imgmount: No space left on device\n"


def test_the_daemon_keeps_nothing_of_its_callers(
    command: Command, image: Path, tmp_path: Path
) -> None:
    lock, at = tmp_path / "lock", tmp_path / "mnt"
    at.mkdir()
    done = shell(command, 'exec 9>"$1"; shift; "$0" -m fusemount "$@"', lock, image, at)
    try:
        assert done.returncode == 0, done.stderr
        pid = command("mounts").stdout.splitlines()[1].split()[5]
        held = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
        assert str(image) in held
        assert str(lock) not in held
    finally:
        command("umount", at)


def test_a_descriptor_that_is_the_image_is_kept(
    command: Command, image: Path, tmp_path: Path
) -> None:
    at = tmp_path / "mnt"
    at.mkdir()
    script = 'exec 7<"$1"; "$0" -m fusemount /dev/fd/7 "$2"'
    done = shell(command, script, image, at)
    assert done.returncode == 0, done.stderr
    command("umount", at)


def test_mounts_says_whose(command: Command, image: Path, tmp_path: Path) -> None:
    with mounted(command, image, tmp_path / "mnt"):
        heads, row = (line.split() for line in command("mounts").stdout.splitlines())
        assert row[heads.index("USER") - 1] == "root"  # "IMAGE ID" is two words
        assert '"user": "root"' in command("mounts", "--json").stdout


def test_dump_names_the_path_that_is_missing(command: Command, image: Path) -> None:
    done = command("dump", image, "/nonex", check=False)
    assert done.returncode == 1
    assert done.stderr == "imgmount: /nonex: No such file or directory in the image\n"
