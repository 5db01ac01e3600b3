"""Law: a signal ends a computation of the C core at once, and nothing is left behind.

The image is small and its merge is not: without its limit it takes most of a minute, with it a
second.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

import pytest
from layers import open_layer
from tarwriter import TarWriter

from fusemount import _native


def slow_to_merge() -> bytes:
    """38 links in a chain, each of 4 KB of steps, on the way to each of 10,000 files."""
    t = TarWriter("gnu").dir("d")
    for i in range(37):
        t.symlink(f"L{i}", "../d/" * 816 + f"../L{i + 1}")
    t.symlink("L37", "d")
    for i in range(10000):
        t.file(f"L0/{i % 2}/{i}")
    return t.tar()


class Heard(Exception):
    pass


def test_a_signal_ends_a_merge_from_within() -> None:
    def hear(_number: int, _frame: FrameType | None) -> None:
        raise Heard

    layer = open_layer(slow_to_merge())
    before = signal.signal(signal.SIGALRM, hear)
    try:
        start = time.monotonic()
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(Heard) as caught:
            _native.Tree().add_layer(layer.index, layer.fd, layer.offset)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        layer.close()
    # if C ignored the signal, it would reach its limit first, which is an error
    assert caught.value.__context__ is None
    assert time.monotonic() - start < 5


@pytest.mark.parametrize(
    "verb, number, code", [("dump", signal.SIGINT, 130), ("mount", signal.SIGTERM, 143)]
)
def test_a_command_ends_by_a_signal(
    tmp_path: Path, verb: str, number: signal.Signals, code: int
) -> None:
    tar, cache, at = tmp_path / "slow.tar", tmp_path / "cache", tmp_path / "at"
    tar.write_bytes(slow_to_merge())
    at.mkdir()
    env = {f"IMGMOUNT_{name}_DIR": str(tmp_path / name.lower())
           for name in ("CACHE", "STATE", "ROOT", "RUNTIME")}  # fmt: skip
    words = [verb, f"tar:{tar}", *([str(at)] if verb == "mount" else [])]
    command = [sys.executable, "-m", "fusemount", *words]
    with subprocess.Popen(command, env=os.environ | env, stderr=subprocess.PIPE) as process:
        while not list(cache.glob("index/*.idx")) and process.poll() is None:
            time.sleep(0.005)  # the index is kept when the merge is about to begin
        process.send_signal(number)
        _, output = process.communicate(timeout=10)
    assert (process.returncode, output) == (code, b"")
    assert not os.path.ismount(at)
    kept = [str(path) for path in cache.rglob("*") if path.is_file()]
    assert kept and not [path for path in kept if "tmp" in Path(path).name]
