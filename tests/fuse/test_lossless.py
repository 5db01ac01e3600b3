"""Data must not be lost on a full upper (R 43) or when pyfuse3 dies, and set-id bits must not
survive a write (R 34)."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from mounted import Command, Workshop
from oracle import run
from tarwriter import TarWriter

NOBODY = 65534
KIB = 1024


@pytest.fixture
def workshop(tmp_path: Path, fastpath: bool) -> Workshop:
    t = TarWriter()
    for name in ("one", "two", "three", "four"):
        t.file(name, b"lower data", mode=0o6777)
    return Workshop(Command(tmp_path / "dirs", fastpath), tmp_path, [t.tar()])


@contextmanager
def tmpfs(at: Path, size: str) -> Iterator[Path]:
    at.mkdir()
    run("mount", "-t", "tmpfs", "-o", f"size={size}", "none", at)
    try:
        yield at
    finally:
        run("umount", at)


def test_r43_a_write_that_fits_in_part_is_an_error(workshop: Workshop, tmp_path: Path) -> None:
    """The kernel writes back later, so fsync must return the error."""
    with tmpfs(tmp_path / "small", "6m") as disk:
        workshop.upper, workshop.work = disk / "upper", disk / "work"
        with workshop.mounted() as at:
            free = os.statvfs(disk)
            (disk / "filler").write_bytes(bytes(free.f_bavail * free.f_bsize - 300 * KIB))
            with open(at / "new", "wb", buffering=0) as f:
                f.write(os.urandom(600 * KIB))
                with pytest.raises(OSError) as told:
                    os.fsync(f.fileno())
            assert told.value.errno == errno.ENOSPC


def change(how: str, name: str, source: int) -> None:
    if how == "truncate":
        os.truncate(name, 3)
    elif how == "O_TRUNC":
        os.close(os.open(name, os.O_WRONLY | os.O_TRUNC))
    elif how == "write":
        os.write(os.open(name, os.O_WRONLY), b"evil")
    elif how == "fallocate":
        os.posix_fallocate(os.open(name, os.O_RDWR), 0, 100)
    else:
        assert os.copy_file_range(source, os.open(name, os.O_WRONLY), 4) == 4


def as_nobody(directory: Path, how: str, name: str) -> int:
    """Runs in a process that is in the directory already, because its user cannot enter it."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.chdir(directory)
            source = os.open("source", os.O_RDONLY)
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            change(how, name, source)
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize("how", ["truncate", "O_TRUNC", "write", "fallocate", "copy_file_range"])
def test_r34_set_id_bits_go_when_a_user_changes_a_file(
    workshop: Workshop, tmp_path: Path, how: str
) -> None:
    plain = tmp_path / "plain"
    plain.mkdir(mode=0o755)
    seen = []
    with workshop.mounted() as at:
        for base in (plain, at):
            (base / "two").write_bytes(b"upper data")
            (base / "source").write_bytes(b"evil data")
            if base == plain:
                (base / "one").write_bytes(b"lower data")
                (base / "one").chmod(0o6777)
            (base / "two").chmod(0o6777)
            for name in ("one", "two"):
                done = as_nobody(base, how, name)
                seen.append((done, stat.S_IMODE(os.stat(base / name).st_mode)))
    # pyfuse3 has no fallocate: glibc writes instead, with the same result as write
    assert seen == [(0, 0o777)] * 4


DYING = """
import sys
from fusemount.fuse.operations import Operations
async def die(self, *args, **kwargs):
    raise KeyboardInterrupt
setattr(Operations, sys.argv.pop(1), die)
from fusemount.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


@contextmanager
def doomed(workshop: Workshop, handler: str) -> Iterator[Path]:
    """A mount whose Python side dies when the handler is called; the mount must end by itself."""
    at = workshop.base / "mnt"
    at.mkdir()
    command = [sys.executable, "-c", DYING, handler, workshop.image, at, "-f",
               "--upper", workshop.upper, "--work", workshop.work]  # fmt: skip
    with subprocess.Popen(command, env=workshop.command.environment,
                          stderr=subprocess.DEVNULL) as daemon:  # fmt: skip
        try:
            end = time.monotonic() + 30
            while not os.path.ismount(at) and time.monotonic() < end:
                time.sleep(0.01)
            yield at
            assert daemon.wait(30) == 1
        finally:
            daemon.kill()
            subprocess.run(["umount", "-l", at], stderr=subprocess.DEVNULL)
    assert not os.path.ismount(at)


@pytest.fixture
def fast_workshop(tmp_path: Path) -> Workshop:
    tar = TarWriter().file("one", b"lower data").tar()
    return Workshop(Command(tmp_path / "dirs"), tmp_path, [tar])


def test_what_was_written_outlives_a_dying_python_side(fast_workshop: Workshop) -> None:
    with doomed(fast_workshop, "rename") as at:
        with open(at / "new", "wb", buffering=0) as f:
            f.write(b"x" * 100_000)
            with pytest.raises(OSError):  # a file of the layers: pyfuse3's handler must copy it up
                os.rename(at / "one", at / "two")
    assert (fast_workshop.upper / "new").read_bytes() == b"x" * 100_000


def test_a_flush_that_waits_for_a_dying_python_side_ends(fast_workshop: Workshop) -> None:
    """SEEK_DATA makes the kernel write back; the write needs a copy-up, which never happens."""
    code = "import os, sys; fd = os.open(sys.argv[1], os.O_RDWR); os.write(fd, b'x'); "
    code += "os.lseek(fd, 0, os.SEEK_DATA)"
    with doomed(fast_workshop, "open") as at:
        done = subprocess.run([sys.executable, "-c", code, at / "one"], timeout=30, check=False)
    assert done.returncode in (0, 1)  # it got an answer or an error, and did not hang
    assert not (fast_workshop.upper / "one").exists()  # nothing is half copied up
    assert os.listdir(fast_workshop.work / "work") == []
