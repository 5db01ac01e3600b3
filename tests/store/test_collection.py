"""Checks which files `prune` and a removal delete, and which living processes keep."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from bringing import another_holds, assert_empty, brought
from imagewriter import ImageSpec, oci_layout
from storing import checked, clean, files, layer, names

from fusemount.digest import Digest
from fusemount.imagename import parse_name
from fusemount.store import Store
from fusemount.store.intake import Part
from fusemount.store.locks import MOUNT, live_leases, locked
from fusemount.store.removal import prune, remove
from fusemount.store.summary import Summaries
from fusemount.store.usage import usage


def test_prune_takes_what_dangles_or_everything(store: Store, tmp_path: Path) -> None:
    brought(store, tmp_path, "a:1", "one")
    brought(store, tmp_path, "a:1", "two")
    brought(store, tmp_path, "b:1", "three")
    assert len(prune(store, unnamed=False).deleted) == 0
    removed = prune(store)
    assert len(removed.deleted) == 3 and removed.freed > 0
    clean(store, images=2)
    assert prune(store, everything=True).untagged == ["a:1", "b:1"]
    assert_empty(store)


def test_prune_takes_what_crashes_left(store: Store, tmp_path: Path) -> None:
    brought(store, tmp_path, "a:1", "x", how="gzip")
    before = files(store)
    layout = store.layout
    for path in (
        layout.blobs / ("0" * 64), layout.blobs / ".tmp-1.2-3", layout.ingest / "x.part",
        layout.diff_ids / ("0" * 64), layout.diff_ids / ".tmp-x", layout.metadata / ("0" * 64),
        layout.cache / "layers" / ("0" * 64 + ".tar"), layout.cache / "index" / ("0" * 64 + ".idx"),
        layout.cache / "facts" / ("0" * 64 + ".json"), layout.root / ".tmp-index.json.1-2",
        layout.cache / ".tmp-summaries.json.1-2", layout.leases / "1-2",
    ):  # fmt: skip
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"left")
    for name in (".tmp-" + "0" * 64 + ".1", "0" * 64):
        (layout.layerdb / name).mkdir()
        (layout.layerdb / name / "diff").write_bytes(b"left")
    assert len(checked(store).unreached) >= 8
    assert prune(store).freed > 0
    assert files(store) == before


def test_what_is_full_can_still_be_emptied(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", disk], check=True)
    try:
        store = Store(disk / "root", create=True)
        brought(store, tmp_path, "a:1", "one")
        brought(store, tmp_path, "b:1", "two")
        with open(disk / "fill", "wb", buffering=0) as file, pytest.raises(OSError):
            while True:
                file.write(b"x" * 4096)
        remove(store, "a:1")
        (disk / "fill").unlink()
        store.tag("b:1", parse_name("c:1"))
        clean(store, images=1)
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_layout_of_others_is_a_store(tmp_path: Path) -> None:
    """It has blobs and names, and none of our derived files."""
    specs = [ImageSpec([layer("base"), layer(tag)], tags=[tag]) for tag in ("a:1", "b:1")]
    store = Store(oci_layout(tmp_path / "theirs", images=specs))
    assert names(store) == {"a:1", "b:1"}
    clean(store, images=2)
    assert usage(store).orphans == 0
    remove(store, "a:1")
    clean(store, images=1)
    store.tag("b:1", parse_name("c:1"))
    prune(store, everything=True)
    clean(store, images=0)
    assert not list(store.layout.blobs.iterdir())


# ---- leases -------------------------------------------------------------------------------


def test_a_lease_of_the_dead_means_nothing(store: Store, tmp_path: Path) -> None:
    image = brought(store, tmp_path, "a:1", "x")
    needed = sorted(Summaries(store.layout).blobs(image.digest))
    with another_holds(store, MOUNT, needed) as pid:
        os.kill(pid, signal.SIGKILL)
    assert len(list(store.layout.leases.iterdir())) == 1
    remove(store, "a:1")
    assert not list(store.layout.leases.iterdir())
    assert_empty(store)


def test_what_a_load_relies_on_is_not_collected(store: Store, tmp_path: Path) -> None:
    image = brought(store, tmp_path, "a:1", "x")
    needed = sorted(Summaries(store.layout).blobs(image.digest))
    with store.lease("load", "a:1") as lease:
        lease.hold(needed)
        remove(store, "a:1")
        prune(store, everything=True)
        clean(store, images=0)
        store.add(image.descriptor, [parse_name("c:1")])
    clean(store, images=1)
    assert len(list(store.layout.layerdb.iterdir())) == 1


def test_a_part_that_somebody_writes_stays(store: Store) -> None:
    digest = Digest.of(b"x")
    with Part(store.layout, digest) as part:
        part.append(b"half")
        prune(store)
        assert store.layout.part(digest).read_bytes() == b"half"
        clean(store)
    assert checked(store).unreached == [f"ingest/{digest.hex}.part"]
    prune(store)
    clean(store)


@pytest.mark.parametrize("data", [b"", b"{", b'{"kind":"x"}\nsha256:12', b"\xff\xff\n\n"])
def test_a_lease_that_cannot_be_read_ends_nobody(store: Store, data: bytes) -> None:
    with store.lease("load", "x") as lease:
        (path,) = store.layout.leases.iterdir()
        path.write_bytes(data)
        with locked(store.layout, exclusive=True):
            (held,) = live_leases(store.layout)
        assert held.digests == frozenset()
        lease.hold([Digest.of(b"x")])
        prune(store)
    prune(store)
    assert not list(store.layout.leases.iterdir())


def test_a_lease_outlives_its_maker_in_a_child(store: Store) -> None:
    """A mount that goes into the background forks so."""
    lease = store.lease(MOUNT, "x", "/mnt")
    lease.hold([Digest.of(b"x")])
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(write)
        os.read(read, 1)
        os._exit(0)
    os.close(read)
    lease.leave()
    with locked(store.layout, exclusive=True):
        (held,) = live_leases(store.layout)
    assert held.digests == {Digest.of(b"x")}
    os.close(write)
    os.waitpid(child, 0)
    with locked(store.layout, exclusive=True):
        assert live_leases(store.layout) == []
