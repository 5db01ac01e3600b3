"""Checks that the memory of import, push and pull does not grow with a layer."""

from __future__ import annotations

import gzip
import random
import subprocess
import sys
from pathlib import Path

from mounted import Command
from realregistry import RealRegistry
from storing import clean
from tarwriter import TarWriter

from fusemount.store import Store

LIMIT = 120 << 20  # bytes
BLOCK, BLOCKS, NOISE = 8 << 20, 50, 1 << 20  # of noise in each block
MEASURED = """
import re, sys
from fusemount.cli.main import main
code = main(sys.argv[1:])
print("peak", re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
sys.exit(code)
"""


def big_layer(path: Path) -> None:
    """A tar of one file of 400 MB, each of its blocks a member of the gzip stream."""
    head = bytearray(TarWriter().file("big", b"").tar()[:512])
    head[124:136] = b"%011o\0" % (BLOCK * BLOCKS)
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    block = gzip.compress(random.Random(1).randbytes(NOISE) + bytes(BLOCK - NOISE), 1)
    with open(path, "wb") as file:
        file.write(gzip.compress(bytes(head), 1))
        for _ in range(BLOCKS):
            file.write(block)
        file.write(gzip.compress(bytes(1024), 1))


def peak(command: Command, *words: str | Path) -> int:
    """Peak memory in bytes.  ru_maxrss may be that of the process it was forked from."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *map(str, words)],
        env=command.environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return int(done.stdout.rpartition("peak ")[2]) << 10


def test_a_large_layer(registry: RealRegistry, tmp_path: Path) -> None:
    big_layer(tmp_path / "big.tar.gz")
    name = f"{registry.domain}/big:1"
    one, two = Command(tmp_path / "one"), Command(tmp_path / "two")
    taken = {
        "import": peak(one, "import", tmp_path / "big.tar.gz", name),
        "push": peak(one, "push", name),
        "pull": peak(two, "pull", name),
    }
    assert max(taken.values()) <= LIMIT, {what: n >> 20 for what, n in taken.items()}
    store = Store(tmp_path / "two/root")
    (row,) = store.find(name).summary.layers
    assert row.archive_size == BLOCK * BLOCKS + 512 + 1024
    clean(store, images=1)
    print({what: f"{n >> 20} MiB" for what, n in taken.items()})
