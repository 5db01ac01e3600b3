"""R 41 to 45: descriptors, locks, full and failing disks, a killed daemon, read-only mounts."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from mounted import Command, Workshop, mounted
from oracle import run
from tarwriter import TarWriter

BIG = bytes(range(256)) * 4096  # 1 MiB


def layers() -> list[bytes]:
    t = TarWriter().dir("many").file("big", BIG, mode=0o644).file("small", b"lower")
    for i in range(3000):
        t.file(f"many/{i:04}", b"%d" % i)
    return [t.tar()]


@pytest.fixture
def workshop(tmp_path: Path, fastpath: bool) -> Workshop:
    return Workshop(Command(tmp_path / "dirs", fastpath), tmp_path, layers())


def daemon_of(workshop: Workshop) -> int:
    (mount,) = json.loads(workshop.command("mounts", "--json").stdout)
    return int(mount["pid"])


def test_r41_many_open_files_under_a_small_limit(workshop: Workshop) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    fds: list[int] = []
    try:
        with workshop.mounted() as at:
            pid = daemon_of(workshop)
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (1024, 1024))
            for i in range(3000):
                fd = os.open(at / f"many/{i:04}", os.O_RDWR)
                fds.append(fd)
                os.pwrite(fd, b"X", 0)
            for i, fd in enumerate(fds):
                assert os.pread(fd, 9, 0) == b"X" + (b"%d" % i)[1:]
                os.fsync(fd)
            assert len(os.listdir(f"/proc/{pid}/fd")) < 600
            while fds:
                os.close(fds.pop())
    finally:
        for fd in fds:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_r42_locks_between_processes(workshop: Workshop) -> None:
    try_lock = (
        "import fcntl, sys; f = open(sys.argv[1], 'r+')\n"
        "try: getattr(fcntl, sys.argv[2])(f, fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
        "except BlockingIOError: print('busy')\n"
        "else: print('free')"
    )
    with workshop.mounted() as at:
        for kind in ("flock", "lockf"):
            with open(at / "small", "r+b") as held:
                getattr(fcntl, kind)(held, fcntl.LOCK_EX)
                command = [sys.executable, "-c", try_lock, at / "small", kind]
                assert subprocess.check_output(command) == b"busy\n"
            assert subprocess.check_output(command) == b"free\n"
        with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
            before = os.getcwd()
            os.chdir(at)  # a socket's path has 107 bytes at most
            try:
                server.bind("s")
                server.listen()
                client.connect("s")
            finally:
                os.chdir(before)
            peer, _ = server.accept()
            with peer:
                client.sendall(b"over")
                assert peer.recv(9) == b"over"
        os.unlink(at / "s")


@contextmanager
def small_disk(base: Path, size: str = "24M") -> Iterator[Path]:
    image, at = base / "disk.img", base / "disk"
    at.mkdir()
    run("truncate", "-s", size, image)
    run("mkfs.ext4", "-q", "-m", "0", image)
    run("mount", "-o", "loop", image, at)
    try:
        yield at
    finally:
        run("umount", at)


def test_r43_a_full_upper_says_so_and_loses_nothing(workshop: Workshop) -> None:
    with small_disk(workshop.base) as disk:
        workshop.upper, workshop.work = disk / "upper", disk / "work"
        with workshop.mounted() as at:
            with pytest.raises(OSError) as full, open(at / "filler", "wb", buffering=0) as f:
                for _ in range(64):
                    f.write(BIG)
                    os.fsync(f.fileno())
            assert full.value.errno == errno.ENOSPC
            with pytest.raises(OSError), open(disk / "rest", "wb", buffering=0) as f:
                while True:
                    f.write(bytes(4096))
            with pytest.raises(OSError) as refused:
                os.truncate(at / "big", 1 << 19)
            assert refused.value.errno == errno.ENOSPC
            assert (at / "big").read_bytes() == BIG
            assert [n for n in os.listdir(disk / "work/work") if n != "lost+found"] == []
            os.unlink(at / "filler")
            os.truncate(at / "big", 1 << 19)  # there is free space again, and the mount still works
            assert (at / "big").read_bytes() == BIG[: 1 << 19]


def test_r43_what_was_synced_outlives_a_killed_daemon(workshop: Workshop) -> None:
    with pytest.raises(AssertionError, match="killed"), workshop.mounted() as at:
        with open(at / "big", "r+b") as f, open(at / "new", "wb") as new:
            f.write(b"changed")
            new.write(b"new")
            for file in (f, new):
                file.flush()
                os.fsync(file.fileno())
        os.rename(at / "many", at / "renamed")
        os.unlink(at / "small")
        os.kill(daemon_of(workshop), signal.SIGKILL)
        raise AssertionError("killed")
    with workshop.mounted() as at:
        assert (at / "big").read_bytes() == b"changed" + BIG[7:]
        assert (at / "new").read_bytes() == b"new"
        assert sorted(os.listdir(at)) == ["big", "new", "renamed"]
        assert len(os.listdir(at / "renamed")) == 3000


def test_r45_read_only_refuses_every_change(workshop: Workshop) -> None:
    command, at = workshop.command, workshop.base / "mnt"
    with mounted(command, workshop.image, at, "--read-only"):
        changes = (
            lambda: (at / "x").write_bytes(b""),
            lambda: open(at / "big", "r+b"),
            lambda: os.truncate(at / "big", 0),
            lambda: os.mkdir(at / "x"),
            lambda: os.unlink(at / "big"),
            lambda: os.rmdir(at / "many"),
            lambda: os.rename(at / "big", at / "x"),
            lambda: os.link(at / "big", at / "x"),
            lambda: os.symlink("x", at / "x"),
            lambda: os.chmod(at / "big", 0o600),
            lambda: os.utime(at / "big"),
            lambda: os.setxattr(at / "big", "user.x", b""),
            lambda: os.mkfifo(at / "x"),
        )
        for change in changes:
            with pytest.raises(OSError) as refused:
                change()
            assert refused.value.errno == errno.EROFS
        assert (at / "big").read_bytes() == BIG
        assert not list((workshop.base / "dirs/state").glob("uppers/*"))


def test_r45_an_upper_is_shown_read_only(workshop: Workshop) -> None:
    with workshop.mounted() as at:
        (at / "small").write_bytes(b"upper")
    before = sorted(os.listdir(workshop.base))
    with workshop.mounted("-o", "ro") as at:
        assert (at / "small").read_bytes() == b"upper"
        with pytest.raises(OSError) as refused:
            (at / "small").write_bytes(b"")
        assert refused.value.errno == errno.EROFS
    assert sorted(os.listdir(workshop.base)) == before


def test_r45_read_only_makes_no_upper(workshop: Workshop) -> None:
    at = workshop.base / "mnt"
    at.mkdir()
    done = workshop.command(
        workshop.image, at, "--read-only", "--upper", workshop.base / "none", check=False
    )
    assert done.returncode == 8
    assert "none" in done.stderr
    assert not (workshop.base / "none").exists()
