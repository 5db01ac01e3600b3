"""Files that the fast path pushes into the page cache (native/fast/)."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from mounted import Command, Workshop
from tarwriter import TarWriter
from test_fastpath import asked, at, drop_caches, stats, workshop

__all__ = ["at", "workshop"]
DIRECTORIES, FILES = 24, 40


def small_files() -> list[bytes]:
    t = TarWriter()
    for d in range(DIRECTORIES):
        t.dir(f"{d:02}")
        for f in range(FILES):
            t.file(f"{d:02}/{f:02}", contents(d, f))
    return [t.tar()]


def contents(d: int, f: int) -> bytes:
    return (b"%d/%d " % (d, f)) * (100 + 90 * f)


def write_by_pwrite(path: Path, mark: bytes) -> None:
    fd = os.open(path, os.O_RDWR)
    os.pwrite(fd, mark, 0)
    os.close(fd)


def write_by_mapping(path: Path, mark: bytes) -> None:
    fd = os.open(path, os.O_RDWR)
    with mmap.mmap(fd, len(mark), mmap.MAP_SHARED) as mapped:
        mapped[:] = mark
    os.close(fd)


def walk(at: Path) -> None:
    for d in sorted(os.listdir(at)):
        for entry in os.scandir(at / d):
            Path(entry.path).read_bytes()


@pytest.mark.parametrize("write", [write_by_pwrite, write_by_mapping])
def test_pushing_never_overwrites(tmp_path: Path, write: Callable[[Path, bytes], None]) -> None:
    """A reader walks, which pushes files, while another process writes into the next files."""
    workshop = Workshop(Command(tmp_path / "dirs"), tmp_path, small_files())
    random, pushed = Random(7), 0
    for round_ in range(6):
        expected = {(d, f): contents(d, f) for d in range(DIRECTORIES) for f in range(FILES)}
        workshop.upper = tmp_path / f"upper{round_}"
        workshop.work = tmp_path / f"work{round_}"
        with workshop.mounted() as at:
            reader = subprocess.Popen(
                [sys.executable, "-c", READER, at], stdout=subprocess.PIPE, text=True
            )
            assert reader.stdout and reader.stdout.readline() == "go\n"
            for d in range(DIRECTORIES):
                for f in random.sample(range(FILES), FILES // 2):
                    mark = b"<%d %d %d>" % (round_, d, f)
                    write(at / f"{d:02}/{f:02}", mark)
                    expected[d, f] = mark + expected[d, f][len(mark) :]
                time.sleep(random.random() * 0.004)
            assert reader.wait(60) == 0
            reader.stdout.close()
            compare(at, expected)
            drop_caches()
            compare(at, expected)
            pushed += stats(workshop, at)["requests"]["pushed_files"]
        with workshop.mounted() as at:
            compare(at, expected)
    assert pushed > 0


READER = """
import os, sys
at = sys.argv[1]
print("go", flush=True)
for _ in range(2):
    for d in sorted(os.listdir(at)):
        for entry in os.scandir(at + "/" + d):
            with open(entry.path, "rb") as f:
                f.read()
"""


def compare(at: Path, expected: dict[tuple[int, int], bytes]) -> None:
    wrong = [k for k, v in expected.items() if (at / f"{k[0]:02}/{k[1]:02}").read_bytes() != v]
    assert not wrong


def test_what_was_pushed_needs_no_read(tmp_path: Path) -> None:
    workshop = Workshop(Command(tmp_path / "dirs"), tmp_path, small_files())
    with workshop.mounted() as at:
        walk(at)
        requests = stats(workshop, at)["requests"]
        reads = asked(requests, "READ")
        pushed = requests["pushed_files"]
        assert pushed > DIRECTORIES * FILES / 10
        assert reads <= DIRECTORIES * FILES - pushed / 2
        assert requests["pushed_bytes"] >= pushed * 300
    with workshop.mounted("-o", "push=off") as at:
        walk(at)
        requests = stats(workshop, at)["requests"]
        assert requests["pushed_files"] == 0
        assert asked(requests, "READ") == DIRECTORIES * FILES


def test_the_kernel_asks_for_capabilities_before_a_first_write(
    workshop: Workshop, at: Path
) -> None:
    """Pushing relies on this (native/fast/push.c): a request comes before an inode's first
    write."""
    for name in ("big", "small"):
        before = stats(workshop, at)["requests"]
        write_by_pwrite(at / name, b"x")
        after = stats(workshop, at)["requests"]
        assert asked(after, "GETXATTR") == asked(before, "GETXATTR") + 1
