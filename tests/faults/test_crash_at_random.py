"""R 43: a daemon that is killed somewhere in a long run of random operations.

The same operations are done on a mount and on a plain directory (oneprocess.py).  After each one,
open files are fsynced, because FUSE's syncfs waits for nothing; so no data are only in the kernel's
cache.  The daemon is killed before one of its calls.  The next mount shows the directory as before
or after the operation that was not answered.  A file may have a part of what that operation wrote.
"""

from __future__ import annotations

import errno
import os
import subprocess
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest
from interposer import Action
from oneprocess import Operation, Side, choose
from oracle import dump_directory
from scene import MODES, Dump, Scene, parse, unlike
from systemcalls import LONG_AGO

SLOTS = 6  # of descriptors, in oneprocess.py
RUNS = 25 if os.environ.get("FAULTS") == "all" else 4
MOST = 150  # calls, of which one is the last
WRITING = {
    "open",
    "pwrite",
    "write",
    "map",
    "copy_range",
    "save",
    "replace",
    "truncate",
    "ftruncate",
}
SEVERAL = {"replace", "rmtree", "mkdir", "save", "truncate"}  # of several calls


def dump(lines: Dump) -> Dump:
    """A dump without the times that no operation set: they depend on the clock."""
    return {
        path: (*fields[:5], b"now" if float(fields[5].replace(b"now", b"9e9")) >= LONG_AGO / 1e9
               else fields[5], *fields[6:])
        for path, fields in lines.items()
    }  # fmt: skip


def answered(side: Side, operation: Operation) -> bool:
    """Whether the operation was answered; False if the daemon died meanwhile."""
    if side(operation) in ("ENOTCONN", "ECONNABORTED"):
        return False
    try:
        side.sync_all()
        os.lstat(side.root / "f")
    except OSError as e:
        return e.errno not in (errno.ENOTCONN, errno.ECONNABORTED)
    return True


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("seed", range(RUNS))
def test_killed_in_the_middle_of_much(scene: Scene, tmp_path: Path, mode: str, seed: int) -> None:
    random = Random(seed)
    scene.fresh()
    plain = tmp_path / "plain"
    with scene.mounted(mode) as at:
        subprocess.run(["cp", "-a", at, plain], check=True)
        ours, theirs, done = Side(at), Side(plain), []
        try:
            scene.faults.arm(at=random.randrange(1, MOST), action=Action.KILL_BEFORE)
            while len(done) < 4000:
                operation = choose(random)
                if operation.name in SEVERAL:
                    continue
                done.append(operation)
                if not answered(ours, operation):
                    break
                theirs(operation)
        finally:
            for _ in range(SLOTS):  # close(2) fails on a dead mount
                with suppress(OSError):
                    ours.close_all()
    assert scene.faults.hit, f"{len(done)} operations took fewer calls"
    found = dump(scene.dump_of_upper())
    wanted = [dump(parse(dump_directory(plain)))]
    theirs(done[-1])
    theirs.close_all()
    wanted.append(dump(parse(dump_directory(plain))))
    if done[-1].name in WRITING:
        torn = {p for p in wanted[0].keys() & wanted[1] if wanted[0][p] != wanted[1][p]}
        for lines in (found, *wanted):
            for path in torn & lines.keys():
                lines[path] = (*lines[path][:4], b"", b"", *lines[path][6:10], b"", b"-")
    told = min((unlike(found, state) for state in wanted), key=len)
    assert not told, "\n".join([told, *(f"{x!r:.140}" for x in done[-12:])])
    kernel = dump(scene.kernel_dump())
    assert done[-1].name in WRITING or not (told := unlike(kernel, found)), told
