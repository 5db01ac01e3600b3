"""`mount -o remount,ro` with files in use: refused where ext4 refuses it, and nothing is lost."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from mounted import Command
from oracle import run

DATA = b"data" * 1024


@contextmanager
def opened(path: Path, flags: int) -> Iterator[int]:
    fd = os.open(path, flags)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def writing(at: Path) -> Iterator[None]:
    with opened(at / "file", os.O_WRONLY) as fd:
        os.write(fd, b"more")
        yield


@contextmanager
def appending_to_a_new_file(at: Path) -> Iterator[None]:
    with opened(at / "new", os.O_WRONLY | os.O_APPEND | os.O_CREAT) as fd:
        os.write(fd, b"more")
        yield


@contextmanager
def reading(at: Path) -> Iterator[None]:
    with opened(at / "file", os.O_RDONLY), opened(at, os.O_RDONLY):
        yield


@contextmanager
def mapped_for_writing(at: Path) -> Iterator[None]:
    """A use whose descriptor is closed and whose mapping is not."""
    with opened(at / "file", os.O_RDWR) as fd:
        mapping = mmap.mmap(fd, len(DATA))
    with mapping:
        mapping[:4] = b"MAPS"
        yield


@contextmanager
def mapped_for_reading(at: Path) -> Iterator[None]:
    with opened(at / "file", os.O_RDONLY) as fd:
        mapping = mmap.mmap(fd, len(DATA), prot=mmap.PROT_READ)
    with mapping:
        yield


@contextmanager
def unlinked_and_open(at: Path) -> Iterator[None]:
    with opened(at / "gone", os.O_RDONLY):
        os.unlink(at / "gone")
        yield


@contextmanager
def writer_to_a_fifo(at: Path) -> Iterator[None]:
    os.mkfifo(at / "fifo")
    with opened(at / "fifo", os.O_RDWR):
        yield


USES = (writing, appending_to_a_new_file, reading, mapped_for_writing, mapped_for_reading,
        unlinked_and_open, writer_to_a_fifo)  # fmt: skip


def files(at: Path) -> None:
    for name in ("file", "gone"):
        (at / name).write_bytes(DATA)


@pytest.fixture(scope="module")
def busy_on_ext4(tmp_path_factory: pytest.TempPathFactory) -> list[bool]:
    """For each way of use, whether an ext4 that is used so is busy."""
    base = tmp_path_factory.mktemp("ext4")
    disk, at, found = base / "disk", base / "at", []
    at.mkdir()
    with disk.open("wb") as file:
        file.truncate(4 << 20)
    run("mkfs.ext4", "-q", "-F", disk)
    run("mount", "-o", "loop", disk, at)
    try:
        files(at)
        for use in USES:
            with use(at):
                done = run("mount", "-o", "remount,ro", at, check=False)
            assert done.returncode in (0, 32) and (not done.returncode or b"busy" in done.stderr)
            found.append(done.returncode != 0)
            run("mount", "-o", "remount,rw", at)
    finally:
        run("umount", at)
    return found


def test_a_busy_mount_stays_as_it_is(
    tmp_path: Path, fastpath: bool, busy_on_ext4: list[bool]
) -> None:
    command, at, upper = Command(tmp_path, fastpath), tmp_path / "mnt", tmp_path / "upper"
    for path in (tmp_path / "low", at):
        path.mkdir()
    files(tmp_path / "low")
    fast = "fastpath=on" if fastpath else "fastpath=off"
    command(f"dir:{tmp_path}/low", at, "-o", f"upperdir={upper},{fast}")
    try:
        for use, busy in zip(USES, busy_on_ext4, strict=True):
            with use(at):
                done = command("-o", "remount,ro", at, check=False)
                expected = f"imgmount: {at}: busy: a file is open for writing\n" if busy else ""
                assert (done.returncode, done.stderr) == (7 if busy else 0, expected), use
                if busy:
                    (at / use.__name__).write_bytes(DATA)  # the mount is still rw
            command("-o", "remount,ro", at)
            with pytest.raises(OSError, match="Read-only"):
                (at / "late").touch()
            for name in set(os.listdir(at)) - {"fifo"}:  # all files are in the upper by now
                where = upper if (upper / name).exists() else tmp_path / "low"
                assert (where / name).read_bytes() == (at / name).read_bytes(), (use, name)
            command("-o", "remount,rw", at)
    finally:
        command("umount", at)
