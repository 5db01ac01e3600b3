"""The table of ctimes (ctimes.py): what it contains, and when it is ignored."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from fusemount.rootfs.ctimes import Ctimes, read_ctimes, write_ctimes

_UNUSED = 2**63  # no file system here gives an inode this number


@pytest.fixture
def work(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


@pytest.fixture
def kept(work: int, tmp_path: Path) -> os.stat_result:
    """An object that existed when the table was written; the table has the ctime 5 for it."""
    (tmp_path / "object").write_bytes(b"")
    st = os.stat(tmp_path / "object")
    write_ctimes(work, [(st.st_ino, 5), (_UNUSED, -6)])
    return st


def table(tmp_path: Path) -> Path:
    return tmp_path / "imgmount.ctimes"


def test_it_tells_what_was_told(work: int, kept: os.stat_result) -> None:
    found = read_ctimes(work)
    assert found.of(kept) == 5
    assert found.shown[_UNUSED] == -6


def test_it_is_replaced(work: int, kept: os.stat_result, tmp_path: Path) -> None:
    write_ctimes(work, [(kept.st_ino, 7)])
    assert read_ctimes(work).of(kept) == 7
    assert sorted(os.listdir(tmp_path)) == ["imgmount.ctimes", "object"]


def test_an_object_that_was_changed_since_tells_its_own(work: int, kept: os.stat_result) -> None:
    found = read_ctimes(work)
    assert Ctimes(found.shown, kept.st_ctime_ns - 1).of(kept) == kept.st_ctime_ns


def test_an_object_that_is_not_in_it_tells_its_own(work: int, kept: os.stat_result) -> None:
    assert read_ctimes(work).of(os.fstat(work)) == os.fstat(work).st_ctime_ns


@pytest.mark.parametrize(
    "how", ["absent", "cut", "flipped", "empty", "symlink", "fifo", "no numbers"]
)
def test_what_is_no_whole_table_counts_for_nothing(
    work: int, kept: os.stat_result, tmp_path: Path, how: str
) -> None:
    path = table(tmp_path)
    data = path.read_bytes()
    path.unlink()
    if how == "symlink":
        (tmp_path / "other").write_bytes(data)
        path.symlink_to("other")
    elif how == "fifo":
        os.mkfifo(path)
    elif how != "absent":
        damaged = {
            "cut": data[:-1], "flipped": data.replace(b" 5\n", b" 4\n"), "empty": b"",
            "no numbers": data.replace(b" 5\n", b" x\n"),
        }  # fmt: skip
        assert damaged[how] != data
        path.write_bytes(damaged[how])
    assert read_ctimes(work) == Ctimes()
