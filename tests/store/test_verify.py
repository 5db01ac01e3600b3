"""Flips a byte of a store or removes a file: verify must report it, unless it is harmless.

Harmless damage only costs time: a cache that is found to be damaged is made again.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from imagewriter import ImageSpec, oci_archive, oci_layout
from oracle import run
from storing import LAYERS, checked, clean, files, layer, load
from tarwriter import TarWriter

from fusemount._native import CHUNK, Points, Unpacker
from fusemount.digest import Digest
from fusemount.errors import ImgmountError
from fusemount.imagename import parse_name
from fusemount.layer.cache import Cache
from fusemount.record import sealed
from fusemount.store import Store
from fusemount.store.removal import prune

# Files that may be damaged without a report, and why that is harmless.
_SILENT = {
    "cache/summaries.json": "has a digest of its own; found out again",
    "cache/index": "has checksums; scanned again",
    "cache/facts": "does not parse, or is compared",
    "repositories.json": "made from another index.json, it says: stale",
}


@pytest.fixture
def full(store: Store, tmp_path: Path) -> Store:
    """Images of all kinds: gzip, plain, an index of two platforms, shared layers, two tags."""
    load(store, oci_archive(tmp_path / "a", LAYERS, compress="gzip", tags=["a:1", "a:2"]))
    load(store, oci_archive(tmp_path / "b", [LAYERS[0], layer("b")], tags=["b:1"]))
    images = [
        ImageSpec([layer(arch)], config={"architecture": arch}, compress="zstd")
        for arch in ("amd64", "arm64")
    ]
    load(store, oci_layout(tmp_path / "c", images=images, nested="c:1"))
    clean(store, images=3)
    return store


def problems(store: Store) -> list[str]:
    try:
        report = checked(store)
    except ImgmountError as error:
        return [str(error)]
    return [*report.mismatches, *report.unreached]


def names_of(store: Store, path: str) -> set[str]:
    """How a line of the report may name this file."""
    hexes = {part.split(".")[0] for part in path.split("/") if len(part) >= 64}
    found = {path, *hexes}
    for image in store.images():
        ids = {image.digest.hex, image.image_id.hex, *(r.digest.hex for r in image.summary.layers)}
        if hexes & ids or path == "index.json":
            found |= {name.familiar for name in image.names}
    return found


def listed(index: bytes) -> list[object]:
    try:
        entries = json.loads(index)["manifests"]
        return [(entry["mediaType"], entry["digest"], entry["size"]) for entry in entries]
    except (ValueError, KeyError):
        return []


def test_every_byte_counts(full: Store) -> None:
    wrong = []
    for path, data in files(full).items():
        called = names_of(full, path)
        at = full.root / path
        for place in sorted({0, len(data) // 3, len(data) // 2, len(data) - 1}):
            flipped = bytearray(data)
            flipped[place] ^= 1
            at.write_bytes(flipped)
            told = problems(full)
            if not any(word in line for line in told for word in called):
                if path == "index.json" and listed(bytes(flipped)) == listed(data):
                    continue  # other names, which may be right
                if not path.startswith(tuple(_SILENT)):
                    here = bytes(flipped[max(0, place - 30) : place + 30])
                    wrong.append(f"{path}, byte {place} of {len(data)}, {here!r}: {told}")
            assert all("\n" not in line for line in told)
        at.write_bytes(data)
    assert not wrong, "\n".join(wrong)


def test_every_file_counts(full: Store) -> None:
    wrong = []
    children = {digest.hex for digest in full.find("c:1").summary.children}
    for path, data in files(full).items():
        called = names_of(full, path)
        if children & called:  # a store may lack any platform of an index, so a missing manifest
            called |= {"blobs/"}  # is no damage: only its layers are reported as unreached
        at = full.root / path
        at.unlink()
        told = problems(full)
        derived = path.startswith(("cache/", "distribution/")) or path == "repositories.json"
        if not derived and not any(word in line for line in told for word in called):
            wrong.append(f"{path}: {told}")
        if derived:
            assert told == [], path
        at.write_bytes(data)
    assert not wrong, "\n".join(wrong)


def test_what_reads_a_layer_in_place_counts(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also a file that is whole, of its name, and wrong; and each part of a sidecar."""
    text = b"".join(b"%d words " % (i * i) for i in range(400_000))
    tars = {how: TarWriter().file(how, text).tar() for how in ("gzip", "zstd")}
    for how, tar in tars.items():
        load(store, oci_archive(tmp_path / how, [tar], compress=how, tags=[f"{how}:1"]))
    clean(store, images=2)
    cache, gzip = Cache(store.layout.cache), store.find("gzip:1").summary.layers[0]
    points, sums = cache.points_path(gzip.digest), cache.sums_path(gzip.diff_id)
    (sidecar,) = points.parent.glob("*.zst")

    def told(path: Path, change: Callable[[], object]) -> None:
        before = path.read_bytes()
        change()
        assert any(path.stem in line for line in checked(store).mismatches), path
        with open(path, "r+b") as file:
            file.truncate(file.write(before))

    def lead_elsewhere() -> None:
        data = zlib.compress(tars["gzip"], 9, 31)
        unpacker, made = Unpacker("gzip"), Points("gzip")
        unpacker.feed(data)
        while unpacker.next(CHUNK):
            for begun in unpacker.take():
                made.add(begun)
        made.end(len(data), len(tars["gzip"]))
        with open(points, "r+b") as file:
            file.truncate()
            made.save(file.fileno(), points.name.encode())

    kept, key = cache.sums(gzip.diff_id), f"chunks/{gzip.diff_id}"
    assert kept is not None
    told(sums, lambda: sums.write_bytes(sealed(kept[::-1], 1, key)))
    told(points, lead_elsewhere)
    clean(store, images=2)
    # A bad disk changes a byte, and neither times nor inode.
    monkeypatch.setattr(Cache, "open_sidecar", lambda *_: os.open(sidecar, os.O_RDONLY))
    for place in (9, sidecar.stat().st_size // 2, sidecar.stat().st_size - 9):
        told(sidecar, lambda place=place: flip(sidecar, place))  # type: ignore[misc]
        clean(store, images=2)


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    with open(path, "r+b") as file:
        file.write(data)


def test_a_chain_of_layerdb_may_be_missing(full: Store) -> None:
    """Other programs that write images do not make it."""
    for directory in full.layout.layerdb.iterdir():
        for path in directory.iterdir():
            path.unlink()
        directory.rmdir()
    clean(full, images=3)


def test_stale_repositories_are_no_damage(full: Store) -> None:
    """A crash after the write of index.json leaves them, and so do other programs."""
    document = json.loads(full.layout.index.read_bytes())
    document["manifests"].pop(0)
    full.layout.index.write_text(json.dumps(document))
    clean(full, images=3)
    full.tag("b:1", parse_name("b:2"))
    repositories = json.loads(full.layout.repositories.read_bytes())["Repositories"]
    assert set(repositories["b"]) == {"b:1", "b:2"}


def test_what_repositories_say_is_compared(full: Store) -> None:
    document = json.loads(full.layout.repositories.read_bytes())
    document["Repositories"]["b"]["b:1"] = "sha256:" + "0" * 64
    full.layout.repositories.write_text(json.dumps(document))
    assert checked(full).mismatches == ["repositories.json: not what index.json says"]


def test_a_map_that_lies_is_told(full: Store) -> None:
    digest = full.find("a:1").summary.layers[0].digest
    other = full.find("b:1").summary.layers[1]
    full.layout.diff_id(digest).write_text(
        json.dumps({"diff_id": other.diff_id, "size": other.archive_size})
    )
    assert any(digest.hex in line for line in checked(full).mismatches)


@pytest.mark.parametrize("name", ["zzz", "a" * 63, "A" * 64, "a" * 64])
def test_a_strange_blob_is_told(full: Store, name: str) -> None:
    (full.layout.blobs / name).write_bytes(b"strange")
    assert any(name in line for line in problems(full))
    prune(full)
    clean(full)


def test_a_blob_that_is_no_file_is_told(full: Store) -> None:
    blob = full.layout.blob(full.find("a:1").summary.layers[0].digest)
    blob.rename(full.root / "elsewhere")
    blob.symlink_to(full.root / "elsewhere")
    assert any(blob.name in line for line in checked(full).mismatches)
    blob.unlink()
    blob.mkdir()
    assert any(blob.name in line for line in checked(full).mismatches)


def test_verify_writes_nothing(full: Store) -> None:
    before = files(full)
    checked(full)
    assert files(full) == before
    assert os.listdir(full.layout.leases) == []


def test_a_store_that_cannot_be_written_to(full: Store) -> None:
    run("mount", "--bind", full.root, full.root)
    run("mount", "-o", "remount,bind,ro", full.root)
    try:
        clean(full, images=3)
        assert full.find("a:1").names
        with pytest.raises(ImgmountError, match="Read-only"):
            prune(full)
    finally:
        run("umount", full.root)


def test_an_orphan_is_no_damage(full: Store) -> None:
    data = b"nobody's"
    orphan = full.layout.blob(Digest.of(data))
    orphan.write_bytes(data)
    report = checked(full)
    assert report.mismatches == [] and report.unreached == [f"blobs/sha256/{orphan.name}"]
    prune(full)
    clean(full, images=3)


def test_maps_that_changed_names_are_not_believed(full: Store) -> None:
    """Each file is complete, and belongs to another blob."""
    names = [row.digest for row in full.find("b:1").summary.layers]
    one, other = (full.layout.diff_id(digest) for digest in names)
    swapped = one.read_bytes(), other.read_bytes()
    other.write_bytes(swapped[0])
    one.write_bytes(swapped[1])
    full.layout.summaries.unlink()
    assert [row.diff_id for row in full.find("b:1").summary.layers] == names  # they are plain tars
    assert [line.split(": ")[1] for line in checked(full).mismatches] == ["damaged", "damaged"]
