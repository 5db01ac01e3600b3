"""Law: what a store takes on disk, told apart: what images share, what is one's own, what can go.

Blobs count with their length, as `docker system df` counts; what can be made again (indexes and
unpacked tars) counts apart, with the blocks that it takes.
"""

from __future__ import annotations

import os
from collections import Counter
from contextlib import suppress
from pathlib import Path

from fusemount.dataclass import dataclass
from fusemount.digest import Digest
from fusemount.store.layout import translated
from fusemount.store.locks import MOUNT, LiveLease, live_leases, locked
from fusemount.store.store import Store, StoredImage


@dataclass(frozen=True)
class ImageUse:
    """shared, unique: bytes of blobs that other images of the store need too, and that none does.
    mounts: how many show it."""

    image: StoredImage
    shared: int
    unique: int
    mounts: int

    @property
    def size(self) -> int:
        return self.shared + self.unique


@dataclass(frozen=True)
class Use:
    """images: in the order of index.json.  blobs: bytes of all that images need.  orphans: of blobs
    that nothing leads to.  cache: what can be made again.  parts: broken downloads.
    reclaimable: of blobs that `prune --all` would take."""

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
        held = live_leases(layout)
        _, images, summaries = store.read()
    sizes = _sizes(layout.blobs)
    needs = {image.digest: summaries.blobs(image.digest) for image in images}
    users: Counter[Digest] = Counter(digest for blobs in needs.values() for digest in blobs)

    def total(blobs: set[Digest]) -> int:
        return sum(sizes.get(digest.hex, 0) for digest in blobs)

    rows = []
    in_use: set[Digest] = {digest for h in held for digest in h.digests}
    for image in images:
        own = needs[image.digest]
        unique = total({digest for digest in own if users[digest] == 1})
        mounts = _mounts(held, {digest for digest, _ in summaries.reached(image.digest)})
        if mounts:
            in_use |= own
        rows.append(ImageUse(image, total(own) - unique, unique, mounts))
    reached = set(users)
    orphans = sum(size for name, size in sizes.items() if f"sha256:{name}" not in reached)
    return Use(
        tuple(rows), total(reached), orphans, _blocks(layout.cache), _blocks(layout.ingest),
        total(reached - in_use),
    )  # fmt: skip


def _mounts(held: list[LiveLease], manifests: set[Digest]) -> int:
    return sum(1 for h in held if h.holder.kind == MOUNT and manifests & h.digests)


def _sizes(directory: Path) -> dict[str, int]:
    sizes = {}
    with translated(directory):
        for entry in os.scandir(directory):
            with suppress(FileNotFoundError):  # it has just gone
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
