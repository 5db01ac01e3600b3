"""Checks that a blob is taken in complete, verified and once, or not at all."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest
from imagewriter import compress, docker_archive, oci_archive, oci_layout
from storing import LAYERS, clean, files, layer, load
from tarwriter import TarWriter

from fusemount.budget import Budget
from fusemount.compression import Compression
from fusemount.digest import Digest
from fusemount.errors import ImgmountError, MalformedImage, NoSpace, VerificationFailed
from fusemount.store import Store
from fusemount.store.intake import Claims, Part, StoredLayer, put_document, take_layer
from fusemount.store.removal import prune

COMPRESSIONS = ["none", "gzip", "zstd", "xz", "bzip2"]
TAR = TarWriter().file("noise", Random(1).randbytes(90_000)).tar()


def source(data: bytes, piece: int = 1 << 20) -> Callable[[int], bytes]:
    at = 0

    def read(n: int) -> bytes:
        nonlocal at
        found = data[at : at + min(n, piece)]
        at += len(found)
        return found

    return read


def take(
    store: Store, data: bytes, claims: Claims | None = None, *, rest: bytes | None = None,
    piece: int = 1 << 20,
) -> StoredLayer:  # fmt: skip
    """data: the blob; rest: what the source gives, if there is a part already."""
    claims = claims or Claims()
    with store.lease("test", "a layer") as lease, Part(store.layout, claims.digest) as part:
        read = source(data if rest is None else rest, piece)
        return take_layer(store.layout, lease, part, read, claims, "the layer", Budget())


def leave_part(store: Store, digest: Digest, data: bytes) -> None:
    with Part(store.layout, digest) as part:
        part.append(data)


def assert_nothing(store: Store) -> None:
    assert not list(store.layout.blobs.iterdir())
    assert not list(store.layout.ingest.iterdir())
    assert not list(store.layout.leases.iterdir())
    cache = store.layout.cache
    assert not [path for path in cache.rglob("*") if path.is_file()]


@pytest.mark.parametrize("how", COMPRESSIONS)
@pytest.mark.parametrize("piece", [1, 7, 1 << 20])
def test_a_layer_comes_in(store: Store, how: str, piece: int) -> None:
    tar = LAYERS[0] if piece == 1 else TAR
    blob = compress(tar, how)
    claims = Claims(Digest.of(blob), len(blob), Digest.of(tar))
    found = take(store, blob, claims, piece=piece)
    assert found == StoredLayer(
        Digest.of(blob), len(blob), Digest.of(tar), len(tar), Compression(how)
    )
    assert store.layout.blob(found.digest).read_bytes() == blob
    assert store.diff_id(found.digest) == found.diff_id


@pytest.mark.parametrize("how", COMPRESSIONS)
def test_what_is_not_as_claimed_does_not(store: Store, how: str) -> None:
    blob, other = compress(TAR, how), Digest.of(b"other")
    for claims, message in (
        (Claims(other, len(blob), None), "digest is"),
        (Claims(Digest.of(blob), len(blob) + 1, None), "were announced"),
        (Claims(Digest.of(blob), len(blob) - 1, None), "more than"),
        (Claims(Digest.of(blob), len(blob), other), "diff_id is"),
    ):
        with pytest.raises(VerificationFailed, match=message):
            take(store, blob, claims)
        assert_nothing(store)


@pytest.mark.parametrize("how", COMPRESSIONS)
def test_a_broken_stream_does_not(store: Store, how: str) -> None:
    blob = compress(TAR, how)[:-9000]
    with pytest.raises((MalformedImage, VerificationFailed)):
        take(store, blob)
    assert_nothing(store)


@pytest.mark.parametrize("how", COMPRESSIONS)
@pytest.mark.parametrize("there", [1, 3, 5000, None])
def test_a_part_is_gone_on_with(store: Store, how: str, there: int | None) -> None:
    blob = compress(TAR, how)
    at = len(blob) if there is None else there
    digest = Digest.of(blob)
    leave_part(store, digest, blob[:at])
    found = take(store, blob, Claims(digest, len(blob), Digest.of(TAR)), rest=blob[at:])
    assert found.size == len(blob)
    assert store.layout.blob(digest).read_bytes() == blob
    assert not list(store.layout.ingest.iterdir())


def test_garbage_in_a_part_is_taken_away(store: Store) -> None:
    blob = compress(TAR, "gzip")
    leave_part(store, Digest.of(blob), bytes(1000))
    with pytest.raises((VerificationFailed, MalformedImage)):
        take(store, blob, Claims(Digest.of(blob), len(blob)), rest=blob[1000:])
    assert_nothing(store)


@pytest.mark.parametrize("garbage", [b"\0" * 700, b"x" * 1_000_000, b""])
def test_garbage_in_a_part_does_not_stop_an_image(
    store: Store, tmp_path: Path, garbage: bytes
) -> None:
    """After a power failure a file may have its length without its bytes."""
    blob = compress(LAYERS[0], "gzip")
    leave_part(store, Digest.of(blob), garbage)
    load(store, oci_layout(tmp_path / "in", LAYERS, compress="gzip"))
    clean(store, images=1)


def test_a_part_survives_its_source(store: Store) -> None:
    blob = compress(TAR, "gzip")
    digest = Digest.of(blob)
    given = source(blob[:40_000])

    def read(n: int) -> bytes:
        data = given(min(n, 1000))
        if not data:
            raise ImgmountError("the connection broke")
        return data

    with pytest.raises(ImgmountError, match="broke"):
        with store.lease("test", "a layer") as lease, Part(store.layout, digest) as part:
            take_layer(store.layout, lease, part, read, Claims(digest), "the layer", Budget())
    assert store.layout.part(digest).read_bytes() == blob[:40_000]
    take(store, blob, Claims(digest, len(blob)), rest=blob[40_000:])
    assert store.layout.blob(digest).read_bytes() == blob


def test_two_takers_of_one_blob_read_it_once(store: Store) -> None:
    blob, begun, go = compress(TAR, "gzip"), threading.Event(), threading.Event()
    digest = Digest.of(blob)
    reads = []

    def first(n: int) -> bytes:
        begun.set()
        go.wait(10)
        reads.append(n)
        return blob if len(reads) == 1 else b""

    def taking() -> None:
        with store.lease("test", "first") as lease, Part(store.layout, digest) as part:
            take_layer(store.layout, lease, part, first, Claims(digest), "the layer", Budget())

    found = []

    def waiting() -> None:
        with Part(store.layout, digest) as part:
            found.append(part.is_stored())
            part.drop()

    threads = [threading.Thread(target=taking), threading.Thread(target=waiting)]
    threads[0].start()
    begun.wait(10)
    threads[1].start()
    go.set()
    for thread in threads:
        thread.join(10)
    assert found == [True] and len(reads) == 2
    assert not list(store.layout.ingest.iterdir())


def test_a_layer_of_no_bytes(store: Store, tmp_path: Path) -> None:
    found = take(store, b"")
    assert (found.size, found.archive_size, found.diff_id) == (0, 0, Digest.of(b""))
    load(store, oci_archive(tmp_path / "in", [b"", LAYERS[0], b""], tags=["a:1"]))
    clean(store, images=1)
    assert len(store.find("a:1").summary.layers) == 3


@pytest.mark.parametrize("writer", [docker_archive, oci_archive])
def test_an_image_of_no_layers(store: Store, tmp_path: Path, writer: Callable[..., Path]) -> None:
    load(store, writer(tmp_path / "in", [], tags=["scratch:1"]))
    clean(store, images=1)
    assert store.find("scratch:1").summary.layers == ()


@pytest.mark.parametrize("writer", [docker_archive, oci_archive])
@pytest.mark.parametrize("how", ["none", "gzip"])
def test_the_same_layer_twice_is_one_blob(
    store: Store, tmp_path: Path, writer: Callable[..., Path], how: str
) -> None:
    load(store, writer(tmp_path / "in", [LAYERS[0], LAYERS[1], LAYERS[0]], compress=how))
    clean(store, images=1)
    assert len(list(store.layout.blobs.iterdir())) == 2 + 2  # layers, config and manifest
    assert len(list(store.layout.layerdb.iterdir())) == 3


def test_a_blob_that_others_damaged_comes_again(store: Store, tmp_path: Path) -> None:
    """A blob that another program brought is read before the store relies on it."""
    blob = compress(LAYERS[0], "gzip")
    store.layout.blob(Digest.of(blob)).write_bytes(b"something else")
    load(store, oci_layout(tmp_path / "in", LAYERS, compress="gzip"))
    clean(store, images=1)


def test_a_blob_that_others_brought_is_learnt(store: Store, tmp_path: Path) -> None:
    blob = compress(LAYERS[0], "gzip")
    store.layout.blob(Digest.of(blob)).write_bytes(blob)
    load(store, oci_layout(tmp_path / "in", LAYERS, compress="gzip"))
    clean(store, images=1)
    assert store.diff_id(Digest.of(blob)) == Digest.of(LAYERS[0])


def test_a_map_that_is_wrong_is_made_again(store: Store, tmp_path: Path) -> None:
    layout = oci_layout(tmp_path / "in", LAYERS, compress="gzip")
    load(store, layout)
    path = store.layout.diff_id(Digest.of(compress(LAYERS[0], "gzip")))
    right = path.read_bytes()
    for wrong in (b"", right.replace(Digest.of(LAYERS[0]).encode(), Digest.of(b"x").encode())):
        path.write_bytes(wrong)
        load(store, layout)
        assert path.read_bytes() == right
    clean(store, images=1)


def test_a_document_that_was_damaged_is_written_again(store: Store) -> None:
    store.layout.blob(Digest.of(b"{}")).write_bytes(b"{")
    assert store.layout.blob(put_document(store.layout, b"{}")).read_bytes() == b"{}"


@contextmanager
def small_disk(at: Path, size: str) -> Iterator[Path]:
    at.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", at], check=True)
    try:
        yield at
    finally:
        subprocess.run(["umount", at], check=True)


@pytest.mark.parametrize("how", ["none", "gzip"])
def test_a_full_disk_is_one_line(tmp_path: Path, how: str) -> None:
    big = oci_archive(
        tmp_path / "big", [TarWriter().file("n", Random(2).randbytes(2 << 20)).tar()], compress=how,
        tags=["big:1"],
    )  # fmt: skip
    small = oci_archive(tmp_path / "small", [layer("small")], tags=["small:1"])
    with small_disk(tmp_path / "disk", "1m") as disk:
        store = Store(disk / "root", create=True)
        load(store, small)
        with pytest.raises(NoSpace, match="No space left"):
            load(store, big)
        assert [name.familiar for image in store.images() for name in image.names] == ["small:1"]
        assert not [name for name in files(store) if name.startswith(("ingest", "leases"))]
        prune(store)  # a config comes before its layers
        clean(store, images=1)
