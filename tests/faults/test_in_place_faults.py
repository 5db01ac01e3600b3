"""A process that is killed, or whose calls fail, at any step while it makes or uses what is kept of
layers that are read in place: index, facts, points, sidecar, digests of chunks, and chunks.

Each case runs once to count the system calls by which it changes the cache.  Then, for each of
these calls, the process is killed before it, or the call fails.  Afterwards:

    K1  A process whose calls fail reads the right bytes nevertheless.
    K2  The next opening reads the right bytes, and leaves everything kept: no temporary file is
        left, each chunk that is noted has its digest, and one more opening makes no pass.
    K3  An eviction of all leaves no chunk, noted or not.

A deterministic share of the calls is tried, in some 5 s; all of them if FAULTS=all.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from random import Random

import pytest
from disk import ext4
from imagewriter import ImageSpec, compress, oci_archive, sha256
from inplace import check_kept
from interposer import Action, Call, Class, Interposer
from storerunner import Ended, Runner
from tarwriter import TarWriter

from fusemount._native import CHUNK
from fusemount.layer import chunkcache
from fusemount.layer.reframe import FRAME_MAX
from fusemount.settings import Directories

THOROUGH = os.environ.get("FAULTS") == "all"
KILLED_OF, FAILED_OF = 29, 37  # of this many calls, one is tried
_ERRORS = {errno.ENOSPC: Class.SPACE, errno.EIO: Class.NONE}
_STATES = 2 * 8192  # bytes on disk of the states of both layers


class Place:
    """An image of a gzip layer and a zstd one that has a sidecar, and a cache that has all of it
    before each case."""

    def __init__(self, base: Path, faults: Interposer, runner: Runner) -> None:
        self.faults, self._runner, self._base = faults, runner, base
        self._counted: dict[str, list[Call]] = {}
        random = Random(5)
        self.tars = [
            TarWriter().file("a", random.randbytes(3 * CHUNK)).tar(),
            TarWriter().file("b", random.randbytes(CHUNK) * (FRAME_MAX // CHUNK + 1)).tar(),
        ]
        diff_ids = ["sha256:" + sha256(tar) for tar in self.tars]
        blobs = [compress(tar, how) for tar, how in zip(self.tars, ("gzip", "zstd"), strict=True)]
        spec = ImageSpec(
            blobs, ("t",), {"rootfs": {"type": "layers", "diff_ids": diff_ids}}, "none"
        )
        self.image = oci_archive(base / "i.tar", images=[spec])
        self.cache = base / "cache"
        faults.watch(self.cache)

    def run(self, verb: str) -> Ended:
        return self._runner([verb, self._base, self.image, *map(sha256, self.tars)])

    def counted(self, name: str) -> list[Call]:
        """The calls of a run without a fault."""
        if name not in self._counted:
            before, verb = CASES[name]
            before(self.cache)
            self.faults.arm()
            ended = self.run(verb)
            self._counted[name] = self.faults.disarm()
            assert ended.code == 0 and self._counted[name], ended.line
            self.check()
        return self._counted[name]

    def check(self, n: int = 0) -> None:
        """K2, K3; the eviction comes first for two of four steps.  A temporary file that is not
        locked goes when it is old."""
        for path in self.cache.rglob(".tmp-*"):
            os.utime(path, (0, 0))
        if n // 2 % 2 and (self.cache / "chunks").is_dir():
            self._check_eviction()
        ended = self.run("read")
        assert ended.code == 0, f"K2: {ended.line}"
        directories = Directories(self.cache, self._base / "state", self._base / "run")
        check_kept(self.image, directories, self.tars)
        self._check_eviction()
        assert self.run("read").code == 0

    def _check_eviction(self) -> None:
        chunkcache.evict(self.cache / "chunks", 0)
        assert chunkcache.size(self.cache / "chunks") <= _STATES, "K3"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    base = tmp_path_factory.mktemp("inplace")
    with ExitStack() as stack:
        disk = stack.enter_context(ext4(base / "disk", 96)).at
        faults = stack.enter_context(closing(Interposer(base)))
        runner = Runner(dict(os.environ) | faults.environment, base / "log")
        found = Place(disk, faults, stack.enter_context(closing(runner)))
        found.check()
        yield found


# ---- what a case does before: verb that is tried


def _nothing_kept(cache: Path) -> None:
    shutil.rmtree(cache)


def _without(pattern: str) -> Callable[[Path], None]:
    def remove(cache: Path) -> None:
        for path in cache.glob(pattern):
            path.unlink()

    return remove


def _no_chunks(cache: Path) -> None:
    chunkcache.evict(cache / "chunks", 0)


def _all_kept(cache: Path) -> None:
    pass


CASES: dict[str, tuple[Callable[[Path], None], str]] = {
    "first opening": (_nothing_kept, "read"),
    "points were lost": (_without("points/*.pts"), "read"),
    "an index was lost": (_without("index/*"), "read"),
    "digests were lost": (_without("chunks/*.sums"), "read"),
    "a sidecar was lost": (_without("points/*.zst"), "read"),
    "filling chunks": (_no_chunks, "read"),
    "evicting chunks": (_all_kept, "evict"),
}


def some(calls: list[Call], name: str, share: int) -> list[int]:
    """Numbers of the calls that are tried; all cases together try all kinds."""
    first = 5 * list(CASES).index(name)
    return [n for n in range(1, len(calls) + 1) if THOROUGH or (n + first) % share == 0]


@pytest.mark.parametrize("name", CASES)
def test_a_killed_process_harms_nothing(place: Place, name: str) -> None:
    calls, wrong = place.counted(name), []
    before, verb = CASES[name]
    for n in some(calls, name, KILLED_OF):
        before(place.cache)
        place.faults.arm(at=n, action=Action.KILL_BEFORE)
        ended = place.run(verb)
        place.faults.disarm()
        if place.faults.hit != (ended.code == -signal.SIGKILL):
            wrong.append(f"{n}: it ended with {ended}")
        try:
            place.check(n)
        except AssertionError as error:
            wrong.append(f"killed before {n}, {calls[n - 1]}: {error}")
    assert not wrong, "\n".join([*wrong, "the calls:", *map(str, calls)])


@pytest.mark.parametrize("name", CASES)
def test_a_failing_cache_harms_nothing(place: Place, name: str) -> None:
    calls, wrong = place.counted(name), []
    before, verb = CASES[name]
    syncs = {n for n, call in enumerate(calls, start=1) if call.kind is Class.SYNC}
    for n in sorted({*some(calls, name, FAILED_OF), *syncs}):
        for number in _ERRORS if THOROUGH else [list(_ERRORS)[n // FAILED_OF % 2]]:
            before(place.cache)
            place.faults.arm(at=n, action=Action.FAIL, error=number, then=_ERRORS[number])
            ended = place.run(verb)
            place.faults.disarm()
            fault = f"{errno.errorcode[number]} of {n}, {calls[n - 1]}"
            if ended.code and verb == "read":
                wrong.append(f"{fault}: K1: {ended.line}")
            try:
                place.check(n)
            except AssertionError as error:
                wrong.append(f"{fault}: {error}")
    assert not wrong, "\n".join([*wrong, "the calls:", *map(str, calls)])
