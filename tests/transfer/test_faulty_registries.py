"""Checks pulls from faulty registries: one line, an exit code of its own, the store unchanged.

After each fault the store verifies and has nothing of the image; prune leaves nothing; and the next
pull, from a registry without faults, brings the image.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from hostile import Answer, Hostile, Request, error, hostile
from imagewriter import Files, ImageSpec, oci_files, sha256
from oracle import run
from realregistry import real_registry
from servedimage import ServedImage, in_range
from storing import checked, clean, layer
from tarwriter import TarWriter
from transferring import pulled, upload

from fusemount.digest import Digest
from fusemount.errors import (
    ImageNotFound,
    ImgmountError,
    MalformedImage,
    NoSpace,
    RegistryError,
    Unauthorized,
    VerificationFailed,
)
from fusemount.registry.options import RegistryOptions
from fusemount.store import Store
from fusemount.store.removal import prune
from fusemount.transfer.pull import RegistryAccess

SIZE = 3 << 20  # of the layer that breaks
CUT = SIZE - 1000
WHY = "why it is so"
HASTY = RegistryAccess(
    RegistryOptions(
        retry_delays=(0.0,), retry_after_max=5, progress_seconds=0.2, progress_bytes=2000
    )
)


def big(size: int = SIZE, seed: int = 1) -> bytes:
    """A layer that gzip makes no smaller."""
    return TarWriter().file("big", random.Random(seed).randbytes(size)).tar()


@pytest.fixture(scope="module")
def files() -> Files:
    spec = ImageSpec([layer("small"), big(), layer("top")], tags=("t",), compress="gzip")
    return oci_files([spec])


@pytest.fixture
def image(server: Hostile, files: Files) -> ServedImage:
    return ServedImage(server, files, "a/b", "t")


def refused(store: Store, image: ServedImage, kind: type[ImgmountError]) -> str:
    """The error's line.  Checks that the store is unchanged."""
    with pytest.raises(ImgmountError) as told:
        pulled(store, image.name, access=HASTY)
    line = str(told.value)
    assert type(told.value).exit_code == kind.exit_code, f"{type(told.value)}: {line}"
    assert line.isprintable() and len(line) < 1000
    assert image.name.rpartition(":")[0] in line, line
    assert not checked(store).mismatches and not store.images()
    return line


def comes_in(store: Store, image: ServedImage) -> None:
    """Pulls again, from a registry without faults."""
    image.serve()
    pulled(store, image.name, access=HASTY)
    assert store.find(image.name).digest == image.digest
    clean(store, images=1)


def pruned(store: Store) -> None:
    prune(store)
    clean(store, images=0)
    for name in ("blobs/sha256", "ingest", "leases"):
        assert not list((store.root / name).iterdir())


@dataclass(frozen=True)
class Fault:
    kind: type[ImgmountError]
    message: str
    answers: tuple[Answer | Callable[[Request], Answer], ...]


def status(number: int, kind: type[ImgmountError], message: str, **headers: str) -> Fault:
    return Fault(kind, message, (error(number, "CODE", WHY, **headers),))


STATUSES = {
    "401": status(401, Unauthorized, WHY),
    "403": status(403, Unauthorized, WHY),
    "429": status(429, RegistryError, WHY),
    "429-later": status(429, RegistryError, "asks to wait 3600 s", Retry_After="3600"),
    "500": status(500, RegistryError, WHY),
    "503": status(503, RegistryError, WHY),
    "redirects": Fault(RegistryError, "", (Answer(307, headers={"Location": "/v2/a/b/round"}),)),
    "elsewhere": Fault(RegistryError, "", (Answer(307, headers={"Location": "file:///etc/x"}),)),
    "nothing": Fault(RegistryError, "", (Answer(200, b"x" * 100, cut=0),)),
    "drip": Fault(RegistryError, "too slow", (Answer(200, b"x" * 1000, drip=0.05),)),
}


@pytest.mark.parametrize("name", [*STATUSES, "404"])
def test_a_manifest(store: Store, server: Hostile, image: ServedImage, name: str) -> None:
    fault = STATUSES.get(name) or status(404, ImageNotFound, WHY)
    server.on("GET /v2/a/b/round", Answer(307, headers={"Location": "/v2/a/b/round"}))
    server.on(image.manifest, *fault.answers)
    assert fault.message in refused(store, image, fault.kind)
    assert image.asked(image.config) == []
    comes_in(store, image)


OF_BLOBS = [(name, "layer") for name in (*STATUSES, "404", "wrong", "short", "long", "killed")]
OF_BLOBS += [(name, "config") for name in ("403", "404", "wrong", "short", "killed")]


@pytest.mark.parametrize(("name", "which"), OF_BLOBS)
def test_a_blob(store: Store, server: Hostile, image: ServedImage, name: str, which: str) -> None:
    digest = image.config if which == "config" else image.layers[1]
    data = image.bytes_of(digest)
    silence = in_range(data, cut=0)
    more = {
        "404": status(404, RegistryError, WHY),
        "wrong": Fault(VerificationFailed, "digest is", (in_range(bytes(len(data))),)),
        "short": Fault(VerificationFailed, "bytes", (Answer(200, data[:-1]),)),
        "long": Fault(VerificationFailed, "bytes", (Answer(200, data + b"x"),)),
        "killed": Fault(RegistryError, "", (in_range(data, cut=len(data) // 3), silence)),
        "nothing": Fault(RegistryError, "", (silence,)),
        "drip": Fault(RegistryError, "too slow", (in_range(data, drip=0.05),)),
    }  # fmt: skip
    fault = more.get(name) or STATUSES[name]
    server.on("GET /v2/a/b/round", Answer(307, headers={"Location": "/v2/a/b/round"}))
    server.on(image.blob(digest), *fault.answers)
    line = refused(store, image, fault.kind)
    assert fault.message in line and digest in line
    if name in ("wrong", "killed"):
        pruned(store)
        server.on(image.blob(digest), *fault.answers)
        refused(store, image, fault.kind)
    comes_in(store, image)


@pytest.mark.parametrize("how", ["first", "middle", "last"])
def test_a_damaged_layer_is_the_wrong_one(
    store: Store, server: Hostile, image: ServedImage, how: str
) -> None:
    """Whatever the damage does to gzip stream or tar, the error says that the digest is wrong."""
    data = bytearray(image.bytes_of(image.layers[1]))
    data[{"first": 30, "middle": len(data) // 2, "last": -2}[how]] ^= 0xFF
    server.on(image.blob(image.layers[1]), in_range(bytes(data)))
    line = refused(store, image, VerificationFailed)
    assert f"the manifest says {image.layers[1]}" in line
    assert not list(store.layout.ingest.glob(f"{image.layers[1][7:]}.part"))
    comes_in(store, image)


def test_a_wrong_diff_id(store: Store, server: Hostile) -> None:
    layers = [layer("a"), big()]
    right = ImageSpec(layers, tags=("t",), compress="gzip")
    ids = ["sha256:" + sha256(layers[0]), "sha256:" + "0" * 64]
    rootfs = {"rootfs": {"type": "layers", "diff_ids": ids}}
    spec = ImageSpec(layers, tags=("t",), compress="gzip", config=rootfs)
    wrong = ServedImage(server, oci_files([spec]), "a", "t")
    line = refused(store, wrong, VerificationFailed)
    assert ids[1] in line and "sha256:" + sha256(layers[1]) in line
    prune(store)
    good = ServedImage(server, oci_files([right]), "b", "t")
    comes_in(store, good)
    with pytest.raises(VerificationFailed, match="the config says"):  # of a layer in the store
        pulled(store, wrong.name, access=HASTY)
    prune(store)
    clean(store, images=1)


@pytest.mark.parametrize("compress", ["none", "gzip", "zstd"])
def test_no_tar(store: Store, server: Hostile, compress: str) -> None:
    """All digests are right, but the blob is no layer."""
    files = oci_files([ImageSpec([b"no tar" * 500], tags=("t",), compress=compress)])
    image = ServedImage(server, files, "a", "t")
    refused(store, image, MalformedImage)
    pruned(store)


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"{", b'{"schemaVersion":1}', b'{"schemaVersion":2,"config":{},"layers":[]}',
     b'{"schemaVersion":2,"manifests":[]}', b"\xff" * 100],
)  # fmt: skip
def test_no_manifest(store: Store, server: Hostile, image: ServedImage, data: bytes) -> None:
    server.on(image.manifest, Answer(200, data, {"Content-Type": image.kind}))
    with pytest.raises(ImgmountError) as told:
        pulled(store, image.name, access=HASTY)
    assert type(told.value).exit_code in (4, 6) and str(told.value).isprintable()
    comes_in(store, image)


def test_a_redirect_to_another_host_is_followed(store: Store, image: ServedImage) -> None:
    digest = image.layers[1]
    with hostile("127.0.0.2") as elsewhere:
        location = f"http://{elsewhere.domain}/there?signature=x"
        image.server.on(image.blob(digest), Answer(307, headers={"Location": location}))
        elsewhere.on("GET /there?signature=x", in_range(image.bytes_of(digest)))
        pulled(store, image.name, access=HASTY)
        assert elsewhere.heard == ["GET /there?signature=x"]
    clean(store, images=1)


# ---- going on ---------------------------------------------------------------------------------


def test_the_next_pull_goes_on(store: Store, server: Hostile, image: ServedImage) -> None:
    """Bytes that came are not requested again."""
    digest = image.layers[1]
    data = image.bytes_of(digest)
    server.on(image.blob(digest), in_range(data, cut=CUT), Answer(503))
    refused(store, image, RegistryError)
    had = store.layout.part(Digest(digest)).stat().st_size
    assert CUT - (1 << 20) < had <= CUT
    server.requests.clear()
    comes_in(store, image)
    assert image.asked(digest) == [had]
    others = [image.asked(each) for each in (image.layers[0], image.layers[2])]
    assert others == [[], []]


def test_a_part_that_is_no_good(store: Store, server: Hostile, image: ServedImage) -> None:
    """The digest shows it at the end, and the blob is requested again."""
    digest = image.layers[1]
    store.layout.part(Digest(digest)).write_bytes(bytes(CUT))
    comes_in(store, image)
    assert image.asked(digest) == [CUT, 0]


@pytest.mark.parametrize("more", [0, 100])
def test_a_part_of_full_length(
    store: Store, server: Hostile, image: ServedImage, more: int
) -> None:
    digest = image.layers[1]
    data = image.bytes_of(digest)
    store.layout.part(Digest(digest)).write_bytes(data + bytes(more))
    comes_in(store, image)
    assert image.asked(digest) == ([0] if more else [])


def test_a_registry_without_ranges(store: Store, server: Hostile, image: ServedImage) -> None:
    digest = image.layers[1]
    data = image.bytes_of(digest)
    server.on(image.blob(digest), Answer(200, data, cut=CUT), Answer(503))
    refused(store, image, RegistryError)
    image.serve()
    server.on(image.blob(digest), Answer(200, data))
    pulled(store, image.name, access=HASTY)
    clean(store, images=1)


def test_a_real_registry_is_killed(store: Store, tmp_path: Path) -> None:
    """It is killed during a blob.  Started again, it is asked for the rest."""
    plain = big(48 << 20)
    files = oci_files([ImageSpec([plain], tags=("t",))])
    digest = Digest.of(plain)
    (tmp_path / "registry").mkdir()
    with real_registry(tmp_path / "registry") as registry:
        upload(registry.domain, "a", "t", files)
        killer = threading.Thread(target=_kill_at, args=(store, digest, registry.kill))
        killer.start()
        with pytest.raises(RegistryError) as told:
            pulled(store, f"{registry.domain}/a:t", access=HASTY)
        killer.join()
        assert str(told.value).isprintable()
        had = store.layout.part(digest).stat().st_size
        assert 0 < had < len(plain) and not store.images()
        registry.start()
        pulled(store, f"{registry.domain}/a:t", access=HASTY)
    clean(store, images=1)


def _kill_at(store: Store, digest: Digest, kill: Callable[[], None]) -> None:
    part = store.layout.part(digest)
    end = time.monotonic() + 30
    while time.monotonic() < end and not (part.exists() and part.stat().st_size > 1 << 20):
        time.sleep(0.0005)
    kill()


def test_a_full_disk(server: Hostile, tmp_path: Path) -> None:
    """Parts that filled the disk are deleted; with more space the next pull succeeds."""
    spec = ImageSpec([layer("small"), big(2 << 20), big(16 << 20, 2)], tags=("t",), compress="gzip")
    image = ServedImage(server, oci_files([spec]), "a", "t")
    disk = tmp_path / "disk"
    disk.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", disk)
    try:
        store = Store(disk / "root", create=True)
        with pytest.raises(NoSpace) as told:
            pulled(store, image.name)
        assert "No space left" in str(told.value) and str(told.value).isprintable()
        assert not checked(store).mismatches and not store.images()
        assert not store.layout.part(Digest(image.layers[2])).exists()
        pruned(store)
        with pytest.raises(NoSpace):
            pulled(store, image.name)
        run("mount", "-o", "remount,size=64m", disk)
        pulled(store, image.name)
        clean(store, images=1)
    finally:
        run("umount", disk)
