"""Law: names go, then what no name leads to; what a living process relies on stays until it ends.

remove() costs what it takes away: what else an image shares is known from the summaries.  collect()
looks at every file of the store, and takes whatever nothing leads to: what a crash left (S3), too.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import field, replace
from pathlib import Path

from fusemount.dataclass import dataclass
from fusemount.digest import Digest
from fusemount.errors import ImageInUse, ImgmountError, NoSpace
from fusemount.image.fields import DOCUMENT_BYTES_MAX
from fusemount.imagename import parse_name
from fusemount.layer.filestate import identity
from fusemount.ownfile import open_file
from fusemount.store import diffids, layerdb
from fusemount.store.catalog import Catalog, Entry
from fusemount.store.layout import TMP, Layout, names_in, translated
from fusemount.store.locks import MOUNT, Held, living, locked
from fusemount.store.store import LISTED_MAX, Store, StoredImage
from fusemount.store.summary import LayerRow, Summaries


@dataclass
class Removed:
    """untagged: names as docker shows them.  deleted: digests of manifests, configs and layers
    (chain IDs, as docker says them).  freed: bytes."""

    untagged: list[str] = field(default_factory=list)
    deleted: list[Digest] = field(default_factory=list)
    freed: int = 0


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
            _take(store, gone, {entry.digest for entry in after.entries}, summaries, held)
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
        _gone(layout.summaries)
        _gone(layout.repositories)
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


def _take(
    store: Store,
    gone: Mapping[Digest, Removed],
    others: Iterable[Digest],
    summaries: Summaries,
    held: Sequence[Held],
) -> None:
    """What only these manifests need.  What a damaged image needs nobody knows: beside one, the
    manifests alone go, and what they led to stays for `prune`."""
    if not gone:
        return
    others = list(others)
    if any(s.what == "damaged" for other in others for _, s in summaries.reached(other)):
        for manifest, removed in gone.items():
            removed.freed += _unlink(store.layout, [manifest])
            removed.deleted.append(manifest)
        return
    kept_blobs = {digest for h in held for digest in h.digests}
    kept_chains: dict[Digest, LayerRow] = {}
    kept_diffs = {_diff_of(store.layout, digest) for digest in kept_blobs}
    for other in others:
        kept_blobs |= summaries.blobs(other)
        for _, summary in summaries.reached(other):
            kept_chains |= dict(zip(summary.chain, summary.layers, strict=True))
            kept_diffs |= {layer.diff_id.hex for layer in summary.layers}
    taken: set[Digest] = set()
    for manifest, removed in gone.items():
        of_gone = list(summaries.reached(manifest))
        chains: dict[Digest, None] = {}
        staying: dict[Digest, LayerRow] = {}
        for _, summary in of_gone:
            chains |= dict.fromkeys(c for c in reversed(summary.chain) if c not in kept_chains)
            staying |= {c: kept_chains[c] for c in summary.chain if c in kept_chains}
        new = [ident for ident in chains if ident not in taken]
        taken |= set(new)
        layerdb.take_away(store.layout, new)
        blobs = dict.fromkeys([*(d for d, _ in of_gone), *sorted(summaries.blobs(manifest))])
        away = [digest for digest in blobs if digest not in kept_blobs]  # manifests first
        layerdb.lead_to(store.layout, staying, {digest.hex for digest in away})
        removed.deleted += [d for d in _shown(summaries, manifest) if d in away]
        removed.deleted += new
        removed.freed += _unlink(store.layout, away)
        for _, summary in of_gone:
            for layer in summary.layers:
                if layer.diff_id.hex not in kept_diffs:
                    removed.freed += _forget(store.layout, layer.diff_id)


def _shown(summaries: Summaries, manifest: Digest) -> list[Digest]:
    found: dict[Digest, None] = {}
    for _, summary in summaries.reached(manifest):
        found |= {summary.config: None} if summary.config is not None else {}
    return [*found, manifest]


def _unlink(layout: Layout, blobs: Iterable[Digest]) -> int:
    freed = 0
    with translated(layout.blobs):
        for digest in blobs:
            facts = facts_of(layout, layout.blob(digest))
            freed += _gone(layout.blob(digest)) + _gone(layout.diff_id(digest))
            freed += _gone(facts) if facts is not None else 0
    return freed


def facts_of(layout: Layout, blob: Path) -> Path | None:
    """Where layer/cache.py keeps what it knows of a blob; None: there is no such blob."""
    try:
        fd = open_file(blob)
    except OSError:
        return None
    try:
        return layout.cache / "facts" / f"{identity(fd, 0, os.fstat(fd).st_size)}.json"
    finally:
        os.close(fd)


def _forget(layout: Layout, diff_id: Digest) -> int:
    """What can be made again of a layer whose blob is gone; bytes freed."""
    freed = _gone(layout.cache / "layers" / f"{diff_id.hex}.tar")
    freed += _gone(layout.cache / "layers" / f"{diff_id.hex}.json")
    freed += _gone(layout.cache / "index" / f"{diff_id.hex}.idx")
    return freed + _gone(layout.metadata / diff_id.hex)


def _gone(path: Path) -> int:
    """Bytes that were freed."""
    try:
        size = os.lstat(path).st_blocks * 512
        os.unlink(path)
    except FileNotFoundError:
        return 0
    return size


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
        _take(store, {image.digest: removed for image in going}, others, summaries, held)
        removed.freed += collect(store, after, held)
        store.derive(after, summaries)
    return removed


def collect(store: Store, catalog: Catalog, held: Sequence[Held]) -> int:
    """Bytes freed.  Under the exclusive lock.  A damaged image keeps all that may be its own."""
    layout, summaries = store.layout, Summaries(store.layout)
    blobs = {digest for h in held for digest in h.digests}
    chains: dict[Digest, LayerRow] = {}
    freed = _sweep_parts(layout)
    for entry in catalog.entries:
        try:
            blobs |= summaries.blobs(entry.digest, entry.descriptor.media_type)
        except ImgmountError:
            return freed  # `verify` names it; what it needs cannot be known
        for _, summary in summaries.reached(entry.digest):
            chains |= dict(zip(summary.chain, summary.layers, strict=True))
    hexes = {digest.hex for digest in blobs}
    unreached = [name for name in names_in(layout.blobs) if name not in hexes]
    diff_ids = {layer.diff_id.hex for layer in chains.values()}
    diff_ids |= {_diff_of(layout, digest) for h in held for digest in h.digests}
    layerdb.sweep(layout)
    layerdb.take_away(layout, [c for c in layerdb.chains(layout) if c not in chains])
    layerdb.lead_to(layout, chains, frozenset(unreached))
    for name in sorted(unreached, key=lambda name: not _leads_on(layout.blobs / name)):
        freed += _gone(layout.blobs / name)
    freed += _sweep(layout.diff_ids, hexes)
    freed += _sweep(layout.metadata, diff_ids)
    freed += _sweep_tmp(layout.root) + _sweep_tmp(layout.cache)
    return freed + _sweep_cache(layout, diff_ids, blobs)


def _leads_on(path: Path) -> bool:
    """A manifest or an index: it goes before what it leads to, or half an image would be there for
    an index that lists it."""
    try:
        with open(open_file(path), "rb") as file:
            data = file.read(DOCUMENT_BYTES_MAX) if file.read(1) == b"{" else b""
    except OSError:
        return False
    return b'"layers"' in data or b'"manifests"' in data


def _diff_of(layout: Layout, digest: Digest) -> str:
    known = diffids.known(layout, digest)
    return digest.hex if known is None else known.diff_id.hex


def _sweep(directory: Path, kept: set[str]) -> int:
    return sum(_gone(directory / name) for name in names_in(directory) if name not in kept)


def _sweep_tmp(directory: Path) -> int:
    return sum(_gone(directory / n) for n in names_in(directory) if n.startswith(TMP))


def _sweep_parts(layout: Layout) -> int:
    """Broken downloads that nobody goes on with."""
    freed = 0
    for name in names_in(layout.ingest):
        with _idle(layout.ingest / name) as idle:
            freed += _gone(layout.ingest / name) if idle else 0
    return freed


@contextmanager
def _idle(part: Path) -> Iterator[bool]:
    """Whether nobody writes this part; nobody begins to within the block."""
    try:
        fd = open_file(part, os.O_RDWR)
    except FileNotFoundError:
        yield False
        return
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        yield not stat.S_ISDIR(os.lstat(part).st_mode)  # nobody works at what is no file
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
    else:
        yield _is_still(fd, part)  # else it became a blob, and another's part stands there
    finally:
        os.close(fd)


def is_at_work(part: Path) -> bool:
    with _idle(part) as idle:
        return not idle


def _is_still(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    except FileNotFoundError:
        return False


def _sweep_cache(layout: Layout, diff_ids: set[str], blobs: Iterable[Digest]) -> int:
    facts = (facts_of(layout, layout.blob(digest)) for digest in blobs)
    known = {path.name for path in facts if path is not None}
    directory = layout.cache / "facts"
    known |= {name for name in names_in(directory) if name.startswith(TMP)}  # a mount's
    freed = _sweep(directory, known)
    for name, suffixes in (("layers", (".tar", ".json")), ("index", (".idx",))):
        directory = layout.cache / name
        kept = {diff_id + suffix for diff_id in diff_ids for suffix in suffixes}
        kept |= {entry for entry in names_in(directory) if entry.startswith(TMP)}
        freed += _sweep(directory, kept)
    return freed
