"""Law: a hostile or damaged layer ends in a clear error, within bounds, and leaves no files."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from imagewriter import (
    compress,
)
from layersetting import CODECS, DIFF_ID, TAR, Setting, blob, tar_of
from tarwriter import TarWriter

from fusemount.errors import ImgmountError, MalformedImage, NoSpace
from fusemount.layer.sparse import SparseWriter


@pytest.mark.parametrize("codec", ["none", "gzip"])
def test_t24_a_tar_that_lies(tmp_path: Path, setting: Setting, codec: str) -> None:
    liars = {
        b"not a tar at all" * 100: "at byte 0",
        TarWriter().file("a", b"1").file("b", b"x", size=1 << 40).tar(): "member 'b' at byte",
        TAR[:2000]: "member 'd/f' at byte",
    }
    for tar, words in liars.items():
        made = blob(tmp_path / "f", compress(tar, codec))
        for verify in (True, False):
            with pytest.raises(MalformedImage, match=rf"^i\.tar: layer: .*{words}"):
                setting.open(made, verify=verify)
            made.file.close()
    assert setting.kept("layers") == []


@pytest.mark.parametrize("codec", CODECS[1:])
def test_t24_a_cut_blob(tmp_path: Path, setting: Setting, codec: str) -> None:
    made = blob(tmp_path / "f", compress(TAR, codec)[:-10])
    with pytest.raises(MalformedImage, match=rf"^i\.tar: layer: {codec} stream is"):
        setting.open(made)
    made.file.close()
    assert setting.kept("layers") == []


def test_t24_a_file_shorter_than_its_blob(tmp_path: Path, setting: Setting) -> None:
    made = blob(tmp_path / "f", TAR)
    os.truncate(tmp_path / "f", 5000)
    with pytest.raises(MalformedImage, match=r"cut off, .* bytes are missing"):
        setting.open(made)
    made.file.close()


def test_t24_runs_of_zeros_cost_no_disk(tmp_path: Path, setting: Setting) -> None:
    tar = TarWriter().file("zeros", bytes(50 << 20)).file("end", b"x" * 5000).tar()
    for codec in ("zstd", "xz"):
        (layer,) = setting.open(blob(tmp_path / codec, compress(tar, codec)))
        assert tar_of(layer, len(tar)) == tar
        kept = [p.stat() for p in setting.cache.rglob("*") if p.is_file()]
        assert max(st.st_size for st in kept) >= len(tar)
        assert sum(st.st_blocks for st in kept) * 512 < 1 << 20
        for path in setting.cache.rglob("*"):
            if path.is_file():
                path.unlink()


def test_t24_sparse_writer_keeps_every_byte(tmp_path: Path) -> None:
    pieces = [
        b"a" * 10,
        bytes(200_000),
        b"b" + bytes(65_535),
        bytes(65_536),
        b"c" * 70_000,
        bytes(9),
    ]
    with open(tmp_path / "f", "w+b") as file:
        writer = SparseWriter(file.fileno())
        for piece in pieces:
            writer.write(piece)
        writer.finish()
        assert file.read() == b"".join(pieces)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_t24_a_full_disk(
    tmp_path: Path, setting: Setting, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def full(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fusemount.layer.sparse.os.pwrite", full)
    made = blob(tmp_path / "f", compress(TAR, "xz"))
    with pytest.raises(NoSpace, match=r"the cache at .*layers: "):
        setting.open(made)
    made.file.close()
    assert setting.kept("layers") == []


@pytest.mark.parametrize("codec", ["none", "gzip", "zstd", "xz"])
def test_t24_a_cache_that_cannot_be_written(tmp_path: Path, setting: Setting, codec: str) -> None:
    setting.cache.parent.write_bytes(b"")  # root too cannot make a directory below a file
    made = blob(tmp_path / "f", compress(TAR, codec), diff_id=DIFF_ID)
    if codec != "xz":  # it opens without a cache
        (layer,) = setting.open(made)
        assert tar_of(layer) == TAR
    else:
        with pytest.raises(ImgmountError, match="cache"):
            setting.open(made)
    made.file.close()


BOMB = """
import resource, sys, time
from pathlib import Path
from fusemount.layer import BlobFile, LayerBlob, SilentProgress, open_layers
from fusemount.settings import Directories, ImageOptions
path, cache = Path(sys.argv[1]), Path(sys.argv[2])
class Image:
    cache = budget = None
    layers = (LayerBlob(None, None, "", BlobFile(path), 0, path.stat().st_size, "x"),)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
started = time.monotonic()
(layer,) = open_layers(Image(), ImageOptions(), Directories(cache, cache, cache), SilentProgress())
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, time.monotonic() - started)
"""


def zeros_in_gzip(path: Path, size: int) -> None:
    """A tar with one file of zeros, written in pieces."""
    import zlib

    deflate = zlib.compressobj(6, wbits=31)
    with open(path, "wb") as out:
        out.write(deflate.compress(TarWriter().file("zeros", size=size).tar(end=False)))
        piece = bytes(1 << 20)
        for _ in range(size >> 20):
            out.write(deflate.compress(piece))
        out.write(deflate.compress(bytes(1024)) + deflate.flush())


def test_t24_a_run_of_zeros_takes_little_memory_time_and_disk(tmp_path: Path) -> None:
    """1 GiB of zeros in 1 MB of gzip: the ratio of 10 GB in 10 MB, in a tenth of the time."""
    zeros_in_gzip(tmp_path / "bomb", (1 << 30) - (1 << 20))  # just within settings.RATIO_FROM
    assert (tmp_path / "bomb").stat().st_size < 1_100_000
    command = [sys.executable, "-c", BOMB, tmp_path / "bomb", tmp_path / "cache"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    kilobytes, seconds = map(float, done.stdout.split())
    assert kilobytes < 64 << 10
    assert seconds < 15  # 2 s on a quiet machine
    kept = [p.stat().st_blocks for p in (tmp_path / "cache").rglob("*") if p.is_file()]
    assert sum(kept) * 512 < 2 << 20
