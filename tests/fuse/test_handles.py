"""File handles (open_by_handle_at(2), as an NFS server keeps them) never open another file."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from pathlib import Path

import pytest
from mounted import Command, Workshop
from tarwriter import TarWriter

_libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture
def workshop(tmp_path: Path, fastpath: bool) -> Workshop:
    tar = TarWriter().file("layer", b"of the layer").tar()
    return Workshop(Command(tmp_path / "dirs", fastpath), tmp_path, [tar])


def handle_of(path: Path) -> bytes:
    handle = ctypes.create_string_buffer(struct.pack("Ii", 128, 0), 136)
    found = _libc.name_to_handle_at(
        -100, os.fsencode(path), handle, ctypes.byref(ctypes.c_int()), 0
    )
    assert found == 0, os.strerror(ctypes.get_errno())
    return handle.raw


def read(at: Path, handle: bytes) -> bytes | None:
    """The contents of the file that the handle opens; None if the handle is stale."""
    Path("/proc/sys/vm/drop_caches").write_text("2")  # so that the kernel must ask the daemon
    mount = os.open(at, os.O_RDONLY)
    fd = _libc.open_by_handle_at(mount, ctypes.create_string_buffer(handle, 136), os.O_RDONLY)
    number = ctypes.get_errno()
    os.close(mount)
    if fd < 0:
        assert number == errno.ESTALE, os.strerror(number)
        return None
    with open(fd, "rb") as file:
        return file.read()


def test_a_handle_is_stale_or_of_the_same_file(workshop: Workshop) -> None:
    with workshop.mounted() as at:
        of_layer = handle_of(at / "layer")
        (at / "old").write_text("old")
        deleted = handle_of(at / "old")
        (at / "old").unlink()
        for n in range(20):  # one of them gets the nodeid of the old file
            (at / f"new{n}").write_text(f"new{n}")
        assert read(at, deleted) is None
        made = {f"new{n}": handle_of(at / f"new{n}") for n in range(20)}
        for name, handle in made.items():
            assert read(at, handle) == name.encode()
    os.unlink(workshop.upper / "new0")  # the others may get other nodeids
    with workshop.mounted() as at:
        assert read(at, deleted) is None
        for name, handle in made.items():
            assert read(at, handle) in (None, name.encode())
        assert read(at, of_layer) == b"of the layer"  # the layers are the same
        (at / "layer").unlink()
        (at / "again").write_text("another")
        assert read(at, of_layer) is None
