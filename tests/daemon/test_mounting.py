"""The life of a mount, from the command's start to nothing left: real mounts, as root."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from busyboximage import left_behind
from mounted import Command, mounted

from fusemount.daemon.background import ended
from fusemount.daemon.mountpoint import unmount
from fusemount.mountinfo import mount_at


@pytest.fixture(autouse=True)
def nothing_left(tmp_path: Path) -> Iterator[None]:
    """Every test here must leave nothing. Unmounts what a failed test left before it says so."""
    yield
    left = left_behind(tmp_path)
    for line in left:
        if line.startswith("mounted: "):
            unmount(Path(line.removeprefix("mounted: ")), lazy=True)
    assert left == []


both = pytest.mark.usefixtures("fastpath")  # for tests in which the two doors differ


@pytest.fixture
def command(tmp_path: Path, request: pytest.FixtureRequest) -> Command:
    served = "fastpath" in request.fixturenames
    return Command(tmp_path, request.getfixturevalue("fastpath") if served else True)


@pytest.fixture
def at(tmp_path: Path) -> Path:
    path = tmp_path / "mnt"
    path.mkdir()
    return path


def records(command: Command) -> list[dict[str, Any]]:
    found = json.loads(command("mounts", "--json").stdout)
    assert isinstance(found, list)
    return found


@both
def test_it_returns_when_the_mount_answers(
    command: Command, busybox_image: Path, at: Path, tmp_path: Path
) -> None:
    done = command(busybox_image, at)
    assert (done.stdout, done.stderr) == ("", "")
    assert (at / "etc/second").read_text() == "2\n"
    (at / "etc/new").write_text("new")
    (record,) = records(command)
    assert (record["mountpoint"], record["state"]) == (str(at), "mounted")
    assert Path(record["upper"], "etc/new").read_text() == "new"
    assert str(at) in command("mounts").stdout
    command("umount", at)
    assert ended(record["pid"], 0)
    assert records(command) == []
    assert not Path(record["upper"]).exists()


@both
def test_what_root_needs_is_on_by_default(command: Command, busybox_image: Path, at: Path) -> None:
    with mounted(command, busybox_image, at):
        entry = mount_at(at)
        assert entry and entry.fstype == "fuse.imgmount" and entry.source == str(busybox_image)
        assert {"nosuid", "nodev"} <= set(entry.options) and "ro" not in entry.options
    with mounted(command, busybox_image, at, "-o", "suid,dev"):
        entry = mount_at(at)
        assert entry and not {"nosuid", "nodev", "ro"} & set(entry.options)
    with mounted(command, busybox_image, at, "-o", "ro,nosuid,nodev,noexec,noatime,fsname=img"):
        entry = mount_at(at)
        assert entry and {"ro", "nosuid", "nodev", "noexec", "noatime"} <= set(entry.options)
        assert entry.source == "img"


def test_read_only_makes_no_upper(
    command: Command, busybox_image: Path, at: Path, tmp_path: Path
) -> None:
    with mounted(command, busybox_image, at, "--read-only"):
        assert not list(tmp_path.glob("state/uppers/*"))
        with pytest.raises(OSError, match="Read-only"):
            (at / "x").touch()


@both
def test_upper_is_kept_and_found_again(
    command: Command, busybox_image: Path, at: Path, tmp_path: Path
) -> None:
    with mounted(command, busybox_image, at, "--upper", tmp_path / "upper"):
        (at / "etc/motd").write_text("changed")
        assert (tmp_path / ".upper.imgmount-work").is_dir()
    with mounted(command, busybox_image, at, "-o", f"upperdir={tmp_path / 'upper'}"):
        assert (at / "etc/motd").read_text() == "changed"


def test_keep_says_where(command: Command, busybox_image: Path, at: Path) -> None:
    done = command(busybox_image, at, "--keep")
    (at / "kept").write_text("x")
    command("umount", at)
    upper = Path(done.stdout.removeprefix("changes are kept in ").strip())
    assert (upper / "kept").read_text() == "x"
    subprocess.run(["rm", "-r", str(upper.parent)], check=True)


@both
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_it_and_lose_nothing(
    number: signal.Signals, command: Command, busybox_image: Path, at: Path, tmp_path: Path
) -> None:
    command(busybox_image, at, "--upper", tmp_path / "upper")
    (record,) = records(command)
    (at / "big").write_bytes(b"x" * 3_000_000)  # not synced
    os.kill(record["pid"], number)
    assert ended(record["pid"], 30)
    assert mount_at(at) is None
    assert (tmp_path / "upper/big").read_bytes() == b"x" * 3_000_000


@both
def test_a_signal_detaches_a_busy_mount(
    command: Command, busybox_image: Path, at: Path, tmp_path: Path
) -> None:
    command(busybox_image, at, "--upper", tmp_path / "upper")
    (record,) = records(command)
    fd = os.open(at / "open", os.O_CREAT | os.O_WRONLY)
    os.write(fd, b"y" * 3_000_000)
    os.kill(record["pid"], signal.SIGTERM)
    assert ended(record["pid"], 30)
    assert mount_at(at) is None
    with suppress(OSError):  # no daemon answers the requests of close(2)
        os.close(fd)
    assert (tmp_path / "upper/open").read_bytes() == b"y" * 3_000_000


def test_a_signal_takes_mounts_inside_along(
    command: Command, busybox_image: Path, at: Path
) -> None:
    command(busybox_image, at)
    (record,) = records(command)
    (at / "proc").mkdir()
    subprocess.run(["mount", "-t", "proc", "proc", at / "proc"], check=True)
    os.kill(record["pid"], signal.SIGTERM)
    assert ended(record["pid"], 30)


@both
def test_umount_says_busy_and_lazy_detaches(
    command: Command, busybox_image: Path, at: Path
) -> None:
    command(busybox_image, at)
    (record,) = records(command)
    with (at / "etc/motd").open() as file:
        done = command("umount", at, check=False)
        assert done.returncode == 7
        assert "busy" in done.stderr
        command("umount", "--lazy", at)
        assert mount_at(at) is None
        assert records(command)[0]["state"] == "detached"
        assert file.read() == "hello\n"
    assert ended(record["pid"], 30)


@both
@pytest.mark.parametrize("how", [["umount"], ["fusermount3", "-u"]])
def test_others_may_unmount_it(
    how: list[str], command: Command, busybox_image: Path, at: Path
) -> None:
    command(busybox_image, at)
    (record,) = records(command)
    subprocess.run([*how, at], check=True)
    assert ended(record["pid"], 30)


def test_mounting_twice_is_busy(command: Command, busybox_image: Path, at: Path) -> None:
    with mounted(command, busybox_image, at):
        done = command(busybox_image, at, check=False)
        assert done.returncode == 7
        assert "busy" in done.stderr
        assert len(records(command)) == 1


@both
def test_a_dead_mount_is_named_and_cleared(
    command: Command, busybox_image: Path, at: Path, tmp_path: Path
) -> None:
    command(busybox_image, at)
    (record,) = records(command)
    (at / "etc/new").touch()
    os.kill(record["pid"], signal.SIGKILL)
    assert ended(record["pid"], 30)
    done = command(busybox_image, at, check=False)
    assert done.returncode == 7
    assert f"`imgmount umount {at}` clears it" in done.stderr
    assert records(command)[0]["state"] == "dead"
    assert Path(record["upper"]).exists()  # until the dead mount is unmounted
    command("umount", at)


def test_umount_of_what_is_not_ours(command: Command, tmp_path: Path, at: Path) -> None:
    for path in (at, tmp_path / "none", Path("/proc")):
        done = command("umount", path, check=False)
        assert done.returncode == 7
        assert "no imgmount mount is there" in done.stderr


@pytest.mark.parametrize("inside", [True, False])
def test_an_upper_in_its_own_mount_is_refused(
    inside: bool, command: Command, busybox_image: Path, at: Path
) -> None:
    upper = at / "upper" if inside else at.parent
    done = command(busybox_image, at, "--upper", upper, check=False)
    assert done.returncode == 8


@pytest.mark.parametrize(
    ("more", "code"),
    [(["--upper", "/proc/1/upper"], 8), (["-o", "nosiud"], 2), (["--work", "/x"], 2),
     (["--log", "/nowhere/log"], 1), (["--platform", "linux/s390x"], 6)],
)  # fmt: skip
def test_failures_leave_nothing(
    more: list[str], code: int, command: Command, busybox_image: Path, at: Path
) -> None:
    done = command(busybox_image, at, *more, check=False)
    assert done.returncode == code, done.stderr
    assert done.stderr.count("\n") == 1
    assert mount_at(at) is None


def test_without_dev_fuse(command: Command, busybox_image: Path, at: Path, tmp_path: Path) -> None:
    script = 'mount -t tmpfs none /dev && exec "$@"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", sys.executable, "-m", "fusemount",
         str(busybox_image), str(at)],
        env=command.environment, capture_output=True, text=True, stdin=subprocess.PIPE,
    )  # fmt: skip
    assert done.returncode == 9
    assert "/dev/fuse is missing" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_foreground(
    number: signal.Signals, command: Command, busybox_image: Path, at: Path
) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "fusemount", busybox_image, at, "-f"],
        env=command.environment, stderr=subprocess.PIPE, text=True,
    ) as daemon:  # fmt: skip
        assert daemon.stderr
        assert any("mounted on" in line for line in daemon.stderr)
        assert (at / "etc/motd").read_text() == "hello\n"
        daemon.send_signal(number)
        assert daemon.wait(30) == 0


def test_the_log_file(command: Command, busybox_image: Path, at: Path, tmp_path: Path) -> None:
    with mounted(command, busybox_image, at, "--log", tmp_path / "log"):
        pass
    lines = (tmp_path / "log").read_text().splitlines()
    assert "mounted on" in lines[-2] and lines[-1].endswith(f"{at}: unmounted")


# mount(8) takes PATH away, so the helper's shell looks in its default places: the command under
# test stands in for an installed one, in a mount namespace of its own.
_MOUNT_8 = """
set -e
mount -t tmpfs none /usr/local/bin
cp "$1" /usr/local/bin/imgmount
at=$2; shift 2
mount "$@"
findmnt -n -o SOURCE,FSTYPE,OPTIONS "$at"
cat "$at/etc/motd"
touch "$at/x" 2>&1 || true
/usr/local/bin/imgmount umount "$at"
"""


def mount_8(command: Command, tmp_path: Path, at: Path, *arguments: str | Path) -> str:
    program = tmp_path / "imgmount"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m fusemount "$@"\n')
    program.chmod(0o755)
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", _MOUNT_8, "sh", program, at, *arguments],
        env={**command.environment, "PYTHONPATH": os.pathsep.join([os.getcwd(), *sys.path])},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "hello" in done.stdout
    return done.stdout


def test_mount_8(command: Command, busybox_image: Path, at: Path, tmp_path: Path) -> None:
    output = mount_8(command, tmp_path, at, "-t", "fuse.imgmount", busybox_image, at, "-o", "ro")
    assert "fuse.imgmount ro,relatime" in output
    assert "Read-only file system" in output


def test_an_fstab_line(command: Command, busybox_image: Path, at: Path, tmp_path: Path) -> None:
    fstab = tmp_path / "fstab"
    words = f"noauto,nofail,_netdev,x-systemd.automount,nodev,upperdir={tmp_path}/u"
    fstab.write_text(f"{busybox_image} {at} fuse.imgmount {words} 0 0\n")
    assert "nodev" in mount_8(command, tmp_path, at, "-T", fstab, at)
    assert (tmp_path / "u/x").exists()
