"""Requests that the fast path answers itself, through the kernel, and how a mount ends."""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import resource
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest
from imagewriter import docker_archive
from mounted import Command, Workshop
from oracle import run
from tarwriter import TarWriter

MIB = 1 << 20
BIG = bytes(range(256)) * 4096
KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 1, 2, 16
_libc = ctypes.CDLL(None, use_errno=True)


def layers() -> list[bytes]:
    t = TarWriter().dir("d").file("big", BIG, mode=0o644).file("small", b"lower")
    t.sparse("sparse", 4 * MIB, [(MIB, b"x" * 65536), (4 * MIB, b"")])
    t.file("last", BIG)
    return [t.tar()]


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    return Workshop(Command(tmp_path / "dirs"), tmp_path, layers())


@pytest.fixture
def at(workshop: Workshop) -> Iterator[Path]:
    with workshop.mounted() as mount:
        yield mount


def stats(workshop: Workshop, at: Path) -> dict[str, Any]:
    answer = json.loads(workshop.command("stats", "--json", str(at)).stdout)
    assert isinstance(answer, dict)
    return answer


def asked(requests: dict[str, Any], operation: str, door: str = "native") -> int:
    return int(requests["ops"].get(operation, {}).get(door, {}).get("count", 0))


def daemon_of(workshop: Workshop) -> int:
    (mount,) = json.loads(workshop.command("mounts", "--json").stdout)
    return int(mount["pid"])


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    if _libc.fallocate(fd, mode, ctypes.c_long(offset), ctypes.c_long(length)):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def drop_caches() -> None:
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


@pytest.mark.parametrize("served", [True, False])
def test_who_answers(tmp_path: Path, served: bool) -> None:
    workshop = Workshop(Command(tmp_path / "dirs", served), tmp_path, layers())
    with workshop.mounted() as at:
        assert (at / "small").read_bytes() == b"lower"
        answer = stats(workshop, at)
    assert answer["fastpath"] is served
    assert asked(answer["requests"], "READ", "native" if served else "python") == 1
    assert asked(answer["requests"], "READ", "python" if served else "native") == 0


def test_r30_truncating_copies_nothing_up(at: Path, workshop: Workshop) -> None:
    with open(at / "big", "wb") as f:
        assert os.fstat(f.fileno()).st_size == 0
        f.write(b"new")
    assert (at / "big").read_bytes() == b"new"
    assert (workshop.upper / "big").read_bytes() == b"new"
    fd = os.open(at / "small", os.O_RDWR | os.O_TRUNC | os.O_APPEND)
    os.write(fd, b"1")
    os.write(fd, b"2")
    os.close(fd)
    assert (at / "small").read_bytes() == b"12"


def test_r36_fallocate(at: Path, tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(BIG)
    seen = []
    for path in (at / "big", tmp_path / "plain"):
        sizes = []
        with open(path, "r+b") as f:
            fd = f.fileno()
            for mode, offset, length in (
                (PUNCH_HOLE | KEEP_SIZE, 8192, 16384),
                (ZERO_RANGE, 40000, 9000),
                (ZERO_RANGE | KEEP_SIZE, MIB - 4096, 8192),
                (KEEP_SIZE, MIB, MIB),
                (0, 2 * MIB, 5000),
            ):
                fallocate(fd, mode, offset, length)
                sizes.append(os.fstat(fd).st_size)
            with pytest.raises(OSError) as refused:
                fallocate(fd, PUNCH_HOLE, 0, 4096)
            sizes.append(refused.value.errno)
        seen.append((sizes, path.read_bytes()))
    assert seen[0] == seen[1]


def test_r36_holes(at: Path) -> None:
    with open(at / "sparse", "rb") as f:
        fd = f.fileno()
        assert os.lseek(fd, 0, os.SEEK_DATA) == MIB
        assert os.lseek(fd, 0, os.SEEK_HOLE) == 0
        assert os.lseek(fd, MIB, os.SEEK_HOLE) == MIB + 65536
        with pytest.raises(OSError) as none:
            os.lseek(fd, 2 * MIB, os.SEEK_DATA)
        assert none.value.errno == errno.ENXIO
    assert os.stat(at / "sparse").st_blocks == 65536 // 512


@pytest.mark.parametrize("name", ["sparse", "new"])
def test_r36_what_was_just_written_is_no_hole(at: Path, name: str) -> None:
    with open(at / name, "r+b" if name == "sparse" else "w+b", buffering=0) as f:
        fd = f.fileno()
        os.ftruncate(fd, 4 * MIB)
        for round_ in range(20):
            offset = (2 * MIB) + round_ * 8192
            os.pwrite(fd, b"d" * 4096, offset)
            assert os.lseek(fd, offset, os.SEEK_DATA) == offset
            assert os.lseek(fd, offset, os.SEEK_HOLE) == offset + 4096


def test_r36_copy_file_range_from_a_layer(at: Path) -> None:
    with open(at / "big", "rb") as source, open(at / "new", "w+b") as target:
        copied = 0
        while n := os.copy_file_range(source.fileno(), target.fileno(), MIB, copied, copied):
            copied += n
        assert copied == MIB
        # from a file with dirty pages to one of the layers
        target.write(b"dirty")
        target.flush()
        with open(at / "small", "r+b") as small:
            assert os.copy_file_range(target.fileno(), small.fileno(), 9, 0, 3) == 9
    assert (at / "new").read_bytes() == b"dirty" + BIG[5:]
    assert (at / "small").read_bytes() == b"lowdirty" + BIG[5:9]


def test_r36_statx_says_when_a_file_was_made(at: Path) -> None:
    before = int(time.time()) - 1
    (at / "new").write_bytes(b"x")
    output = subprocess.check_output(["stat", "-c", "%W", at / "new", at / "last"]).split()
    assert before <= int(output[0]) <= time.time() + 1
    assert output[1] == b"0"  # unknown for a file of a layer


def test_r34_a_default_acl_takes_the_place_of_umask(at: Path, tmp_path: Path) -> None:
    seen = []
    before = os.umask(0o077)
    try:
        for base in (at, tmp_path / "plain"):
            base.mkdir(exist_ok=True)
            (base / "acl").mkdir()
            run("setfacl", "-d", "-m", "u::rwx,g::rwx,o::r-x", base / "acl")
            (base / "acl/file").touch()
            (base / "acl/dir").mkdir()
            (base / "plain").touch()
            names = ("acl/file", "acl/dir", "plain")
            seen.append([stat.S_IMODE(os.stat(base / n).st_mode) for n in names])
    finally:
        os.umask(before)
    assert seen[0] == seen[1] == [0o664, 0o775, 0o600]


# ---- the ends -----------------------------------------------------------------------------

WRITER = """
import os, sys, itertools
try:
    print("go", flush=True)
    for n in itertools.count():
        with open(f"{sys.argv[1]}/w{os.getpid()}-{n % 50}", "wb") as f:
            f.write(bytes(100_000))
        os.stat(f"{sys.argv[1]}/d/none{n}") if n % 7 == 0 and os.path.exists("x") else None
except OSError as e:
    line = e.__traceback__.tb_lineno
    print(e.errno, f"in line {line} at file {n}: {e!r}; mounted: {os.path.ismount(sys.argv[1])}")
"""


@contextmanager
def writers(at: Path, count: int) -> Iterator[list[subprocess.Popen[str]]]:
    running = [
        subprocess.Popen([sys.executable, "-c", WRITER, at], stdout=subprocess.PIPE, text=True)
        for _ in range(count)
    ]
    try:
        for one in running:
            assert one.stdout and one.stdout.readline() == "go\n"
        time.sleep(0.3)
        yield running
    finally:
        for one in running:
            one.kill()
            one.communicate(timeout=20)


def test_a_killed_daemon_is_an_error_to_its_users(workshop: Workshop) -> None:
    with pytest.raises(AssertionError, match="killed"), workshop.mounted() as at:
        with open(at / "last", "rb") as held, writers(at, 3) as running:
            os.kill(daemon_of(workshop), signal.SIGKILL)
            for one in running:
                output, _ = one.communicate(timeout=20)
                number = int(output.split()[0])
                assert number in (errno.ENOTCONN, errno.ECONNABORTED, errno.EIO), output
            mounts = [line for line in Path("/proc/self/mountinfo").read_text().splitlines()
                     if f" {at} " in line]  # fmt: skip
            # the mount stays, so that no program writes into the directory below
            assert len(mounts) == 1
            with pytest.raises(OSError) as caught:
                os.listdir(at / "d")
            assert caught.value.errno == errno.ENOTCONN
            with pytest.raises(OSError) as caught:
                held.read()
            assert caught.value.errno in (errno.ENOTCONN, errno.ECONNABORTED, errno.EIO)
        raise AssertionError("killed")
    assert os.listdir(at) == []


@pytest.mark.parametrize("how", ["lazy", "SIGTERM"])
def test_unmounting_under_load_ends_soon(workshop: Workshop, how: str) -> None:
    with pytest.raises(AssertionError, match="over"), workshop.mounted() as at:
        pid = daemon_of(workshop)
        with writers(at, 4):
            start = time.monotonic()
            if how == "lazy":
                workshop.command("umount", "--lazy", str(at))
            else:
                os.kill(pid, signal.SIGTERM)
                while os.path.exists(f"/proc/{pid}"):
                    assert time.monotonic() - start < 15
                    time.sleep(0.05)
            assert time.monotonic() - start < 15
        start = time.monotonic()
        while os.path.exists(f"/proc/{pid}"):  # a detached mount runs until its last user is gone
            assert time.monotonic() - start < 15
            time.sleep(0.05)
        raise AssertionError("over")


def test_a_layer_that_shrinks_is_an_error(workshop: Workshop) -> None:
    """A plain layer; of a compressed one as small as this, the process has all in its memory."""
    docker_archive(workshop.image, list(workshop.tars), compress="none")
    with workshop.mounted() as at, open(at / "last", "rb") as f:
        mapped = mmap.mmap(f.fileno(), 0, mmap.MAP_SHARED, mmap.PROT_READ)
        assert mapped[:4] == BIG[:4]
        drop_caches()
        os.truncate(workshop.image, 4096)
        with pytest.raises(OSError) as caught:
            f.read()
        assert caught.value.errno == errno.EIO
        mapped.close()
        assert (at / "d").is_dir()  # the daemon lives


def test_r41_open_and_unlinked_files_take_no_descriptors(workshop: Workshop) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = min(20_000, hard - 500)  # without privilege the hard limit cannot be raised
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    fds: list[int] = []
    try:
        with workshop.mounted() as at:
            pid = daemon_of(workshop)
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (1024, 1024))
            for i in range(count):
                fd = os.open(at / "d/x", os.O_RDWR | os.O_CREAT | os.O_EXCL)
                fds.append(fd)
                os.write(fd, b"%d" % i)
                os.unlink(at / "d/x")
            assert os.listdir(at / "d") == []
            drop_caches()
            for i in Random(1).sample(range(count), 2000):
                assert os.pread(fds[i], 9, 0) == b"%d" % i
                assert os.fstat(fds[i]).st_nlink == 0
            assert len(os.listdir(f"/proc/{pid}/fd")) < 600
            while fds:
                os.close(fds.pop())
            deadline = time.monotonic() + 20  # the kernel sends FORGET some time after close(2)
            while os.listdir(workshop.work / "work") and time.monotonic() < deadline:
                time.sleep(0.1)
            assert os.listdir(workshop.work / "work") == []
    finally:
        for fd in fds:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
