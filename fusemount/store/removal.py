"""Law: names and images that a user removes: the names go from index.json first, then the files.

What a living process relies on stays until that process ends (collection.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from fusemount.dataclass import dataclass
from fusemount.digest import Digest
from fusemount.errors import ImageInUse, ImgmountError, NoSpace
from fusemount.imagename import parse_name
from fusemount.store.catalog import Catalog, Entry
from fusemount.store.collection import Removed, collect, take, unlink
from fusemount.store.layout import Layout, translated
from fusemount.store.locks import MOUNT, Held, living, locked
from fusemount.store.store import LISTED_MAX, Store, StoredImage
from fusemount.store.summary import Summaries


def remove(store: Store, text: str, *, force: bool = False) -> Removed:
    """A name goes; with its last name, or asked for by ID, the image.

    Raises ImageNotFound; ImageInUse where a mount relies on it, or it has several names and was
    asked for by ID; not with force.
    """
    (outcome,) = remove_all(store, [text], force=force)
    if isinstance(outcome, ImgmountError):
        raise outcome
    return outcome


def remove_all(
    store: Store, texts: Iterable[str], *, force: bool = False
) -> list[Removed | ImgmountError]:
    """Several in one step, as remove() each; of each what went, or why it did not."""
    layout = store.layout
    outcomes: list[Removed | ImgmountError] = []
    with translated(layout.root), locked(layout, exclusive=True):
        before = after = Catalog.read(layout)
        summaries, held = Summaries(layout, tolerant=True), living(layout)
        gone: dict[Digest, Removed] = {}
        for text in texts:
            try:
                going = _going(store, text, after, summaries, force)
                for each in going:
                    if each.whole:
                        _check_unused(each.image, summaries, held, force)
            except ImgmountError as error:
                outcomes.append(error)
                continue
            removed = Removed()
            outcomes.append(removed)
            for each in going:
                after = _without(after, each)
                removed.untagged += _untagged(each.entries, each.digests)
                if each.whole:
                    gone[each.image.digest] = removed
        if after is not before:
            after = _write(after, layout)
            take(store, gone, {entry.digest for entry in after.entries}, summaries, held)
            store.derive(after, summaries)
    return outcomes


@dataclass(frozen=True)
class _Going:
    """entries, digests: the names, and NAME@DIGESTs, that an image loses.  left: NAME@DIGESTs of
    other repositories, which it keeps.  whole: it has no name of any kind then."""

    image: StoredImage
    entries: Sequence[Entry]
    digests: Sequence[str]
    left: Sequence[str] = ()

    @property
    def whole(self) -> bool:
        return len(self.entries) == len(self.image.entries) and not self.left


def _going(
    store: Store, text: str, catalog: Catalog, summaries: Summaries, force: bool
) -> list[_Going]:
    """What a name, NAME@DIGEST or ID takes; an ID may have several manifests."""
    image = store.find(text, catalog, summaries)
    called = store.called(catalog, text)
    if not called:
        same = store.same_id(image, catalog, summaries)
        names = [name.familiar for each in same for name in each.names]
        if (len(names) > 1 or len(same) > 1) and not force:
            listed = ", ".join(names[:LISTED_MAX]) or f"{len(same)} manifests"
            more = f" and {len(names) - LISTED_MAX} more" if len(names) > LISTED_MAX else ""
            raise ImageInUse(f"{text}: is named {listed}{more}: remove that, or use --force")
        return [_Going(each, each.entries, each.repo_digests) for each in same]
    entries = called
    if "@" in text:  # the names of that repository, of which it is the digest
        own = {store.name(text).repository}
        entries = [e for e in image.entries if e.name is not None and e.name.repository in own]
    else:
        own = _repositories(entries)
    staying = _repositories([entry for entry in image.entries if entry not in entries])
    lost = [d for d in image.repo_digests if d.partition("@")[0] in own - staying]
    left = [digest for digest in image.repo_digests if digest not in lost]
    named = [entry for entry in image.entries if entry not in entries and entry.name is not None]
    if not named:  # what is without a tag goes on only for its NAME@DIGESTs
        entries = list(image.entries)
    return [_Going(image, entries, lost, left)]


def _without(catalog: Catalog, going: _Going) -> Catalog:
    """An image that keeps NAME@DIGESTs alone has an entry without a name."""
    image, digests = going.image, tuple(going.left)
    kept = [entry for entry in image.entries if entry not in going.entries]
    entries = [
        replace(e, repo_digests=digests) if e in kept and e.repo_digests else e
        for e in catalog.entries if e not in going.entries
    ]  # fmt: skip
    if not kept and digests:
        entries.append(Entry(image.descriptor, None, digests))
    return catalog.changed(entries)


def _write(catalog: Catalog, layout: Layout) -> Catalog:
    """On a disk that is full, what is derived makes room: nothing could be removed otherwise."""
    try:
        return catalog.write(layout)
    except NoSpace:
        unlink(layout.summaries)
        unlink(layout.repositories)
        return catalog.write(layout)


def users(store: Store, image: StoredImage, summaries: Summaries) -> list[Held]:
    """The living mounts that show it."""
    with locked(store.layout, exclusive=True):
        return _mounts(image, summaries, living(store.layout))


def broken_by(store: Store, text: str) -> list[str]:
    """What remove() would break with force and refuses without it, a line each.

    Raises ImageNotFound.
    """
    catalog, summaries = Catalog.read(store.layout), Summaries(store.layout, tolerant=True)
    lines = []
    for each in _going(store, text, catalog, summaries, True):
        if not each.whole:
            continue
        for held in users(store, each.image, summaries):
            lines.append(
                f"{text}: is mounted at {held.holder.where}, which goes on until it is unmounted, "
                "cannot be mounted again, and cannot be committed"
            )
        if len(each.image.names) > 1:
            names = ", ".join(name.familiar for name in each.image.names[:LISTED_MAX])
            lines.append(f"{text}: all of its names go: {names}")
    return lines


def _mounts(image: StoredImage, summaries: Summaries, held: Sequence[Held]) -> list[Held]:
    manifests = {digest for digest, _ in summaries.reached(image.digest)}
    return [h for h in held if h.holder.kind == MOUNT and manifests & h.digests]


def _check_unused(
    image: StoredImage, summaries: Summaries, held: Sequence[Held], force: bool
) -> None:
    mounts = _mounts(image, summaries, held)
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
    wanted: Callable[[StoredImage, Summaries], bool] = lambda _image, _summaries: True,
) -> Removed:
    """Images without a name (unnamed), or all that no mount uses (everything), of those that are
    wanted; then whatever nothing leads to."""
    removed = Removed()
    layout = store.layout
    if not layout.exists:
        return removed
    with translated(layout.root), locked(layout, exclusive=True):
        catalog, images, summaries = store.read()
        held = living(layout)
        going = [
            image for image in images
            if ((unnamed and image.is_dangling) or everything)
            and wanted(image, summaries) and not _mounts(image, summaries, held)
        ]  # fmt: skip
        away = {image.digest for image in going}
        after = catalog.changed(e for e in catalog.entries if e.digest not in away)
        if going:
            after = _write(after, layout)
        for image in going:
            removed.untagged += _untagged(image.entries, image.repo_digests)
        others = {entry.digest for entry in after.entries}
        take(store, {image.digest: removed for image in going}, others, summaries, held)
        removed.freed += collect(store, after, held)
        store.derive(after, summaries)
    return removed
