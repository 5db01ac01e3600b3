"""R 35, R 38, R 41: a hundred thousand names in a directory, as many files open, and long paths."""

from __future__ import annotations

import json
import os
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mounted import Command, Workshop
from oracle import run
from tarwriter import TarWriter

COUNT = 100_000


def many() -> list[bytes]:
    t = TarWriter("ustar").dir("many")
    for i in range(COUNT):
        t.file(f"many/{i:06}", b"%d" % i)
    return [t.tar()]


@contextmanager
def open_files_allowed(count: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, max(count, before[1])))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_r35_r41_a_hundred_thousand(tmp_path: Path) -> None:
    """Open at once under a daemon that may have 1,024 descriptors, then listed, then removed."""
    workshop = Workshop(Command(tmp_path / "dirs"), tmp_path, many())
    with open_files_allowed(COUNT + 1000), workshop.mounted() as at:
        (mount,) = json.loads(workshop.command("mounts", "--json").stdout)
        resource.prlimit(mount["pid"], resource.RLIMIT_NOFILE, (1024, 1024))
        fds: list[int] = []
        try:
            directory = os.open(at / "many", os.O_PATH)
            fds.append(directory)
            for i in range(COUNT):
                fds.append(os.open(f"{i:06}", os.O_RDWR, dir_fd=directory))
            for i in range(0, COUNT, 25):  # 4,000 come up
                os.pwrite(fds[i + 1], b"X", 0)
            for i in range(0, COUNT, 10):
                text = b"%d" % i
                assert os.pread(fds[i + 1], 9, 0) == (text if i % 25 else b"X" + text[1:])
            assert len(os.listdir(f"/proc/{mount['pid']}/fd")) < 1024
        finally:
            while fds:
                os.close(fds.pop())
        begun = time.monotonic()
        names = os.listdir(at / "many")
        assert len(names) == len(set(names)) == COUNT
        run("rm", "-rf", at / "many")
        assert os.listdir(at) == []
        assert time.monotonic() - begun < 60
    with workshop.mounted() as at:
        assert os.listdir(at) == []


def test_r38_five_hundred_deep(tmp_path: Path, fastpath: bool) -> None:
    """Half of it from a layer, half made here; the path has 4,095 bytes at most."""
    low = "/".join(["d" * 6] * 250)
    t = TarWriter("gnu").dir("d" * 6)
    workshop = Workshop(
        Command(tmp_path / "dirs", fastpath), tmp_path, [t.file(f"{low}/f", b"lower").tar()]
    )
    before = os.open(".", os.O_PATH)
    try:
        for turn in range(2):
            with workshop.mounted() as at:
                os.chdir(at)  # the mountpoint's own path is not ours to shorten
                if turn == 0:
                    (Path(low) / "f").write_bytes(b"upper")
                    os.makedirs(f"{low}/" + "/".join(["e" * 6] * 250))
                deep = f"{low}/" + "/".join(["e" * 6] * 250)
                name = "n" * (4095 - len(deep) - 1)
                assert (Path(low) / "f").read_bytes() == b"upper"
                if turn == 0:
                    Path(f"{deep}/{name}").write_bytes(b"deep")
                    os.rename("d" * 6, "renamed")
                    os.rename("renamed", "d" * 6)
                assert Path(f"{deep}/{name}").read_bytes() == b"deep"
                os.fchdir(before)
    finally:
        os.fchdir(before)
        os.close(before)
