"""Checks outputs in directories of other users, who may put and exchange files there."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import pytest

from fusemount.digest import Digest
from fusemount.errors import ImgmountError
from fusemount.sources.output import ArchiveOutput, LayoutOutput, PlainOutput

DATA = b"a blob"
NAME = Digest.of(DATA).hex
SOMEBODY = 65533


def write(output: LayoutOutput) -> None:
    with output.blob() as blob:
        blob.write(DATA)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Another directory of the caller, with the same blob."""
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / NAME).write_bytes(DATA)
    return tmp_path / "store"


def exchange(blobs: Path, target: Path) -> None:
    blobs.rename(blobs.with_name("before"))
    blobs.symlink_to(target)


def test_nothing_is_removed_through_a_symlink(tmp_path: Path, store: Path) -> None:
    output = LayoutOutput(tmp_path / "out")
    write(output)
    exchange(tmp_path / "out/blobs/sha256", store)
    output.leave()
    assert os.listdir(store) == [NAME]
    assert os.listdir(tmp_path / "out/blobs/before") == []


def test_a_name_that_another_file_has_by_now_is_left(tmp_path: Path) -> None:
    output = LayoutOutput(tmp_path / "out")
    write(output)
    blob = tmp_path / "out/blobs/sha256" / NAME
    blob.rename(blob.with_name("before"))
    blob.write_bytes(b"another")
    output.leave()
    assert blob.read_bytes() == b"another"


def test_nothing_is_made_through_a_symlink(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "put/blobs").mkdir(parents=True)
    (tmp_path / "put/blobs/sha256").symlink_to(elsewhere)
    with pytest.raises(ImgmountError, match=r"put: .*sha256 is a symlink"):
        LayoutOutput(tmp_path / "put")
    output = LayoutOutput(tmp_path / "exchanged")
    exchange(tmp_path / "exchanged/blobs/sha256", elsewhere)
    write(output)
    output.document("index.json", b"{}")
    output.finish()
    output.leave()
    assert os.listdir(elsewhere) == []
    assert os.listdir(tmp_path / "exchanged/blobs/before") == [NAME]


@pytest.mark.parametrize("kind", [ArchiveOutput, PlainOutput])
def test_symlinks_of_another_user_are_not_followed(
    tmp_path: Path, kind: Callable[[Path], ArchiveOutput | PlainOutput]
) -> None:
    victim = tmp_path / "victim/shadow"
    victim.parent.mkdir()
    victim.write_bytes(b"secret")
    (tmp_path / "out.tar").symlink_to(victim)
    (tmp_path / "dir").symlink_to(victim.parent)
    for name in ("out.tar", "dir"):
        os.chown(tmp_path / name, SOMEBODY, SOMEBODY, follow_symlinks=False)
    for path in ("out.tar", "dir/shadow"):
        with pytest.raises(ImgmountError, match=f"{path}: .* is a symlink of uid {SOMEBODY}"):
            kind(tmp_path / path)
    assert victim.read_bytes() == b"secret" and os.listdir(victim.parent) == ["shadow"]


def test_a_directory_that_is_exchanged_gets_nothing(tmp_path: Path, store: Path) -> None:
    (tmp_path / "dir").mkdir()
    with PlainOutput(tmp_path / "dir" / NAME) as output:
        exchange(tmp_path / "dir", store)
        output.write(b"new")
    assert (store / NAME).read_bytes() == DATA
    assert (tmp_path / "before" / NAME).read_bytes() == b"new"


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _endless(path: Path) -> None:
    path.touch()
    os.truncate(path, (4 << 20) + 1)


def _symlink(path: Path) -> None:
    secret = path.with_name(".secret")
    secret.write_text(json.dumps({"manifests": []}))
    path.symlink_to(secret)


@pytest.mark.parametrize(
    ("put", "message"),
    [(_fifo, "is no regular file"), (_endless, "more than 4194304 bytes, the limit"),
     (_symlink, "is no regular file")],
)  # fmt: skip
def test_an_index_is_a_file_of_limited_size(
    tmp_path: Path, put: Callable[[Path], None], message: str
) -> None:
    def hangs(_number: int, _frame: FrameType | None) -> None:
        raise TimeoutError

    output = LayoutOutput(tmp_path)
    put(tmp_path / "index.json")
    before = signal.signal(signal.SIGALRM, hangs)
    signal.alarm(20)
    try:
        with pytest.raises(ImgmountError, match=f"index.json.* {message}"):
            output.existing_document("index.json")
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        output.leave()


@pytest.mark.parametrize("planted", [b"A blob", DATA])
def test_a_blob_that_is_there_is_hashed(tmp_path: Path, planted: bytes) -> None:
    blob = tmp_path / "blobs/sha256" / NAME
    blob.parent.mkdir(parents=True)
    blob.write_bytes(planted)
    inode = blob.stat().st_ino
    output = LayoutOutput(tmp_path)
    write(output)
    output.finish()
    output.leave()
    assert blob.read_bytes() == DATA
    assert (blob.stat().st_ino == inode) == (planted == DATA)
    assert os.listdir(blob.parent) == [NAME]
