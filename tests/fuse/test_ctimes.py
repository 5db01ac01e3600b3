"""R: st_ctime is the same after an orderly end and a new mount, as on a disk."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from mounted import Command, Workshop
from tarwriter import TarWriter

TIME = 1_600_000_000_123_456_789


def layer() -> bytes:
    low = TarWriter().dir(".", mtime_ns=TIME).dir("d", mtime_ns=TIME).dir("e", mtime_ns=TIME)
    for name in ("d/a", "d/b", "d/c", "e/x", "gone"):
        low.file(name, b"lower", mtime_ns=TIME)
    return low.symlink("l", "d/a", mtime_ns=TIME).node("p", "fifo", mtime_ns=TIME).tar()


@pytest.fixture
def workshop(tmp_path: Path, fastpath: bool) -> Iterator[Workshop]:
    yield Workshop(Command(tmp_path / "dirs", fastpath), tmp_path, [layer()])


def ctimes(at: Path) -> dict[str, int]:
    found = [at, *sorted(at.rglob("*"))]
    return {str(path.relative_to(at)): os.lstat(path).st_ctime_ns for path in found}


def change(at: Path) -> None:
    """One change of each kind."""
    os.chmod(at / "d/a", 0o600)
    os.rename(at / "d/b", at / "e/b")
    (at / "d/c").write_bytes(b"more")
    (at / "new").write_bytes(b"new")
    os.link(at / "new", at / "new2")
    os.setxattr(at / "new", "user.k", b"v")
    os.chown(at / "l", 3, 3, follow_symlinks=False)
    os.utime(at / "p", ns=(TIME, TIME))
    os.rename(at / "e", at / "moved")
    (at / "made").mkdir()
    os.unlink(at / "gone")


def test_ctimes_are_the_same_at_the_next_mount(workshop: Workshop) -> None:
    with workshop.mounted() as at:
        change(at)
        told = ctimes(at)
    for _ in range(2):  # the second mount reads the table that the first has written
        with workshop.mounted() as at:
            assert ctimes(at) == told


def test_a_change_between_two_mounts_shows(workshop: Workshop) -> None:
    with workshop.mounted() as at:
        change(at)
        told = ctimes(at)
    os.chmod(workshop.upper / "new", 0o604)
    with workshop.mounted() as at:
        now = ctimes(at)
        own = os.stat(workshop.upper / "new").st_ctime_ns
        assert now.pop("new") == now.pop("new2") == own > told.pop("new")
        told.pop("new2")
        assert now == told


def test_the_table_tells_what_was_cached(workshop: Workshop) -> None:
    """The ctime that the kernel shows differs from that of the object in the upper; otherwise no
    table would be needed, and the tests above would test nothing."""
    with workshop.mounted() as at:
        (at / "new").write_bytes(b"new")
        subprocess.run(["sync", "-f", at], check=True)
        told = os.stat(at / "new").st_ctime_ns
        assert os.stat(workshop.upper / "new").st_ctime_ns > told
