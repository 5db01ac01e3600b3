"""Facts that outlive the process are kept under names that cannot mean other bytes later."""

from __future__ import annotations

import gzip
import mmap
import os
from pathlib import Path

import pytest
from imagewriter import docker_archive
from layers import open_layer
from mounted import Command, mounted
from oracle import run
from tarwriter import TarWriter

from fusemount import _native
from fusemount.layer import filestate


def outer(inner: Path) -> bytes:
    return TarWriter().file("inner.tar", inner.read_bytes(), mtime_ns=5).tar()


def test_a_file_on_fuse_is_not_known_by_its_inode(tmp_path: Path) -> None:
    """Two images mounted one after the other have files with the same numbers, sizes and times."""
    command = Command(tmp_path / "dirs")
    good = TarWriter().file("f", b"good").tar()
    evil = TarWriter().file("f", b"evil").tar()
    first = docker_archive(tmp_path / "first.tar", [good])
    second = tmp_path / "second.tar"
    second.write_bytes(first.read_bytes().replace(b"good", b"evil"))
    assert evil in second.read_bytes()
    codes = []
    for archive in (first, second):
        (tmp_path / "outer.tar").write_bytes(outer(archive))
        with mounted(command, tmp_path / "outer.tar", tmp_path / "mnt") as at:
            codes.append(command("dump", at / "inner.tar", check=False).returncode)
    assert codes == [0, 5]


def test_names_last_where_the_kernel_owns_the_ctime(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        assert not filestate.identity(fd, 0, 1).startswith(filestate.TMP)
        monkeypatch.setattr(filestate, "fs_type", lambda fd: 0x65735546)
        mine = filestate.identity(fd, 0, 1)
        assert mine == filestate.identity(fd, 0, 1)
        assert mine.startswith(filestate.TMP)
        monkeypatch.setattr(filestate, "_THIS_PROCESS", b"another")
        assert filestate.identity(fd, 0, 1) != mine
    finally:
        os.close(fd)


def test_a_store_through_a_mapping_on_tmpfs_is_seen_by_the_next_process(tmp_path: Path) -> None:
    """On tmpfs such a store changes no time."""
    command, disk = Command(tmp_path / "dirs"), tmp_path / "disk"
    disk.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=1m", "none", disk)
    try:
        archive = docker_archive(disk / "i.tar", [TarWriter().file("f", b"good").tar()])
        with mounted(command, archive, tmp_path / "m") as at:
            assert (at / "f").read_bytes() == b"good"
        with open(archive, "r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
            at_byte = mapping.find(b"good")
            mapping[at_byte : at_byte + 4] = b"evil"
        assert command("dump", archive, check=False).returncode == 5
    finally:
        run("umount", disk)


def test_a_kept_index_that_shrinks_harms_nobody(tmp_path: Path) -> None:
    index = open_layer(TarWriter().file("a", b"1").symlink("l", "t").tar()).index
    path = tmp_path / "kept.idx"
    with open(path, "w+b", buffering=0) as f:
        index.save(f.fileno())
        again = _native.LayerIndex.load(f.fileno())
    os.truncate(path, 10)
    assert [again.member(i).path for i in range(len(again))] == [b"a", b"l"]


def test_a_tree_needs_no_members(tmp_path: Path) -> None:
    layer = open_layer(TarWriter().sparse("s", 8192, [(4096, b"d" * 512)]).symlink("l", "t").tar())
    tree = _native.Tree()
    tree.add_layer(layer.index, layer.fd, layer.offset)
    layer.index.drop_entries()
    assert len(layer.index) == 0
    assert tree.readlink(tree.lookup(1, b"l")) == b"t"
    assert tree.read(tree.lookup(1, b"s"), 4096, 9) == b"d" * 9
    layer.close()


@pytest.mark.parametrize("form", ["plain", "gzip"])
def test_a_store_through_a_mapping_that_was_written_to_is_seen_by_the_next_process(
    tmp_path: Path, form: str
) -> None:
    """The page is writable already, so the store changes no time. So no facts are kept about a file
    that a process has open for writing, or only mapped for writing."""
    command = Command(tmp_path / "dirs")
    archive = docker_archive(tmp_path / "i.tar", [TarWriter().file("f", b"good").tar()])
    bad = archive.read_bytes().replace(b"good", b"evil")
    if form == "gzip":
        archive.write_bytes(gzip.compress(archive.read_bytes(), 0))
        bad = gzip.compress(bad, 0)
    assert len(bad) == archive.stat().st_size
    with open(archive, "r+b") as file:
        mapping = mmap.mmap(file.fileno(), 0)
    with mapping:
        mapping[:] = mapping[:]
        before = archive.stat()
        command("dump", archive)
        mapping[:] = bad
        if archive.stat().st_mtime_ns == before.st_mtime_ns:  # not written back meanwhile
            assert command("dump", archive, check=False).returncode == 5
    os.sync()
    command("dump", docker_archive(archive, [TarWriter().file("f", b"good").tar()]))
    facts = [path.name for path in (tmp_path / "dirs/cache/facts").glob("*.json")]
    assert any(not name.startswith(filestate.TMP) for name in facts)
