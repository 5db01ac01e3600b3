"""Law: a cache that takes nothing, or is full, costs time and no mount: the log says once where and
why."""

from __future__ import annotations

import json
import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from imagewriter import docker_archive
from mounted import Command, mounted
from oracle import run
from tarwriter import TarWriter

from fusemount._native import CHUNK

DATA = os.urandom(6 * CHUNK)


@contextmanager
def small_disk(at: Path, *options: str) -> Iterator[None]:
    at.mkdir(parents=True)
    run("mount", "-t", "tmpfs", "-o", ",".join(["size=600k", "mode=700", *options]), "none", at)
    try:
        yield
    finally:
        run("umount", "--lazy", at)


def image(tmp_path: Path) -> Path:
    return docker_archive(tmp_path / "i.tar", [TarWriter().file("f", DATA).tar()], compress="gzip")


def read_twice(at: Path) -> None:
    for _ in range(2):
        with open(at / "f", "rb") as file:
            assert file.read() == DATA
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def said(log: Path, chunks: Path, cause: str) -> None:
    lines = [line for line in log.read_text().splitlines() if "cannot be kept" in line]
    assert len(lines) == 1, lines
    assert f" {chunks}: {cause}: what is decompressed" in lines[0]


def read_only(command: Command) -> None:
    run("mount", "-o", "remount,ro", command.base / "cache")


def no_large_files(command: Command) -> None:
    (mount,) = json.loads(command("mounts", "--json").stdout)
    resource.prlimit(int(mount["pid"]), resource.RLIMIT_FSIZE, (CHUNK, CHUNK))


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (lambda _: None, "No space left on device"),
        (read_only, "Read-only file system"),
        (no_large_files, "File too large"),
    ],
)
def test_while_it_is_mounted(
    command: Command, tmp_path: Path, change: Callable[[Command], None], cause: str
) -> None:
    cache, log = command.base / "cache", tmp_path / "log"
    with small_disk(cache), mounted(command, image(tmp_path), tmp_path / "m", "--log", log) as at:
        assert "cannot be kept" not in log.read_text()
        change(command)
        read_twice(at)
        said(log, cache / "chunks", cause)


def test_at_the_mount(command: Command, tmp_path: Path) -> None:
    cache, log = command.base / "cache", tmp_path / "log"
    with small_disk(cache, "ro"):
        with mounted(command, image(tmp_path), tmp_path / "m", "--log", log) as at:
            said(log, cache / "chunks", "Read-only file system")
            again = [line for line in log.read_text().splitlines() if "reads the layers" in line]
            assert len(again) == 1 and str(cache) in again[0]
            read_twice(at)
        said(log, cache / "chunks", "Read-only file system")


def test_what_the_disk_did_not_take(command: Command, tmp_path: Path) -> None:
    """write(2) had taken it: a thin disk is full when the kernel writes its pages back."""
    cache, log = command.base / "cache", tmp_path / "log"
    data = os.urandom(48 * CHUNK)
    archive = docker_archive(
        tmp_path / "i.tar", [TarWriter().file("f", data).tar()], compress="gzip"
    )
    cache.mkdir(parents=True)
    with small_disk(tmp_path / "thin", "size=6m"):
        disk = tmp_path / "thin" / "disk"
        run("truncate", "-s", "48M", disk)
        run("mkfs.ext4", "-q", "-O", "^has_journal", "-E", "nodiscard", disk)
        run("mount", "-o", "loop", disk, cache)
        try:
            with mounted(command, archive, tmp_path / "m", "--log", log) as at:
                for turn in range(3):
                    with open(at / "f", "rb") as file:
                        assert file.read() == data
                        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                    lost = subprocess.run(["sync", "-f", cache], stderr=-1).returncode
                    assert lost or turn
                lines = [line for line in log.read_text().splitlines() if "cannot be kept" in line]
                assert lines and all(f" {cache}/chunks: " in line for line in lines), lines
        finally:
            run("umount", "--lazy", cache)  # a mount that failed has it open
