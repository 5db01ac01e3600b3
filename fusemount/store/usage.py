"""Law: counts what a store takes on disk: shared between images, of one image, and reclaimable.

Blobs count with their length, as in `docker system df`.  Files that can be made again (indexes and
unpacked tars) are counted apart, with the blocks that they take.
"""

from __future__ import annotations

import os
from collections import Counter
from contextlib import suppress
from pathlib import Path

from fusemount.dataclass import dataclass
from fusemount.digest import Digest
from fusemount.store.layout import store_errors
from fusemount.store.locks import MOUNT, LiveLease, live_leases, locked
from fusemount.store.store import Store, StoredImage


@dataclass(frozen=True)
class ImageUse:
    """What one image takes.

    shared: bytes of its blobs that other images need, too.  unique: bytes of the other blobs.
    mounts: the number of mounts that show it.
    """

    image: StoredImage
    shared: int
    unique: int
    mounts: int

    @property
    def size(self) -> int:
        return self.shared + self.unique


@dataclass(frozen=True)
class Use:
    """What a store takes, in bytes.

    images: in the order of index.json.  blobs: of all blobs that images need.  orphans: of blobs
    that nothing leads to.  cache: of files that can be made again.  parts: of broken downloads.
    reclaimable: of blobs that `prune --all` would delete.
    """

    images: tuple[ImageUse, ...]
    blobs: int
    orphans: int
    cache: int
    parts: int
    reclaimable: int


def usage(store: Store) -> Use:
    """Raises ImgmountError."""
    layout = store.layout
    if not layout.exists:
        return Use((), 0, 0, 0, 0, 0)
    with locked(layout, exclusive=True):
        leases = live_leases(layout)
        _, images, summaries = store.read()
    sizes = _sizes(layout.blobs)
    needs = {image.digest: summaries.blobs(image.digest) for image in images}
    users: Counter[Digest] = Counter(digest for blobs in needs.values() for digest in blobs)

    def total(blobs: set[Digest]) -> int:
        return sum(sizes.get(digest.hex, 0) for digest in blobs)

    rows = []
    in_use: set[Digest] = {digest for h in leases for digest in h.digests}
    for image in images:
        own = needs[image.digest]
        unique = total({digest for digest in own if users[digest] == 1})
        mounts = _mounts(leases, {digest for digest, _ in summaries.reached(image.digest)})
        if mounts:
            in_use |= own
        rows.append(ImageUse(image, total(own) - unique, unique, mounts))
    reached = set(users)
    orphans = sum(size for name, size in sizes.items() if f"sha256:{name}" not in reached)
    return Use(
        tuple(rows), total(reached), orphans, _blocks(layout.cache), _blocks(layout.ingest),
        total(reached - in_use),
    )  # fmt: skip


def _mounts(leases: list[LiveLease], manifests: set[Digest]) -> int:
    return sum(1 for h in leases if h.holder.kind == MOUNT and manifests & h.digests)


def _sizes(directory: Path) -> dict[str, int]:
    sizes = {}
    with store_errors(directory):
        for entry in os.scandir(directory):
            with suppress(FileNotFoundError):  # it was deleted just now
                sizes[entry.name] = entry.stat().st_size
    return sizes


def _blocks(top: Path) -> int:
    taken = 0
    for here, _, names in os.walk(top):
        for name in names:
            try:
                taken += os.lstat(os.path.join(here, name)).st_blocks * 512
            except FileNotFoundError:
                continue
    return taken
