"""A user's lease (fcntl(2), F_SETLEASE) on a file of an upper stops nobody who reads the upper."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from directories import view_of

from fusemount.errors import ImgmountError
from fusemount.rootfs import leases
from fusemount.rootfs.treetext import dump_lines

# Gives the lease up when the kernel asks for it (SIGIO), and tries at once to have it again, so an
# open(2) that does not wait never succeeds.  With an argument more it keeps the lease.
_HOLDER = """
import fcntl, os, signal, sys
file = os.open(sys.argv[1], os.O_RDWR)
def asked(*_):
    fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    try:
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    except BlockingIOError:
        pass
signal.signal(signal.SIGIO, signal.SIG_IGN if sys.argv[2:] else asked)
fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
print("leased", flush=True)
while True:
    signal.pause()
"""


@contextmanager
def leased(path: Path, *how: str) -> Iterator[int]:
    """The file is leased by another process, whose pid it is."""
    words = [sys.executable, "-c", _HOLDER, str(path), *how]
    holder = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout and holder.stdout.readline() == "leased\n"
        yield holder.pid
    finally:
        holder.kill()
        holder.communicate()


@pytest.fixture
def upper(tmp_path: Path) -> Path:
    for directory in ("base", "upper"):
        (tmp_path / directory).mkdir()
    (tmp_path / "upper/file").write_text("contents")
    return tmp_path / "upper"


def test_a_lease_is_broken(tmp_path: Path, upper: Path) -> None:
    with leased(upper / "file"), view_of([tmp_path / "base"], upper=upper) as view:
        assert view.leases
        view.leases.open_file(view.lookup(1, b"file"))
        assert len(list(dump_lines(view, digest=True))) > 1


def test_a_holder_that_does_not_give_it_up_is_named(
    tmp_path: Path, upper: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "SECONDS", 0.1)
    with view_of([tmp_path / "base"], upper=upper) as view:
        with leased(upper / "file", "keep") as pid, pytest.raises(ImgmountError) as caught:
            list(dump_lines(view, digest=True))
        assert str(caught.value) == (
            f"/file: cannot be read: process {pid} holds a lease on it (fcntl(2), F_SETLEASE)"
        )
        for thread in threading.enumerate():  # the one that waited has the file now
            if thread.name == leases.THREAD:
                thread.join(10)
        assert len(list(dump_lines(view, digest=True))) > 1
