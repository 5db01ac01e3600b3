"""The chunk cache is held to its size while layers are read, and readers see no difference."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import trio
from imagewriter import docker_archive, oci_layout
from mounted import Command, mounted
from tarwriter import TarWriter

from fusemount._native import CHUNK, Packed, stop_decoding_ahead
from fusemount.cli.main import main
from fusemount.daemon import chunkkeeper
from fusemount.daemon.chunkkeeper import ChunkKeeper, keeping
from fusemount.layer import SilentProgress, chunkcache, open_layers
from fusemount.reference import Reference
from fusemount.settings import Directories, ImageOptions, Platform
from fusemount.sources import open_image

TELL = 64 << 20  # IMG_PACKED_TELL (native/packed/packed.h)
LIMIT = 4 * CHUNK
STATES = 8192  # bytes on disk of the states of these layers


@contextmanager
def opened(base: Path, tar: bytes) -> Iterator[Packed]:
    image = oci_layout(base / "layout", [tar], compress="gzip")
    directories = Directories(base / "cache", base / "state", base / "runtime")
    options = ImageOptions(Platform("linux", "amd64"))
    with ExitStack() as stack:
        reference = Reference("oci", image, None)
        with open_image(reference, options, directories, SilentProgress()) as found:
            (layer,) = open_layers(found, options, directories, SilentProgress())
        stack.callback(layer.close)
        assert layer.packed is not None
        yield layer.packed


def test_it_looks_at_the_start_and_when_the_core_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tar = TarWriter().file("big", b"0123456789abcdef" * (TELL // 16 + CHUNK)).tar()
    directory = tmp_path / "cache" / "chunks"
    send, receive = trio.open_memory_channel[int](10)

    def evict(where: Path, limit: int | None) -> int:
        freed = chunkcache.evict(where, limit)
        trio.from_thread.run_sync(send.send_nowait, chunkcache.size(where))
        return freed

    async def serve(packed: Packed) -> None:
        with keeping([packed], directory, LIMIT) as keeper:
            assert keeper is not None
            async with trio.open_nursery() as nursery:
                nursery.start_soon(keeper.keep)
                assert 0 < await receive.receive() <= LIMIT + STATES  # at the start
                for at in range(0, len(tar), CHUNK):
                    size = min(CHUNK, len(tar) - at)
                    piece = await trio.to_thread.run_sync(packed.read, at, size)
                    assert piece == tar[at : at + size]
                await receive.receive()  # the core told
                assert packed.read(CHUNK - 5, 10) == tar[CHUNK - 5 : CHUNK + 5]
                nursery.cancel_scope.cancel()

    monkeypatch.setattr(chunkkeeper, "evict", evict)
    with opened(tmp_path, tar) as packed:
        packed.read(0, 10 * CHUNK)
        assert chunkcache.size(directory) >= 10 * CHUNK
        trio.run(serve, packed)
        packed.read(0, CHUNK)  # the eventfd is closed, and nobody writes to its number


def test_chunks_that_are_only_read_count_as_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No keeper is told of them: time alone makes it write, and the end of the mount."""
    tar = TarWriter().file("f", os.urandom(3 * CHUNK)).tar()

    def used() -> list[int]:
        (path,) = (tmp_path / "cache" / "chunks").glob("*.data")
        return [when for _, when in chunkcache.states(path)[:3]]

    async def serve(packed: Packed) -> None:
        with keeping([packed], tmp_path / "cache" / "chunks", LIMIT) as keeper:
            assert keeper is not None
            async with trio.open_nursery() as nursery:
                nursery.start_soon(keeper.keep)
                packed.read(CHUNK, 1)
                with trio.fail_after(20):
                    while used()[1] == 1:
                        await trio.sleep(0.01)
                nursery.cancel_scope.cancel()
            packed.read(2 * CHUNK, 1)

    monkeypatch.setattr(chunkkeeper, "NOTE_SECONDS", 0.05)
    with opened(tmp_path, tar) as packed:
        packed.read(0, 3 * CHUNK)
        stop_decoding_ahead()  # so that nothing is kept any more
        packed.read(0, 3 * CHUNK)
        packed.note_used(1)  # a long time ago
        assert used() == [1, 1, 1]
        trio.run(serve, packed)
        assert used()[0] == 1 and used()[1] > 10**9 and used()[2] > 10**9


def test_a_quota_that_is_full_makes_it_remove_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache is within its own limit, and statvfs(2) tells of room; once, it is no more full."""
    failures, limits = [0, errno.EDQUOT, 0], []

    class Full:
        def note_used(self, now: int) -> None: ...
        def failed(self) -> int:
            return failures.pop(0)

    def evict(where: Path, limit: int | None) -> int:
        limits.append(limit)
        return chunkcache.evict(where, limit)

    monkeypatch.setattr(chunkkeeper, "evict", evict)
    with opened(tmp_path, TarWriter().file("f", os.urandom(20 * CHUNK)).tar()) as packed:
        packed.read(0, 20 * CHUNK)
        stop_decoding_ahead()
        before = chunkcache.size(tmp_path / "cache" / "chunks")
        keeper = ChunkKeeper([Full()], tmp_path / "cache" / "chunks", 1 << 40, -1)  # type: ignore[list-item]
        for _ in range(3):
            keeper._keep()
        after = chunkcache.size(tmp_path / "cache" / "chunks")
    assert limits == [1 << 40, before - 1, 1 << 40]
    assert before * 8 // 10 <= after <= before * 9 // 10


def test_a_mount_without_compressed_layers_has_no_keeper(tmp_path: Path) -> None:
    with keeping([], tmp_path, None) as keeper:
        assert keeper is None


@pytest.mark.usefixtures("fastpath")
def test_a_mount_reads_on_while_chunks_are_removed(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    command = Command(tmp_path, request.getfixturevalue("fastpath"))
    data = os.urandom(20 * CHUNK + 77)
    image = docker_archive(tmp_path / "i.tar", [TarWriter().file("f", data).tar()], compress="gzip")
    directory = tmp_path / "cache" / "chunks"
    with mounted(command, image, tmp_path / "mnt") as at:
        fd = os.open(at / "f", os.O_RDONLY)
        try:
            for turn in range(2):
                for offset in range(0, len(data), 3 * CHUNK // 2):
                    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                    assert os.pread(fd, CHUNK, offset) == data[offset : offset + CHUNK]
                    chunkcache.evict(directory, 0)
                (file,) = directory.glob("*.data")
                if turn == 0:
                    assert chunkcache.states(file)[0][1] == 0, "the first chunk was removed"
                # as `prune` does: what a mount has open stays, so that evictions find it
                chunkcache.keep_only(directory, ())
                assert list(directory.glob("*.data")) == [file]
        finally:
            os.close(fd)
        assert (at / "f").read_bytes() == data


@pytest.mark.parametrize("verb", ["dump", "export", "diff", "export of an upper"])
def test_commands_leave_the_cache_within_its_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    data = os.urandom(6 * CHUNK)
    images = []
    for last, how in ((b"1", "gzip"), (b"2", "zstd")):  # told apart by their last byte
        layers = [TarWriter().file(f"f{i}", data[i:] + last * (i + 1)).tar() for i in range(3)]
        images.append(docker_archive(tmp_path / f"{how}.tar", layers, compress=how))
    image, other = images
    (tmp_path / "upper").mkdir()
    command: dict[str, list[object]] = {
        "dump": ["dump", "--digest", image],
        "export": ["export", image, "-o", tmp_path / "out.tar"],
        "diff": ["diff", image, other],
        "export of an upper": ["export", "--base", image, "-o", tmp_path / "o", tmp_path / "upper"],
    }
    for kind in ("CACHE", "STATE", "RUNTIME", "ROOT"):
        monkeypatch.setenv(f"IMGMOUNT_{kind}_DIR", str(tmp_path / kind))
    read: list[int] = []

    def evict(where: Path, limit: int | None) -> int:
        read.append(chunkcache.size(where))
        return chunkcache.evict(where, limit)

    monkeypatch.setattr(chunkkeeper, "evict", evict)
    monkeypatch.setattr(chunkcache, "default_size", lambda _: LIMIT)
    assert main([str(word) for word in command[verb]]) == 0
    assert max(read) > LIMIT + 6 * STATES >= chunkcache.size(tmp_path / "CACHE" / "chunks") > 0
