"""Law: an image of two layers that are read in place, and what must be true of the cache then.

`layers()` are the tars; `check_kept` looks at all that is kept of an image's layers.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from hashlib import sha256
from pathlib import Path
from random import Random

from mounted import Command
from tarwriter import TarWriter

from fusemount._native import CHUNK
from fusemount.layer import OpenLayer, chunkcache, open_layers
from fusemount.layer.cache import Cache
from fusemount.reference import parse_reference
from fusemount.settings import Directories, ImageOptions
from fusemount.sources import open_image

MIB = 1 << 20
CODECS = ["gzip", "zstd"]


@cache
def contents() -> bytes:
    """5 MiB, so that the zstd frame of its layer is re-framed."""
    random = Random(3)
    some = random.randbytes(1500)
    return b"".join(
        random.randbytes(1000) + bytes(9000) + some + some[::-1] for _ in range(5 * MIB // 13_000)
    )


@cache
def layers() -> tuple[bytes, ...]:
    low = TarWriter().dir("d").file("big", contents(), mode=0o644).file("d/small", b"lower")
    low.file("gone", b"1").hardlink("d/link", "big").symlink("sym", "big")
    low.sparse("holes", 3 * MIB, [(MIB, b"x" * 65_536), (2 * MIB + 5, b"y")])
    for i in range(60):
        low.file(f"d/{i}", contents()[i * 999 :][: i * 500], mtime_ns=i * 10**9)
    top = TarWriter().dir("d").file("d/small", b"upper").whiteout("gone").file("d/new", bytes(9))
    return low.tar(), top.tar()


def chunks_of(command: Command) -> Path:
    return command.base / "cache" / "chunks"


def forget_pages(*paths: Path) -> None:
    """Removes the files' pages from the page cache, so that the daemon is asked again."""
    for path in paths:
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


class Passes:
    """A Progress that counts the passes over blobs."""

    n = 0

    def start(self, description: str, total: int) -> None:
        self.n += 1

    def advance(self, n: int) -> None:
        pass

    def finish(self) -> None:
        pass


@contextmanager
def opened(
    reference: str | Path, directories: Directories, passes: Passes | None = None
) -> Iterator[list[OpenLayer]]:
    passes, options, layers = passes or Passes(), ImageOptions(), []
    try:
        named = parse_reference(str(reference), os.path.exists)
        with open_image(named, options, directories, passes) as image:
            layers = open_layers(image, options, directories, passes)
        yield layers
    finally:
        for layer in layers:
            layer.close()


def directories_of(command: Command) -> Directories:
    base = command.base
    return Directories(base / "cache", base / "state", base / "runtime")


def check_kept(image: Path, directories: Directories, tars: Sequence[bytes]) -> None:
    """All is kept that a later opening needs, nothing else is left, each chunk that is noted has
    its digest, and the layers' bytes are the tars'."""
    kept = Cache(directories.cache)
    left = [str(p) for p in directories.cache.rglob(".*")]
    assert not left, left
    for file in directories.cache.glob("chunks/*.data"):
        sums, data = kept.sums(f"sha256:{file.stem}"), file.read_bytes()
        assert sums is not None
        states = chunkcache.states(file)
        assert len(states) == len(sums) // 32
        tar_bytes = next(len(tar) for tar in tars if sha256(tar).hexdigest() == file.stem)
        for i, (_, used) in enumerate(states):
            chunk = data[i * CHUNK : min((i + 1) * CHUNK, tar_bytes)]
            assert not used or sha256(chunk).digest() == sums[i * 32 :][:32], f"chunk {i}"
    passes = Passes()
    with opened(image, directories, passes) as found:
        assert [b"".join(layer.tar.pieces()) for layer in found] == list(tars)
    assert passes.n == 0, "all was kept"
