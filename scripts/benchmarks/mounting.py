"""Makes and removes the directory of one visit: its mount, its upper, and the daemon.

Law: a Place has at most one mount.  However the visit ends, the mount, its daemon and all written
files are gone afterwards.  Only processes that serve a mountpoint of a Place are killed.

Peak memory is the sum of VmHWM of all processes that name the mountpoint in their command line.
The daemons of all contestants do, because they are forks of the mount command.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.tools import Command, Failure, output

UNMOUNT_SECONDS = 120.0
FAREWELL_SECONDS = 60.0
BUSY_SECONDS = 5.0
PATIENCE = 0.05


@dataclass(frozen=True)
class Place:
    """The directories of one contestant during one visit, on the file system of --dir."""

    base: Path

    @property
    def at(self) -> Path:
        return self.base / "mnt"

    @property
    def upper(self) -> Path:
        return self.base / "upper"

    @property
    def work(self) -> Path:
        return self.base / "work"

    @property
    def copy(self) -> Path:
        """A copy of an unpacked image, for a contestant without an upper."""
        return self.base / "copy"


@contextmanager
def place(base: Path) -> Iterator[Place]:
    """Makes empty directories; at the end unmounts and removes them."""
    clear(base)
    here = Place(base)
    for directory in (here.at, here.upper, here.work):
        directory.mkdir(parents=True)
    try:
        yield here
    finally:
        clear(base)


def clear(base: Path) -> None:
    """Unmounts and removes a Place, also one of a run that was killed.

    Ignores ^C and SIGTERM meanwhile, so that it is done completely.
    """
    endings = (signal.SIGINT, signal.SIGTERM)
    kept = [signal.signal(number, signal.SIG_IGN) for number in endings]
    try:
        for at in reversed(mounts_below(base)):
            unmount(at)
        for pid in serving(base / "mnt"):  # a daemon may have lost its mount
            _end(pid)
        if base.exists():
            shutil.rmtree(base)
    finally:
        for number, handler in zip(endings, kept, strict=True):
            signal.signal(number, handler)


def mounts_below(base: Path) -> list[Path]:
    """The mountpoints below base, in the order in which they were mounted."""
    found = []
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        name = line.split(b" ")[4].decode("unicode_escape").encode("latin-1")
        path = Path(os.fsdecode(name))
        if path.is_relative_to(base):
            found.append(path)
    return found


def serving(at: Path) -> list[int]:
    """All processes, except this one, that have the path as a word of their command line."""
    wanted, found = os.fsencode(at), []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if wanted in words and int(entry.name) != os.getpid():
            found.append(int(entry.name))
    return found


def peak_memory(pids: list[int]) -> int:
    """The sum of the processes' peaks, in bytes."""
    total = 0
    for pid in pids:
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            continue
        for line in status.splitlines():
            if line.startswith("VmHWM:"):
                total += int(line.split()[1]) * 1024
    return total


def unmount(at: Path) -> None:
    """Unmounts and waits until the daemon has ended, so that its last writes are in no other
    visit's time."""
    pids = serving(at)
    deadline = time.monotonic() + BUSY_SECONDS
    while not _umount(at):
        if time.monotonic() > deadline:
            _umount(at, "--lazy")
            break
        time.sleep(PATIENCE)
    deadline = time.monotonic() + FAREWELL_SECONDS
    while any(map(_alive, pids)):
        if time.monotonic() > deadline:
            for pid in pids:
                _end(pid)
            break
        time.sleep(PATIENCE / 10)


def _umount(at: Path, *options: str) -> bool:
    """Runs umount(8); a daemon that hangs while it ends is killed, which ends umount(8) too."""
    child = subprocess.Popen(
        ["umount", *options, str(at)], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    try:
        return child.wait(UNMOUNT_SECONDS) == 0
    except subprocess.TimeoutExpired:
        kill_servers(at)
        return child.wait() == 0


def kill_servers(at: Path) -> None:
    for pid in serving(at):
        _end(pid)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _end(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def wait_mounted(at: Path, seconds: float = 30) -> None:
    """Waits for the mount of a command that returns before its daemon has mounted.

    Raises Failure.
    """
    deadline = time.monotonic() + seconds
    while at not in mounts_below(at):
        if time.monotonic() > deadline:
            raise Failure(f"nothing is mounted on {at} after {seconds:.0f} s")
        time.sleep(PATIENCE / 10)


@contextmanager
def machine_bound(at: Path) -> Iterator[None]:
    """Binds the machine's /proc and /dev into a root, for programs in a chroot."""
    with ExitStack() as stack:
        for name in ("proc", "dev"):
            bind(Path("/") / name, at / name)
            stack.callback(_umount, at / name, "--lazy")
        yield


def bind(source: Path, at: Path) -> None:
    output(bind_command(source, at), 30)


def bind_command(source: Path, at: Path) -> Command:
    return ["mount", "--bind", source, at]
