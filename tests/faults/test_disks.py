"""R 43: an ext4 below the upper that is full, read-only, or loses power.

E1 to E3 of test_errors.py hold there, too, and:

    P1  Synced data of a file survive a loss of power (ext4's shutdown without a log flush), and its
        name, if its directory was synced.
    P2  After a copy-up that was not synced, the file is the lower file or the complete copy.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from disk import ext4
from faultcases import CASES, opened
from oracle import run
from scene import MODES, Dump, Scene, unlike
from test_crash import states_of
from test_errors import run as run_steps

TRIED = (
    "create in a directory of the layers",
    "create under a default ACL of the layers",
    "mkdir over a directory's whiteout",
    "symlink over a whiteout",
    "write to a lower file",
    "write to a file whose data are below",
    "extend a lower file",
    "chmod a lower file with hardlinks",
    "setxattr of a lower directory",
    "set an ACL of an upper file",
    "link a lower file over a whiteout",
    "unlink a lower file in a deep directory",
    "rmdir of a directory with whiteouts",
    "rename a lower directory into another",
    "exchange a file and a directory",
)


@contextmanager
def no_blocks(disk: Path) -> Iterator[None]:
    filler = disk / "filler"
    with opened(filler, os.O_WRONLY | os.O_CREAT) as fd:
        for size in (1 << 20, 4096):
            try:
                while True:
                    os.write(fd, bytes(size))
            except OSError as e:
                assert e.errno == errno.ENOSPC
        os.fsync(fd)
    yield
    filler.unlink()
    os.sync()


@contextmanager
def no_inodes(disk: Path) -> Iterator[None]:
    many = disk / "many"
    many.mkdir()
    for i in range(os.statvfs(disk).f_favail):
        (many / str(i)).touch()
    yield
    for file in many.iterdir():
        file.unlink()
    many.rmdir()


@contextmanager
def read_only(disk: Path) -> Iterator[None]:
    run("mount", "-o", "remount,ro", disk)
    yield
    run("mount", "-o", "remount,rw", disk)


BROKEN = {
    "no-blocks": (no_blocks, errno.ENOSPC),
    "no-inodes": (no_inodes, errno.ENOSPC),
    "read-only": (read_only, errno.EROFS),
}


@contextmanager
def elsewhere(scene: Scene, disk: Path) -> Iterator[None]:
    """The cases' uppers are on that disk."""
    before = scene.case
    scene.place(disk / "case")
    try:
        yield
    finally:
        scene.place(before)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("broken", BROKEN)
def test_a_disk_that_takes_nothing(
    scene: Scene, before: Dump, tmp_path: Path, broken: str, mode: str
) -> None:
    how, number = BROKEN[broken]
    wrong = []
    with ext4(tmp_path / "small", 16, "-N", "300") as disk, elsewhere(scene, disk.at):
        for name in TRIED:
            case = CASES[name]
            states = [before, *states_of(scene, case.steps, mode)[0]]
            scene.fresh()
            with scene.mounted(mode) as at:
                with how(disk.at):
                    done, told = run_steps(case.steps, at)
                    if told not in (0, number):
                        wrong.append(f"{name}: E1: told {errno.errorcode[told]}")
                    seen = scene.dump(at)
                for path in case.loose:
                    del seen[path]
                state = {p: f for p, f in states[done].items() if p not in case.loose}
                if difference := unlike(seen, state):
                    wrong.append(f"{name}: E2: the mount shows\n{difference}")
                _, again = run_steps(case.steps[done:], at)
                if again:
                    wrong.append(f"{name}: E3: {errno.errorcode[again]}")
            for found in (scene.dump_of_upper(), scene.kernel_dump()):
                if difference := unlike(found, states[-1], case.loose):
                    wrong.append(f"{name}: E3: afterwards\n{difference}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("mode", MODES)
def test_what_was_synced_outlives_the_power(
    scene: Scene, before: Dump, tmp_path: Path, mode: str
) -> None:
    with ext4(tmp_path / "small", 16) as disk, elsewhere(scene, disk.at):
        scene.fresh()
        os.sync()
        with scene.mounted(mode) as at:
            for name in ("file", "a/b/c/deep", "fresh"):  # P1
                with opened(at / name, os.O_RDWR | os.O_CREAT) as fd:
                    os.pwrite(fd, b"synced", 0)
                    os.fsync(fd)
            (at / "a/b/c/deep").rename(at / "moved/deep")
            (at / "newer").unlink()
            (at / "made").mkdir()
            with opened(at, os.O_RDONLY) as fd:
                os.fsync(fd)
            with opened(at / "moved", os.O_RDONLY) as fd:
                os.fsync(fd)
            with opened(at / "sparse") as fd:  # P2
                os.pwrite(fd, b"not synced", 0)
            disk.cut_power()
            os.kill(scene.pid, signal.SIGKILL)
        run("umount", disk.at)
        disk.mount()
        found = scene.dump_of_upper()
    seen = {p: found.pop(p, None) for p in (b"/file", b"/moved/deep", b"/fresh", b"/made")}
    assert None not in seen.values() and b"/newer" not in found and b"/a/b/c/deep" not in found
    assert seen[b"/file"] and seen[b"/file"][4] == before[b"/file"][4]
    assert seen[b"/fresh"] and seen[b"/fresh"][4] == b"6"
    old = {p: f for p, f in before.items() if p in found and p not in (b"/", b"/sparse")}
    assert not unlike({p: f for p, f in found.items() if p in old}, old)
    assert found[b"/sparse"][4] == before[b"/sparse"][4]
