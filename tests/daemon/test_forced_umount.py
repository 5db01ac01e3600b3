"""`umount --force`: a mount ends for all its users, and all that was written is in the upper."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hangingfs import hanging, waited_for
from mounted import Command
from oracle import run

from fusemount.daemon import background, force
from fusemount.daemon.background import ended
from fusemount.daemon.umount import umount_image
from fusemount.mountinfo import mount_at
from fusemount.settings import Directories

# The file stays open, because close(2) would write it out: its data are only in the page cache.
_WORK = """
import os, sys
file = os.open("big", os.O_CREAT | os.O_WRONLY)
print("ready", flush=True)
sys.stdin.readline()
print(os.write(file, b"x" * 300_000), flush=True)
sys.stdin.readline()
try:
    os.stat("bin/sh")
except OSError as error:
    print(error.errno, flush=True)
"""


@contextmanager
def holder(at: Path) -> Iterator[subprocess.Popen[str]]:
    """A program in a mount namespace of its own, which has a copy of the mount and works in it."""
    apart = ["unshare", "--mount", "--propagation=private", sys.executable, "-c",
             f"import os; os.chdir({str(at)!r}){_WORK}"]  # fmt: skip
    program = subprocess.Popen(apart, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert program.stdout and program.stdout.readline() == "ready\n"
        yield program
    finally:
        program.kill()
        program.communicate()


def next_said(program: subprocess.Popen[str]) -> int:
    assert program.stdin and program.stdout
    program.stdin.write("\n")
    program.stdin.flush()
    return int(program.stdout.readline())


@pytest.fixture
def upper(tmp_path: Path) -> Path:
    return tmp_path / "upper"


@pytest.fixture
def at(command: Command, busybox_image: Path, tmp_path: Path, upper: Path) -> Iterator[Path]:
    at = tmp_path / "mnt"
    at.mkdir()
    command(busybox_image, at, "--upper", upper)
    yield at
    run("umount", "--lazy", at, check=False)


def daemon(command: Command) -> int:
    (mount,) = json.loads(command("mounts", "--json").stdout)
    return int(mount["pid"])


@pytest.mark.parametrize("unmounted", [False, True], ids=["mounted", "unmounted"])
def test_who_holds_it_in_another_namespace_is_shut_out(
    command: Command, busybox_image: Path, upper: Path, at: Path, unmounted: bool
) -> None:
    pid = daemon(command)
    with holder(at) as program:
        if unmounted:
            assert f"process {program.pid}" in command("umount", at).stdout
        assert next_said(program) == 300_000
        assert command("umount", "--force", at).stdout == ""
        assert ended(pid, 0) and mount_at(at) is None
        assert (upper / "big").read_bytes() == b"x" * 300_000
        assert next_said(program) == errno.ENOTCONN
        command(busybox_image, at, "--upper", upper)  # the upper is free
        command("umount", at)


def test_a_daemon_that_hangs_is_killed(
    command: Command, tmp_path: Path, at: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(force, "FLUSH_SECONDS", 0.2)
    pid = daemon(command)
    os.kill(pid, signal.SIGSTOP)
    monkeypatch.setattr(force, "LEAVE_SECONDS", 1.0)
    places = Directories(*(tmp_path / what for what in ("cache", "state", "runtime", "root")))
    assert umount_image(at, places, force=True) is None
    assert ended(pid, 0) and mount_at(at) is None
    assert list((tmp_path / "runtime").iterdir()) == []


def test_a_file_system_of_another_user_does_not_hold_it_up(
    command: Command, tmp_path: Path, at: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In another mount namespace the directory above the mount is on a FUSE file system that never
    answers.  Of many such namespaces only a few are tried."""
    tries = []

    def counted(job: Callable[[], None], seconds: float) -> bool:
        tries.append(background.done_in_time(job, 0.1))
        return tries[-1]

    pid, find = daemon(command), force.holders
    entry = mount_at(at)
    assert entry
    monkeypatch.setattr(force, "done_in_time", counted)
    monkeypatch.setattr(background, "KILLED_SECONDS", 0.1)
    monkeypatch.setattr(force, "FLUSH_SECONDS", 0.2)
    monkeypatch.setattr(force, "LEAVE_SECONDS", 1.0)
    places = Directories(*(tmp_path / what for what in ("cache", "state", "runtime", "root")))
    with waited_for() as waited, hanging(at.parent, apart=True) as server:
        run("umount", "--lazy", at)
        # Other processes may just have made a mount namespace, with a copy of the mount.
        (hung,) = (holder for holder in find(entry.device) if holder.pid == server)
        monkeypatch.setattr(force, "holders", lambda _: [hung] * 5)
        assert umount_image(at, places, force=True) is None
        assert ended(pid, 0) and not waited
    assert tries == [False] * force.HOLDERS_MAX


def test_where_nothing_is_mounted(command: Command, tmp_path: Path) -> None:
    done = command("umount", "--force", tmp_path, check=False)
    assert done.returncode == 7 and "no imgmount mount is there" in done.stderr
    assert command("umount", "--force", "--lazy", tmp_path, check=False).returncode == 2
