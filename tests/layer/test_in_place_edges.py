"""Law: odd layers are read in place, also where the cache takes nothing or has lost something."""

from __future__ import annotations

import errno
import os
import zlib
from dataclasses import replace
from pathlib import Path

import pytest
import zstandard
from imagewriter import compress
from layersetting import TAR, Blobs, Setting, blob, paths, tar_of
from packedforms import skippable
from tarwriter import TarWriter

from fusemount._native import CHUNK
from fusemount.budget import Budget
from fusemount.codec import INPUT
from fusemount.errors import ImgmountError, MalformedImage
from fusemount.layer import open_layers
from fusemount.layer.reframe import FRAME_MAX
from fusemount.settings import ImageOptions, Unpacking, UnpackLimit

NOISE = TarWriter().file("noise", os.urandom(FRAME_MAX + 3 * CHUNK)).tar()


def in_reverse(setting: Setting, tar: bytes, path: Path, data: bytes) -> None:
    """Reads the chunks from the last to the first, so that decoders begin at points."""
    (layer,) = setting.open(blob(path, data))
    assert layer.packed is not None
    for at in reversed(range(0, len(tar), CHUNK)):
        assert layer.packed.read(at, min(CHUNK, len(tar) - at)) == tar[at : at + CHUNK]


@pytest.mark.parametrize("codec", ["gzip", "zstd"])
def test_a_layer_of_nothing(tmp_path: Path, setting: Setting, codec: str) -> None:
    for _ in range(2):
        (layer,) = setting.open(blob(tmp_path / "f", compress(b"", codec)))
        assert layer.size == 0 and paths(layer) == [] and tar_of(layer) == b""


def test_a_path_that_is_no_text(tmp_path: Path, setting: Setting) -> None:
    made = replace(blob(tmp_path / "f", compress(TAR, "gzip")), description="\udce9\n.tar")
    (layer,) = setting.open(made)
    assert tar_of(layer) == TAR


def test_much_input_without_output_behind_a_point(tmp_path: Path, setting: Setting) -> None:
    """An empty block after each fourth byte: of a point less input is kept than what its window can
    be referred to by."""
    text = b"".join(b"%06d window " % (i % 3000) for i in range(200_000))
    tar = TarWriter().file("text", text).tar()
    packer, data, at = zlib.compressobj(6, zlib.DEFLATED, 31), b"", 0
    flushed = range(4 * CHUNK + CHUNK // 2, 6 * CHUNK, 4)
    data += packer.compress(tar[: flushed.start])
    parts = []
    for at in flushed:
        parts += [packer.compress(tar[at : at + 4]), packer.flush(zlib.Z_SYNC_FLUSH)]
    data += b"".join(parts) + packer.compress(tar[at + 4 :]) + packer.flush()
    in_reverse(setting, tar, tmp_path / "f", data)


def with_nothing(tar: bytes, codec: str, size: int, at_the_end: bool) -> bytes:
    """A packed tar with so many bytes that give no output inside or behind its stream."""
    half = len(tar) if at_the_end else len(tar) // 2
    if codec == "zstd":
        nothing = b"\x50\x2a\x4d\x18" + size.to_bytes(4, "little") + bytes(size)
        packer = zstandard.ZstdCompressor(level=1)
        return packer.compress(tar[:half]) + nothing + packer.compress(tar[half:])
    gzip = zlib.compressobj(1, zlib.DEFLATED, 31)
    data = gzip.compress(tar[:half]) + gzip.flush(zlib.Z_FULL_FLUSH)
    return data + b"\0\0\0\xff\xff" * (size // 5) + gzip.compress(tar[half:]) + gzip.flush()


@pytest.mark.parametrize("at_the_end", [False, True])
@pytest.mark.parametrize("codec", ["gzip", "zstd"])
def test_much_input_without_output(
    tmp_path: Path, setting: Setting, codec: str, at_the_end: bool
) -> None:
    """Each read could have to go through it, so such a layer is unpacked.  No read comes by what
    is behind the last byte, like the table of contents of zstd:chunked."""
    made = blob(tmp_path / "f", with_nothing(NOISE, codec, 17 << 20, at_the_end))
    for _ in range(2):
        (layer,) = setting.open(made)
        assert (layer.packed is not None) == at_the_end
        assert b"".join(layer.tar.pieces()) == NOISE
    assert bool(setting.kept("layers")) == (not at_the_end)
    assert bool(setting.kept("points")) == at_the_end
    assert len(setting.passes) == (1 if at_the_end else 2), "it is known at the second opening"
    never = ImageOptions(unpacking=Unpacking.NEVER)
    if not at_the_end:
        for kept in (setting.cache / "layers").iterdir():
            kept.unlink()
        with pytest.raises(ImgmountError, match="much input that gives no output"):
            open_layers(Blobs((made,)), never, setting.directories, setting)
        made.file.close()


def test_a_cache_that_takes_no_sidecar(
    tmp_path: Path, setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A frame that is too large is then decoded from its start."""

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    data = zstandard.ZstdCompressor(level=1).compress(NOISE)
    monkeypatch.setattr("fusemount.layer.reframe.check_room", full)
    in_reverse(setting, NOISE, tmp_path / "f", data)
    assert not list(setting.cache.glob("points/*.zst"))


def test_a_sidecar_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All else that is kept beside a blob has checksums; of the sidecar, size and times are
    compared, which a file with holes can have after a power cut."""
    synced, named, rename, fsync = [], [], os.rename, os.fsync

    def note_fsync(fd: int) -> None:
        fsync(fd)
        synced.append(os.fstat(fd).st_ino)

    def note_rename(source: Path, target: Path) -> None:
        if target.suffix == ".zst":
            named.append(source.stat().st_ino)
            assert synced == named
        rename(source, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "rename", note_rename)
    setting.open(blob(tmp_path / "f", zstandard.ZstdCompressor(level=1).compress(NOISE)))
    assert len(named) == 1


@pytest.mark.parametrize("codec", ["gzip", "zstd"])
def test_a_lost_index_fills_no_chunk_cache(tmp_path: Path, setting: Setting, codec: str) -> None:
    made = blob(tmp_path / "f", compress(NOISE, codec))
    setting.open(made)
    for index in setting.cache.glob("index/*"):
        index.unlink()
    (layer,) = setting.open(made)
    assert paths(layer) == [b"noise"]
    assert not list(setting.cache.glob("chunks/*.data"))


def test_a_refused_image_leaves_no_sidecar(tmp_path: Path, setting: Setting) -> None:
    data = zstandard.ZstdCompressor(level=1).compress(NOISE)
    layers = (blob(tmp_path / "a", data), blob(tmp_path / "b", compress(NOISE + NOISE, "gzip")))

    class Image:
        cache = None
        budget = Budget(UnpackLimit(len(NOISE) + CHUNK, 0))

    image = Image()
    image.layers = layers  # type: ignore[attr-defined]
    with pytest.raises(MalformedImage):
        open_layers(image, ImageOptions(), setting.directories, setting)  # type: ignore[arg-type]
    for each in layers:
        each.file.close()
    assert not list(setting.cache.glob("points/*"))


def test_all_layers_together_tell_the_keeper(tmp_path: Path, setting: Setting) -> None:
    """Each of them alone is smaller than what the core tells about."""
    event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    try:
        for number in range(3):
            tar = TarWriter().file(f"f{number}", b"%d text " % number * (4 << 20)).tar()
            (layer,) = setting.open(blob(tmp_path / f"{number}", compress(tar, "gzip")))
            assert layer.packed is not None
            layer.packed.tell(event)
            for at in range(0, layer.size, CHUNK):
                layer.packed.read(at, min(CHUNK, layer.size - at))
            layer.packed.tell(-1)
        told = os.eventfd_read(event)
    finally:
        os.close(event)
    assert told >= 1


def test_an_empty_frame_behind_a_large_one(tmp_path: Path, setting: Setting) -> None:
    """A skippable frame that begins where a piece of input ends is known before the last bytes of
    the frame that is packed again."""
    frame = zstandard.ZstdCompressor(level=1).compress(NOISE)
    before = skippable(bytes(-(len(frame) + 8) % INPUT))
    in_reverse(setting, NOISE, tmp_path / "f", before + frame + skippable(bytes(100)))
    assert list(setting.cache.glob("points/*.zst"))
