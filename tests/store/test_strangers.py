"""Checks that stores and caches which another user could have written to are refused."""

from __future__ import annotations

import os
import re
import stat
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from imagewriter import oci_archive, oci_layout
from storing import LAYERS, checked, load

from fusemount.daemon import mountrecords
from fusemount.daemon.scratch import create_scratch
from fusemount.errors import ImgmountError, MalformedImage, NotPermitted
from fusemount.layer import SilentProgress, open_layers
from fusemount.layer.cache import Cache
from fusemount.reference import STORE, Reference
from fusemount.settings import Directories, ImageOptions, Platform
from fusemount.sources import open_image
from fusemount.store import Store
from fusemount.store.locks import live_leases, locked
from fusemount.store.removal import prune

AMD64 = Platform("linux", "amd64")
NOBODY = 65533


@pytest.fixture
def full(tmp_path: Path) -> Store:
    store = Store(tmp_path / "root", create=True)
    load(store, oci_archive(tmp_path / "in", LAYERS, tags=["a:1"], compress="gzip"))
    return store


def directories_of(top: Path) -> list[Path]:
    return [Path(here) for here, _, _ in os.walk(top)]


def test_a_directory_that_others_could_write_to_is_no_part_of_a_store(full: Store) -> None:
    fixed = [d for d in directories_of(full.root) if d.parent != full.layout.layerdb]
    assert len(fixed) == 19
    for directory in fixed:
        os.chown(directory, NOBODY, -1)
        with pytest.raises(NotPermitted, match=f"{directory}: .*: it belongs to uid {NOBODY}"):
            use(full)
        os.chown(directory, 0, -1)
        mode = stat.S_IMODE(directory.stat().st_mode)
        directory.chmod(0o777)
        with pytest.raises(NotPermitted, match=f"{directory}: .*: its mode is 0777"):
            use(full)
        directory.chmod(mode)
        elsewhere = directory.rename(full.root.parent / "elsewhere")
        directory.symlink_to(elsewhere)
        with pytest.raises(NotPermitted, match=f"{directory}: .*: it is a symlink"):
            use(full)
        directory.unlink()
        elsewhere.rename(directory)
    use(full)


def use(store: Store) -> None:
    """Reads images and kept files, as a verb does."""
    Cache(Store(store.root).layout.cache)


def test_a_cache_that_leads_elsewhere_is_neither_pruned_nor_filled(full: Store) -> None:
    victim = full.root.parent / "victim"
    (victim / "layers").mkdir(parents=True)
    (victim / "layers" / "precious").write_bytes(b"x")
    for path in sorted(full.layout.cache.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    full.layout.cache.rmdir()
    full.layout.cache.symlink_to(victim)
    for create in (False, True):
        with pytest.raises(NotPermitted, match="cache: must be a directory that only you"):
            prune(Store(full.root, create=create))
    assert os.listdir(victim) == ["layers"] and os.listdir(victim / "layers") == ["precious"]


def test_a_strangers_store_can_be_read_as_a_layout(full: Store) -> None:
    os.chown(full.root, NOBODY, -1)
    with pytest.raises(NotPermitted, match=f"oci:{full.root} reads it as a layout"):
        Store(full.root)
    kept = full.root.parent / "kept"
    places = Directories(kept, kept, kept)
    reference = Reference("oci", full.root, "a:1")
    with open_image(reference, ImageOptions(AMD64), places, SilentProgress()) as image:
        assert len(image.layers) == len(LAYERS)
    os.chown(full.root, 0, -1)


def test_roots_store_may_be_used_by_others(full: Store) -> None:
    pid = os.fork()
    if pid == 0:
        try:
            for path in (full.root, full.root.parent):
                path.chmod(0o755)
            os.chroot(full.root.parent)  # the directory above keeps others out
            os.chdir("/")
            os.setresuid(NOBODY, NOBODY, NOBODY)
            Store(Path("/root")).find("a:1")
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


# ---- files -------------------------------------------------------------------------------------


def odd(path: Path, kind: str) -> None:
    """Makes something at the path that is no regular file."""
    path.unlink(missing_ok=True)
    if kind == "symlink":
        path.symlink_to(path.parent.parent / "elsewhere")
    else:
        os.mkfifo(path)


@pytest.mark.parametrize("kind", ["symlink", "fifo"])
def test_what_is_no_file_is_not_opened(full: Store, kind: str) -> None:
    root = full.root
    odd(full.layout.leases / "1-a", kind)
    odd(full.layout.ingest / "b.part", kind)
    assert live_leases(full.layout) == []
    assert checked(full).mismatches == []
    prune(full)
    assert os.listdir(full.layout.leases) == os.listdir(full.layout.ingest) == []
    for path in (full.layout.lock, full.layout.index):
        data = path.read_bytes()
        odd(path, kind)
        with pytest.raises(ImgmountError, match=rf"{path}: .*, where a file of imgmount's own"):
            with locked(full.layout, exclusive=True):
                full.images()
        path.unlink()
        path.write_bytes(data)
    assert not (root / "elsewhere").exists()


def test_a_blob_of_a_store_is_a_file(full: Store, tmp_path: Path) -> None:
    blob = full.layout.blob(full.find("a:1").summary.layers[0].digest)
    blob.rename(tmp_path / "secret")
    blob.symlink_to(tmp_path / "secret")
    for verify in (True, False):
        with pytest.raises(ImgmountError, match=f"{blob.name}: a symlink where none may be"):
            opened(Reference(STORE, full.root, "a:1"), verify)


def opened(reference: Reference, verify: bool) -> None:
    kept = reference.path.parent / "kept"
    options = ImageOptions(AMD64, verify)
    places = Directories(kept, kept, kept)
    with open_image(reference, options, places, SilentProgress()) as image:
        for layer in open_layers(image, options, places, SilentProgress()):
            layer.close()


@pytest.mark.parametrize("leads", ["outside", "up", "inside"])
def test_links_of_a_layout(tmp_path: Path, leads: str) -> None:
    """With verification, digests show whether a link leads to the right file.  Without, a link may
    not lead out of the layout."""
    layout = oci_layout(tmp_path / "d", LAYERS)
    (blob,) = (p for p in (layout / "blobs/sha256").iterdir() if p.stat().st_size == len(LAYERS[0]))
    (layout / "in").mkdir()
    elsewhere = blob.rename((layout if leads == "inside" else tmp_path) / "in" / "blob"
                            if leads == "inside" else tmp_path / "secret")  # fmt: skip
    targets = {"outside": elsewhere, "up": Path("../../../secret"), "inside": Path("../../in/blob")}
    blob.symlink_to(targets[leads])
    reference = Reference("oci", layout, None)
    opened(reference, verify=True)
    if leads == "inside":
        opened(reference, verify=False)
    else:
        with pytest.raises(MalformedImage, match=f"{blob}: a symlink that leads out"):
            opened(reference, verify=False)


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("indirect", [False, True])
def test_a_layout_leads_through_no_process(tmp_path: Path, verify: bool, indirect: bool) -> None:
    """Links of /proc lead into mount namespaces of other users, where a file system need never
    answer: none is followed, not even to the right file.  `load` reports it, and holds no lock."""
    layout = oci_layout(tmp_path / "d", LAYERS)
    (blob,) = (p for p in (layout / "blobs/sha256").iterdir() if p.stat().st_size == len(LAYERS[0]))
    kept = blob.rename(layout / "kept")
    target = Path(f"/proc/{os.getpid()}/root{kept}")
    if indirect:
        (tmp_path / "link").symlink_to(target)
        target = tmp_path / "link"
    blob.symlink_to(target)
    assert blob.read_bytes() == LAYERS[0]
    reference = Reference("oci", layout, None)
    with pytest.raises(ImgmountError, match=f"{blob}: a symlink"):
        opened(reference, verify)
    store = Store(tmp_path / "store", create=True)
    with pytest.raises(ImgmountError, match=f"{blob}: a symlink"):
        load(store, layout)
    blob.unlink()
    kept.rename(blob)
    load(store, layout)


# ---- modes -------------------------------------------------------------------------------------


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def modes(top: Path) -> set[tuple[str, str]]:
    """{kind of file, by its directory: its modes} of everything below."""
    found = set()
    for path in (top, *top.rglob("*")):
        where = re.sub(r"[0-9a-f]{12,}", "*", str(path.relative_to(top)))
        found.add((re.sub(r"[0-9]+", "N", where), oct(path.lstat().st_mode)))
    return found


def everything(top: Path) -> set[tuple[str, str]]:
    """Makes a store, a cache, a state and a runtime directory with all kinds of files in them."""
    archive = oci_archive(top / "in", LAYERS, tags=["a:1"], compress="gzip")
    made = top / "made"
    store = Store(made / "deep" / "store", create=True)
    load(store, archive)
    made_here = Directories(made / "cache", made / "state", made / "run")
    reference = Reference("oci-archive", archive, None)
    with open_image(reference, ImageOptions(AMD64), made_here, SilentProgress()) as image:
        for layer in open_layers(image, ImageOptions(AMD64), made_here, SilentProgress()):
            layer.close()
    with store.lease("test", "a"):
        scratch = create_scratch(made_here.state)
        scratch.keep()
        mountrecords.prepare(made_here.runtime)
        started = mountrecords.start_time(os.getpid()) or 0
        record = mountrecords.Record(
            os.getpid(), started, "/", "0:0", "i", "", None, None, False, 0, ""
        )
        mountrecords.register(made_here.runtime, record)
        found = modes(made)
        os.close(scratch.lock)
    return found


def test_modes_are_set_whatever_the_umask(tmp_path: Path) -> None:
    found = []
    for mask in (0o022, 0, 0o777):
        (tmp_path / str(mask)).mkdir()
        with umask(mask):
            found.append(everything(tmp_path / str(mask)))
    assert found[0] == found[1] == found[2]
    assert not {row for row in found[0] if int(row[1], 8) & 0o022}
    assert {int(mode, 8) & 0o777 for _, mode in found[0]} == {0o755, 0o700, 0o644, 0o600}


def test_nobody_else_can_have_a_lock(full: Store) -> None:
    """Whoever can open a file can lock it (flock(2)), and users may read root's stores."""
    full.root.chmod(0o755)
    lock = full.root / "lock"
    lock.chmod(0o644)  # as an older version made it
    with full.lease("mount", "a:1", "/m"):
        for path in (lock, *(full.root / "leases").iterdir()):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
