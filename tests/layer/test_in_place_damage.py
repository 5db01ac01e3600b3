"""Law: of a layer that is read in place, no read gives a wrong byte.  What is kept beside the blob
is made again when it is damaged; a blob that is damaged under an open layer gives EIO, and a line
in the log."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from random import Random

import pytest
import zstandard
from imagewriter import sha256
from layersetting import Setting, blob, paths
from oracle import run
from packedforms import FORMS
from tarwriter import TarWriter

from fusemount._native import CHUNK, stop_decoding_ahead
from fusemount.digest import Digest
from fusemount.errors import ImgmountError
from fusemount.layer import LayerBlob, OpenLayer, chunkcache

BLOB_AT = 700  # as layersetting.blob puts it
KINDS = ["gzip -1", "gzip, stored", "gzip, thousands of members", "zstd -3", "zstd, small frames"]
SIDECAR = "zstd -3"
_LONG = ("gzip, stored", "gzip, thousands of members")


@cache
def small() -> bytes:
    """A tar of 19 chunks."""
    random, t = Random(5), TarWriter()
    for i in range(20):
        t.file(f"n{i}", random.randbytes(CHUNK // 2))
        t.file(f"t{i}", b"%d words " % i * 13_000)
    return t.tar()


@cache
def packed(kind: str) -> bytes:
    return FORMS[kind](small())


def claimed(path: Path, data: bytes, kind: str) -> LayerBlob:
    return blob(
        path, data, diff_id=Digest("sha256:" + sha256(small())), digest=Digest.of(packed(kind))
    )


def write_at(path: Path, at: int, data: bytes) -> bytes:
    """Writes in place; what was there."""
    with open(path, "r+b", buffering=0) as file:
        before = os.pread(file.fileno(), len(data), at)
        os.pwrite(file.fileno(), data, at)
    return before


def flip(path: Path, at: int) -> None:
    (byte,) = write_at(path, at, b"?")
    write_at(path, at, bytes([byte ^ 1 << at % 8]))


def steps(size: int, n: int) -> Iterator[int]:
    """Places from the first byte to the last one."""
    return ((size - 1) * i // (n - 1) for i in range(n))


def read_chunk(layer: OpenLayer, at: int) -> bool:
    """False: EIO.  Any other byte than the tar's fails."""
    assert layer.packed is not None
    size = min(CHUNK, layer.size - at)
    try:
        assert layer.packed.read(at, size) == small()[at : at + size], f"wrong bytes at {at}"
    except OSError as error:
        assert error.errno == errno.EIO
        return False
    return True


def read_all(layer: OpenLayer) -> set[int]:
    """Reads each chunk; those that gave EIO."""
    return {at // CHUNK for at in range(0, layer.size, CHUNK) if not read_chunk(layer, at)}


def forget_chunks(setting: Setting) -> None:
    stop_decoding_ahead()  # what a thread decodes now, it would keep afterwards
    chunkcache.evict(setting.cache / "chunks", 0)


@contextmanager
def logged(layer: OpenLayer, path: Path) -> Iterator[Callable[[], list[str]]]:
    assert layer.packed is not None
    with open(path, "w+b", buffering=0) as file:
        layer.packed.log_to(file.fileno())
        yield lambda: path.read_text().splitlines()
        layer.packed.log_to(-1)


# ---- the blob


def plain(data: bytes, kind: str) -> bytes | None:
    """What another program makes of a blob; None: an error."""
    if kind.startswith("gzip"):
        done = subprocess.run(["gzip", "-dc"], input=data, capture_output=True)
        return done.stdout if done.returncode == 0 else None
    try:
        reader = zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True)
        return bytes(reader.read())
    except zstandard.ZstdError:
        return None


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("kind", ["gzip -1", "zstd -3"])
def test_a_blob_that_changes_between_two_openings(
    tmp_path: Path, setting: Setting, kind: str, verify: bool
) -> None:
    data = packed(kind)
    for at in steps(len(data), 5):
        path = tmp_path / str(at)
        made = claimed(path, data, kind)
        setting.open(made, verify=verify)
        flip(path, BLOB_AT + at)
        damaged = path.read_bytes()[BLOB_AT : BLOB_AT + len(data)]
        try:
            (layer,) = setting.open(made, verify=verify)
        except ImgmountError:
            made.file.close()
        else:
            assert not verify
            assert b"".join(layer.tar.pieces()) == plain(damaged, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_blob_that_is_damaged_under_an_open_layer(
    tmp_path: Path, setting: Setting, kind: str
) -> None:
    data = packed(kind)
    path = tmp_path / "f"
    (layer,) = setting.open(claimed(path, data, kind))
    with logged(layer, tmp_path / "log") as lines:
        for at in steps(len(data), 9):
            forget_chunks(setting)
            flip(path, BLOB_AT + at)
            failed = read_all(layer)
            # The two access points around the place are at most 6 chunks apart.
            assert not failed or max(failed) - min(failed) < 6, "the damage spreads"
            assert all("i.tar: layer: bytes" in line for line in lines())
            assert len(lines()) <= 2 * len(failed) and bool(lines()) == bool(failed)
            flip(path, BLOB_AT + at)
            assert not read_all(layer), "the blob is whole again"
            os.truncate(tmp_path / "log", 0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_blob_that_is_cut_or_replaced_under_an_open_layer(
    tmp_path: Path, setting: Setting, kind: str
) -> None:
    data = packed(kind)
    path = tmp_path / "f"
    (layer,) = setting.open(claimed(path, data, kind))
    os.rename(path, tmp_path / "g")
    path.write_bytes(bytes(len(data)))
    assert not read_all(layer), "the file that was opened is still there"
    with logged(layer, tmp_path / "log") as lines:
        forget_chunks(setting)
        write_at(tmp_path / "g", BLOB_AT, FORMS[kind](small()[::-1])[: len(data)])
        read_all(layer)  # a decoder may have some of the old bytes still
        forget_chunks(setting)
        assert len(read_all(layer)) == (0 if kind == SIDECAR else 19)
        assert len(lines()) == (0 if kind == SIDECAR else 19), "one line for a chunk"
        write_at(tmp_path / "g", BLOB_AT, data)
        assert not read_all(layer)
        os.truncate(tmp_path / "log", 0)
        for left in (len(data) // 2, 10):
            forget_chunks(setting)
            os.truncate(tmp_path / "g", BLOB_AT + left)
            failed = read_all(layer)
            assert bool(failed) == bool(lines()) == (kind != SIDECAR)
    if kind != SIDECAR:
        assert len(failed) == 19


# ---- what is kept beside it


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=pytest.mark.long if kind in _LONG else ()) for kind in KINDS],
)
def test_what_is_kept_beside_a_blob(
    tmp_path: Path, setting: Setting, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A damaged one is made again, and a line says so."""
    made = claimed(tmp_path / "f", packed(kind), kind)
    (layer,) = setting.open(made)
    names = paths(layer)

    def check() -> None:
        forget_chunks(setting)
        (layer,) = setting.open(made)
        assert not read_all(layer) and paths(layer) == names

    patterns = ("points/*", "chunks/*.sums", "index/*", "facts/*")
    kept = [path for pattern in patterns for path in setting.cache.glob(pattern)]
    assert len(kept) == (6 if kind == SIDECAR else 4)
    for path in kept:
        damages = [partial(flip, path, at) for at in steps(path.stat().st_size, 3)]
        size = path.stat().st_size
        damages += [partial(os.truncate, path, cut) for cut in (0, size // 2, size - 1, size + 1)]
        for damage in damages:
            caplog.clear()
            damage()
            check()
            lines = {record.getMessage() for record in caplog.records}
            assert [line.partition(": ")[0] for line in lines].count(str(path)) == 1
            assert len(lines) <= 2, "the sidecar's too, whose state was lost"
            assert not any("\n" in line for line in lines)
        path.unlink()
        check()
    passes = len(setting.passes)
    assert passes > 8
    setting.open(made)
    assert len(setting.passes) == passes, "all is whole again"


def test_a_sidecar_that_is_damaged_under_an_open_layer(tmp_path: Path, setting: Setting) -> None:
    (layer,) = setting.open(claimed(tmp_path / "f", packed(SIDECAR), SIDECAR))
    (path,) = setting.cache.glob("points/*.zst")
    with logged(layer, tmp_path / "log") as lines:
        for at in steps(path.stat().st_size, 9):
            forget_chunks(setting)
            flip(path, at)
            failed = read_all(layer)
            assert len(failed) <= 4, "a frame has four chunks"
            assert len(lines()) <= len(failed) and bool(lines()) == bool(failed)
            flip(path, at)
            assert not read_all(layer), "the sidecar is whole again"
            os.truncate(tmp_path / "log", 0)
        forget_chunks(setting)
        os.truncate(path, 0)
        assert lines() == [] and len(read_all(layer)) > 10
        assert lines()


def test_points_that_are_damaged_under_an_open_layer(tmp_path: Path, setting: Setting) -> None:
    """Of many points the states of decoders are read from the file when they are needed.  An
    earlier point takes the place of a damaged one."""
    tar = TarWriter().file("hex", Random(3).randbytes(14 * CHUNK).hex().encode()).tar()
    made = blob(tmp_path / "f", FORMS["gzip -6"](tar))
    setting.open(made)
    (path,) = setting.cache.glob("points/*.pts")
    size = path.stat().st_size
    assert size > 32 << 10, "fewer are read into memory"
    damages = [partial(flip, path, at) for at in steps(size, 5)]
    damages += [partial(os.truncate, path, cut) for cut in (size // 2, 0)]
    for damage in damages:
        (layer,) = setting.open(made)
        assert layer.packed is not None
        forget_chunks(setting)
        damage()
        for at in reversed(range(0, len(tar), CHUNK)):  # so that decoders begin at points
            n = min(CHUNK, len(tar) - at)
            assert layer.packed.read(at, n) == tar[at : at + n]
        assert layer.packed.counts()["wrong"] == 0


# ---- the file of chunks


def chunk_file(setting: Setting) -> Path:
    (path,) = setting.cache.glob("chunks/*.data")
    return path


def test_a_damaged_file_of_chunks(tmp_path: Path, setting: Setting) -> None:
    made = claimed(tmp_path / "f", packed("gzip -1"), "gzip -1")
    (layer,) = setting.open(made)
    assert not read_all(layer)
    path = chunk_file(setting)
    size = path.stat().st_size
    for at in steps(size, 9):  # the last ones are in the states
        flip(path, at)
        (layer,) = setting.open(made)
        assert not read_all(layer)
    for cut in (0, CHUNK + 7, size - 1, size + 9):
        os.truncate(path, cut)
        (layer,) = setting.open(made)
        assert not read_all(layer)
    path.write_bytes(os.urandom(size))
    (layer,) = setting.open(made)
    assert not read_all(layer)


@pytest.mark.parametrize("left", [0, 3 * CHUNK])
def test_a_file_of_chunks_that_is_cut_under_open_layers(
    tmp_path: Path, setting: Setting, left: int
) -> None:
    """Zeros that come back in place of a chunk are no chunk."""
    made = claimed(tmp_path / "f", packed("gzip -1"), "gzip -1")
    first, second = (layer for _ in range(2) for layer in setting.open(made))
    assert not read_all(first)
    os.truncate(chunk_file(setting), left)
    assert second.packed is not None
    second.packed.read(18 * CHUNK, 1)  # makes the file as long as before
    assert not read_all(first)
    assert not read_all(second)


@pytest.mark.parametrize("what", ["directory", "symlink", "fifo", "device"])
def test_no_file_where_the_chunks_should_be(tmp_path: Path, setting: Setting, what: str) -> None:
    made = claimed(tmp_path / "f", packed("gzip -1"), "gzip -1")
    setting.open(made)
    victim = tmp_path / "victim"
    victim.write_bytes(b"another's")
    path = setting.cache / "chunks" / f"{sha256(small())}.data"
    path.unlink(missing_ok=True)
    if what == "directory":
        path.mkdir()
    elif what == "symlink":
        path.symlink_to(victim)
    elif what == "fifo":
        os.mkfifo(path)
    else:
        os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 5))  # /dev/zero
    (layer,) = setting.open(made)
    assert not read_all(layer)
    forget_chunks(setting)
    assert victim.read_bytes() == b"another's" and os.path.lexists(path)


@pytest.mark.parametrize("options", ["ro", "size=300k"])
def test_a_cache_that_cannot_be_written_to(tmp_path: Path, setting: Setting, options: str) -> None:
    """A read-only one, and a full one."""
    made = claimed(tmp_path / "f", packed("zstd, small frames"), "zstd, small frames")
    setting.cache.mkdir(parents=True, mode=0o700)
    run("mount", "-t", "tmpfs", "-o", "size=300k,mode=700", "none", setting.cache)
    try:
        if options == "ro":
            run("mount", "-o", "remount,ro", setting.cache)
        for _ in range(2):
            (layer,) = setting.open(made)
            assert not read_all(layer)
            setting.opened.remove(layer)
            layer.close()
    finally:
        run("umount", setting.cache)
