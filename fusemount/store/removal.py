"""Law: removes names and images for a user: first from index.json, then their files.

An image goes with its last name.  Blobs that a living process relies on stay; `prune` deletes them
after its end (collection.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from fusemount.dataclass import dataclass
from fusemount.digest import Digest
from fusemount.errors import ImageInUse, ImgmountError, NoSpace
from fusemount.image.fields import listed
from fusemount.imagename import parse_name
from fusemount.store.catalog import Catalog, Entry
from fusemount.store.collection import Removed, collect, delete_unshared, unlink
from fusemount.store.layout import Layout, store_errors
from fusemount.store.locks import MOUNT, LiveLease, live_leases, locked
from fusemount.store.store import Store, StoredImage
from fusemount.store.summary import Summaries


def remove(store: Store, text: str, *, force: bool = False) -> Removed:
    """Removes a name.  The image goes with its last name, or if the text is its ID.

    Raises ImageNotFound; without force also ImageInUse, if a mount shows the image, or if it was
    given by ID and has several names.
    """
    (outcome,) = remove_all(store, [text], force=force)
    if isinstance(outcome, ImgmountError):
        raise outcome
    return outcome


def remove_all(
    store: Store, texts: Iterable[str], *, force: bool = False
) -> list[Removed | ImgmountError]:
    """Removes several in one step, each as remove() does.

    Returns for each text what was removed, or the error.
    """
    layout = store.layout
    outcomes: list[Removed | ImgmountError] = []
    with store_errors(layout.root), locked(layout, exclusive=True):
        before = after = Catalog.read(layout)
        summaries, leases = Summaries(layout, tolerant=True), live_leases(layout)
        gone: dict[Digest, Removed] = {}
        for text in texts:
            try:
                removals = _removals(store, text, after, summaries, force)
                for each in removals:
                    if each.image_goes:
                        _check_unused(each.image, summaries, leases, force)
            except ImgmountError as error:
                outcomes.append(error)
                continue
            removed = Removed()
            outcomes.append(removed)
            for each in removals:
                after = _without(after, each)
                removed.untagged += _untagged(each.entries, each.digests)
                if each.image_goes:
                    gone[each.image.digest] = removed
        if after is not before:
            after = _write(after, layout)
            delete_unshared(store, gone, after.manifests, summaries, leases)
            store.derive(after, summaries)
    return outcomes


@dataclass(frozen=True)
class _Removal:
    """The names that one image loses.

    entries: the names.  digests: the NAME@DIGESTs.  left: NAME@DIGESTs of other repositories, which
    the image keeps.
    """

    image: StoredImage
    entries: Sequence[Entry]
    digests: Sequence[str]
    left: Sequence[str] = ()

    @property
    def image_goes(self) -> bool:
        """Whether the image has no name of any kind afterwards."""
        return len(self.entries) == len(self.image.entries) and not self.left


def _removals(
    store: Store, text: str, catalog: Catalog, summaries: Summaries, force: bool
) -> list[_Removal]:
    """What a name, NAME@DIGEST or ID removes.  One ID may be the ID of several manifests."""
    image = store.find(text, catalog, summaries)
    called = store.called(catalog, text)
    if not called:
        same = store.same_id(image, catalog, summaries)
        names = [name.familiar for each in same for name in each.names]
        if (len(names) > 1 or len(same) > 1) and not force:
            there = listed(names) or f"{len(same)} manifests"
            raise ImageInUse(f"{text}: is named {there}: remove that, or use --force")
        return [_Removal(each, each.entries, each.repo_digests) for each in same]
    entries = called
    if "@" in text:  # the names that the image has in that repository
        own = {store.name(text).repository}
        entries = [e for e in image.entries if e.name is not None and e.name.repository in own]
    else:
        own = _repositories(entries)
    chosen = {entry.name for entry in entries}
    others = [entry for entry in image.entries if entry.name not in chosen]
    staying = _repositories(others)
    lost = [d for d in image.repo_digests if d.partition("@")[0] in own - staying]
    left = [digest for digest in image.repo_digests if digest not in lost]
    named = [entry for entry in others if entry.name is not None]
    if not named:  # without a tag, the image stays only if it has other NAME@DIGESTs
        entries = list(image.entries)
    return [_Removal(image, entries, lost, left)]


def _without(catalog: Catalog, going: _Removal) -> Catalog:
    """The catalog without these names.

    An image that keeps only NAME@DIGESTs gets an entry without a name.
    """
    image, digests = going.image, tuple(going.left)
    gone = {(entry.digest, entry.name) for entry in going.entries}
    kept = [e for e in image.entries if (e.digest, e.name) not in gone]
    entries = [
        replace(e, repo_digests=digests) if e.digest == image.digest and e.repo_digests else e
        for e in catalog.entries if (e.digest, e.name) not in gone
    ]  # fmt: skip
    if not kept and digests:
        entries.append(Entry(image.descriptor, None, digests))
    return catalog.changed(entries)


def _write(catalog: Catalog, layout: Layout) -> Catalog:
    """Writes index.json.  On a full disk, derived files are deleted to make room for it.

    Otherwise nothing could be removed from a full disk.
    """
    try:
        return catalog.write(layout)
    except NoSpace:
        unlink(layout.summaries)
        unlink(layout.repositories)
        return catalog.write(layout)


def users(store: Store, image: StoredImage, summaries: Summaries) -> list[LiveLease]:
    """The leases of the living mounts that show the image."""
    with locked(store.layout, exclusive=True):
        return _mounts(image, summaries, live_leases(store.layout))


def broken_by(store: Store, text: str) -> list[str]:
    """What remove() breaks with force and refuses without it, one line each.

    Raises ImageNotFound.
    """
    catalog, summaries = Catalog.read(store.layout), Summaries(store.layout, tolerant=True)
    lines = []
    for each in _removals(store, text, catalog, summaries, True):
        if not each.image_goes:
            continue
        for held in users(store, each.image, summaries):
            lines.append(
                f"{text}: is mounted at {held.holder.where}, which goes on until it is unmounted, "
                "cannot be mounted again, and cannot be committed"
            )
        if len(each.image.names) > 1:
            names = listed([name.familiar for name in each.image.names])
            lines.append(f"{text}: all of its names go: {names}")
    return lines


def _mounts(
    image: StoredImage, summaries: Summaries, leases: Sequence[LiveLease]
) -> list[LiveLease]:
    manifests = {digest for digest, _ in summaries.reached(image.digest)}
    return [h for h in leases if h.holder.kind == MOUNT and manifests & h.digests]


def _check_unused(
    image: StoredImage, summaries: Summaries, leases: Sequence[LiveLease], force: bool
) -> None:
    mounts = _mounts(image, summaries, leases)
    if mounts and not force:
        where = ", ".join(h.holder.where for h in mounts)
        raise ImageInUse(
            f"{image.image_id[:19]}: is mounted at {where}; with --force it goes, and those mounts "
            "go on until they are unmounted"
        )


def _repositories(entries: Sequence[Entry]) -> set[str]:
    return {entry.name.repository for entry in entries if entry.name is not None}


def _untagged(entries: Sequence[Entry], digests: Iterable[str]) -> list[str]:
    names = dict.fromkeys(entry.name.familiar for entry in entries if entry.name is not None)
    return [*names, *(parse_name(text).familiar for text in digests)]


def prune(
    store: Store,
    *,
    unnamed: bool = True,
    everything: bool = False,
    chunks: Path | None = None,
    wanted: Callable[[StoredImage, Summaries], bool] = lambda _image, _summaries: True,
) -> Removed:
    """Removes images that no mount shows, then collects all files that nothing leads to.

    unnamed: images without a name.  everything: images with names, too.  wanted: only images for
    which it returns True.  chunks: a user's chunk cache, which loses the layers that the store does
    not have.
    """
    removed = Removed()
    layout = store.layout
    if not layout.exists:
        return removed
    with store_errors(layout.root), locked(layout, exclusive=True):
        catalog, images, summaries = store.read()
        leases = live_leases(layout)
        going = [
            image for image in images
            if ((unnamed and image.is_dangling) or everything)
            and wanted(image, summaries) and not _mounts(image, summaries, leases)
        ]  # fmt: skip
        away = {image.digest for image in going}
        after = catalog.changed(e for e in catalog.entries if e.digest not in away)
        if going:
            after = _write(after, layout)
        for image in going:
            removed.untagged += _untagged(image.entries, image.repo_digests)
        delete_unshared(
            store, {image.digest: removed for image in going}, after.manifests, summaries, leases
        )
        removed.freed += collect(store, after, leases, chunks)
        store.derive(after, summaries)
    return removed
