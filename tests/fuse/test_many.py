"""R 35, R 38, R 41: a hundred thousand names in a directory, as many files open, and long paths."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mounted import Command, Workshop
from tarwriter import TarWriter

COUNT = 100_000


def many() -> list[bytes]:
    t = TarWriter("ustar").dir("many")
    for i in range(COUNT):
        t.file(f"many/{i:06}", b"%d" % i)
    return [t.tar()]


HOLD = """
import os, resource, sys
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
directory, first, last = os.open(sys.argv[1], os.O_PATH), int(sys.argv[2]), int(sys.argv[3])
fds = {i: os.open(f"{i:06}", os.O_RDWR, dir_fd=directory) for i in range(first, last)}
print("open", flush=True)
sys.stdin.readline()
for i in range(first, last, 250):
    os.pwrite(fds[i], b"X", 0)
for i in range(first, last, 5):
    text = b"%d" % i
    assert os.pread(fds[i], 9, 0) == (text if (i - first) % 250 else b"X" + text[1:]), i
print("right", flush=True)
sys.stdin.readline()
"""


@contextmanager
def holding(directory: Path) -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that keep all files open, each as many as it may, and work when asked to."""
    share = min(20_000, resource.getrlimit(resource.RLIMIT_NOFILE)[1] - 100)
    processes = []
    try:
        for first in range(0, COUNT, share):
            command = [sys.executable, "-c", HOLD, directory, first, min(first + share, COUNT)]
            processes.append(
                subprocess.Popen(list(map(str, command)), text=True, stdin=subprocess.PIPE,
                                 stdout=subprocess.PIPE)
            )  # fmt: skip
        yield processes
    finally:
        for process in processes:
            process.communicate("\n\n", timeout=120)


def answers(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline().strip()


def test_r35_r41_a_hundred_thousand(tmp_path: Path) -> None:
    """Open at once under a daemon that may have 1,024 descriptors, then listed."""
    workshop = Workshop(Command(tmp_path / "dirs"), tmp_path, many())
    with workshop.mounted() as at:
        (mount,) = json.loads(workshop.command("mounts", "--json").stdout)
        resource.prlimit(mount["pid"], resource.RLIMIT_NOFILE, (1024, 1024))
        with holding(at / "many") as processes:
            assert {answers(p) for p in processes} == {"open"}
            for process in processes:
                assert process.stdin
                process.stdin.write("go on\n")
                process.stdin.flush()
            assert {answers(p) for p in processes} == {"right"}
            assert len(os.listdir(f"/proc/{mount['pid']}/fd")) < 1024
        names = os.listdir(at / "many")
        assert len(names) == len(set(names)) == COUNT


def test_r38_five_hundred_deep(tmp_path: Path, fastpath: bool) -> None:
    """Half of it from a layer, half made here; the path has 4,095 bytes at most."""
    low = "/".join(["d" * 7] * 250)
    t = TarWriter("gnu").dir("d" * 7)
    workshop = Workshop(
        Command(tmp_path / "dirs", fastpath), tmp_path, [t.file(f"{low}/f", b"lower").tar()]
    )
    before = os.open(".", os.O_PATH)
    try:
        for turn in range(2):
            with workshop.mounted() as at:
                os.chdir(at)  # the path of the mountpoint would count too
                if turn == 0:
                    (Path(low) / "f").write_bytes(b"upper")
                    os.makedirs(f"{low}/" + "/".join(["e" * 7] * 250))
                deep = f"{low}/" + "/".join(["e" * 7] * 250)
                name = "n" * (4095 - len(deep) - 1)
                assert (Path(low) / "f").read_bytes() == b"upper"
                if turn == 0:
                    Path(f"{deep}/{name}").write_bytes(b"deep")
                    os.rename("d" * 7, "renamed")
                    os.rename("renamed", "d" * 7)
                assert Path(f"{deep}/{name}").read_bytes() == b"deep"
                os.fchdir(before)
    finally:
        os.fchdir(before)
        os.close(before)
