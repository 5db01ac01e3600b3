"""Law: loads and saves images of a store by the functions that the verbs call.

load(store, path)              an archive or a layout
save(store, "a:1", target)     to Target(form, path)
clean(store)                   asserts that verify finds nothing, and nothing is unreached
files(store)                   {path below the root: bytes} of the files on disk
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tarwriter import TarWriter

from fusemount.budget import Budget
from fusemount.layer import SilentProgress
from fusemount.reference import parse_reference
from fusemount.settings import Directories
from fusemount.sources.opening import open_medium, path_exists
from fusemount.sources.writing import Target
from fusemount.store import Store, StoredImage
from fusemount.store.verify import Report, verify
from fusemount.transfer.archiveload import load_medium
from fusemount.transfer.reports import SilentTransfers
from fusemount.transfer.save import save as save_images

LAYERS = [
    TarWriter().dir("a").file("a/b", b"1" * 3000).tar(),
    TarWriter().file("c", b"2" * 700).tar(),
    TarWriter().whiteout("a/b").tar(),
]


def layer(text: str, size: int = 600) -> bytes:
    return TarWriter().file(text, (text.encode() * size)[:size]).tar()


def load(store: Store, path: Path) -> list[StoredImage]:
    kept = path.parent / ".kept"
    directories = Directories(kept / "cache", kept / "state", kept / "run")
    reference = parse_reference(str(path), path_exists)
    with open_medium(reference, directories, SilentProgress(), Budget()) as medium:
        return load_medium(store, medium, SilentTransfers())


def save(store: Store, names: str | Sequence[str], form: str, path: Path) -> Path:
    texts = [names] if isinstance(names, str) else names
    chosen = [(store.find(text), (store.name(text),)) for text in texts]
    save_images(store, chosen, Target(form, path), SilentTransfers())
    return path


def checked(store: Store) -> Report:
    return verify(store, SilentProgress())


def clean(store: Store, images: int | None = None) -> None:
    report = checked(store)
    assert not report.mismatches, "\n".join(report.mismatches)
    assert not report.unreached, "\n".join(report.unreached)
    assert images is None or report.images == images


def files(store: Store) -> dict[str, bytes]:
    root = store.root
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name != "lock"
    }


def names(store: Store) -> set[str]:
    return {name.familiar for image in store.images() for name in image.names}
