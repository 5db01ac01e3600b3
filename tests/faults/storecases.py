"""Law: lists the verbs that are run on a store while faults are tried, and makes that store.

The store has images of all kinds, and files that killed processes left.  Archives and a layout that
the verbs need are beside it, in the same directory.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from imagewriter import ImageSpec, docker_archive, oci_archive, oci_layout
from storing import layer, load, save

from fusemount.digest import Digest
from fusemount.imagename import parse_name
from fusemount.store import Store

BASE, SHARED = layer("base"), layer("shared", 5000)
PLATFORMS = [
    ImageSpec([SHARED, layer(arch)], config={"architecture": arch}, compress="zstd")
    for arch in ("amd64", "arm64")
]


@dataclass(frozen=True)
class Case:
    """words: the command, ROOT for the store, HERE for its directory.  into: what it changes."""

    words: tuple[str, ...]
    root: str = "root"
    into: str = "root"


CASES = {
    "load into a new store": Case(("load", "ROOT", "HERE/oci.tar"), root="new", into="new"),
    "load an OCI archive": Case(("load", "ROOT", "HERE/oci.tar")),
    "load a docker archive": Case(("load", "ROOT", "HERE/docker.tar")),
    "load an index": Case(("load", "ROOT", "HERE/multi")),
    "load what takes a name": Case(("load", "ROOT", "HERE/taker.tar")),
    "load what is there": Case(("load", "ROOT", "HERE/there.tar")),
    "tag": Case(("tag", "ROOT", "a:1", "new:1")),
    "tag what takes a name": Case(("tag", "ROOT", "a:1", "b:1")),
    "untag": Case(("rm", "ROOT", "a:2")),
    "rm": Case(("rm", "ROOT", "b:1")),
    "rm of two compressions": Case(("rm", "ROOT", "c:1")),
    "rm of an index": Case(("rm", "ROOT", "index:1")),
    "prune": Case(("prune", "ROOT")),
    "save to an archive": Case(("save", "ROOT", "a:1", "docker-archive", "HERE/out.tar"), into=""),
    "save into a layout": Case(("save", "ROOT", "a:1", "oci", "HERE/layout"), into="layout"),
    "save into a new layout": Case(("save", "ROOT", "a:1", "oci", "HERE/fresh"), into="fresh"),
}  # fmt: skip


def fill(here: Path) -> None:
    """Makes the archives, the store and the layout."""
    here.mkdir()
    oci_archive(here / "oci.tar", [BASE, layer("oci")], tags=["oci:1"], compress="gzip")
    docker_archive(here / "docker.tar", [BASE, layer("docker"), BASE], tags=["docker:1"])
    oci_layout(here / "multi", images=PLATFORMS, nested="multi:1")
    oci_archive(here / "taker.tar", [BASE, layer("taker")], tags=["b:1"])
    oci_archive(here / "there.tar", [SHARED, layer("a")], tags=["a:1"], compress="gzip")
    store = Store(here / "root", create=True)
    load(store, here / "there.tar")
    store.tag("a:1", parse_name("a:2"))
    load(store, oci_archive(here / "b.tar", [SHARED, layer("b")], tags=["b:1"], compress="gzip"))
    load(store, oci_archive(here / "c.tar", [SHARED, layer("a")], tags=["c:1"]))
    load(store, oci_archive(here / "d.tar", [layer("d")], tags=["dangling:1"]))
    store.tag("c:1", parse_name("dangling:1"))
    images = [
        ImageSpec([layer("i"), layer(a)], config={"architecture": a}) for a in ("amd64", "s390x")
    ]
    load(store, oci_layout(here / "i", images=images, nested="index:1"))
    for name in ("b.tar", "c.tar", "d.tar", "i"):
        shutil.rmtree(here / name) if (here / name).is_dir() else (here / name).unlink()
    store.layout.blob(Digest.of(b"orphan")).write_bytes(b"orphan")
    (store.layout.ingest / ("1" * 64 + ".part")).write_bytes(b"left")
    Store(here / "layout", create=True)
    save(store, "b:1", "oci", here / "layout")


def state(store: Store) -> dict[str, str]:
    """The names of a store or layout, and the images that they lead to."""
    found = {}
    for image in store.images():
        ids = json.dumps([image.digest, image.summary.what, *image.summary.children])
        found |= {name.familiar: ids for name in image.names} or {image.digest: ids}
    return found
