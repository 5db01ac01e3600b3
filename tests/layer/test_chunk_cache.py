"""Law: the chunk caches of all layers stay within their size, and mounts read on meanwhile."""

from __future__ import annotations

import os
import time
from pathlib import Path

from imagewriter import compress
from layersetting import Setting, blob
from tarwriter import TarWriter

from fusemount._native import CHUNK
from fusemount.layer import chunkcache


def big_tar(chunks: int) -> bytes:
    return TarWriter().file("big", os.urandom(chunks * CHUNK)).tar()


def used(directory: Path) -> int:
    return chunkcache.size(directory)


def test_the_chunks_that_were_not_used_for_the_longest_time_go(
    tmp_path: Path, setting: Setting
) -> None:
    tar = big_tar(12)
    (layer,) = setting.open(blob(tmp_path / "f", compress(tar, "gzip")))
    assert layer.packed is not None
    directory = setting.cache / "chunks"
    assert b"".join(layer.tar.pieces()) == tar
    assert used(directory) >= 12 * CHUNK
    layer.packed.note_used(int(time.time()))  # also of those that were decompressed ahead
    recently = (10, 8, 3)  # not in order: nothing is decompressed ahead
    for chunk in recently:
        layer.packed.read(chunk * CHUNK, CHUNK)
    layer.packed.note_used(int(time.time()) + 100)
    before = layer.packed.counts()["decoded"]

    freed = chunkcache.evict(directory, 6 * CHUNK)
    assert used(directory) <= 6 * CHUNK and freed >= 6 * CHUNK
    for chunk in recently:
        assert layer.packed.read(chunk * CHUNK, CHUNK) == tar[chunk * CHUNK :][:CHUNK]
    assert layer.packed.counts()["decoded"] == before, "the chunks that were used last are kept"
    assert b"".join(layer.tar.pieces()) == tar, "what was removed is decompressed again"
    assert layer.packed.counts()["decoded"] > before


def test_nothing_goes_below_the_limit(tmp_path: Path, setting: Setting) -> None:
    (layer,) = setting.open(blob(tmp_path / "f", compress(big_tar(3), "gzip")))
    assert sum(map(len, layer.tar.pieces())) == layer.size
    directory = setting.cache / "chunks"
    before = used(directory)
    assert chunkcache.evict(directory, 10 * CHUNK) == 0 and used(directory) == before
    assert chunkcache.evict(directory, 0) >= before - 8192  # the states stay
    assert used(directory) <= 8192


def test_what_a_dead_process_left_goes_too(tmp_path: Path, setting: Setting) -> None:
    (layer,) = setting.open(blob(tmp_path / "f", compress(big_tar(3), "gzip")))
    assert layer.packed is not None and layer.packed.read(0, 1)
    directory = setting.cache / "chunks"
    (path,) = directory.glob("*.data")
    with open(path, "r+b") as file:  # its data, and no state
        file.seek(2 * CHUNK)
        file.write(os.urandom(CHUNK // 2))
    chunkcache.evict(directory, 0)
    assert used(directory) <= 8192


def test_the_default_is_a_tenth_of_the_disk(tmp_path: Path) -> None:
    disk = os.statvfs(tmp_path)
    found = chunkcache.default_size(tmp_path)
    assert found == min(disk.f_blocks * disk.f_frsize // 10, 10 << 30)
