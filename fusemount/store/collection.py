"""Law: files that no name leads to are deleted, unless a living process relies on them.

delete_unshared() deletes the files that only given manifests need.  Its cost grows with the files
that it deletes, because the summaries list what the other images need.  collect() looks at every
file of the store, and deletes all that nothing leads to.  So it finds what a crash left (S3), too.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import field
from pathlib import Path

from fusemount.dataclass import dataclass
from fusemount.digest import Digest
from fusemount.image.fields import DOCUMENT_BYTES_MAX
from fusemount.layer import chunkcache
from fusemount.layer.filestate import identity
from fusemount.ownfile import is_still, lock_if_free, open_file
from fusemount.store import diffids, layerdb
from fusemount.store.catalog import Catalog
from fusemount.store.layout import TMP, Layout, names_in, store_errors
from fusemount.store.locks import LiveLease
from fusemount.store.store import Store
from fusemount.store.summary import LayerRow, Summaries, Summary


@dataclass
class Removed:
    """What a removal took away.

    untagged: names as docker shows them.  freed: bytes.  deleted: digests of manifests and configs,
    and the chain IDs of layers, which docker prints, too.
    """

    untagged: list[str] = field(default_factory=list)
    deleted: list[Digest] = field(default_factory=list)
    freed: int = 0


def delete_unshared(
    store: Store,
    gone: Mapping[Digest, Removed],
    others: Iterable[Digest],
    summaries: Summaries,
    leases: Sequence[LiveLease],
) -> None:
    """Deletes the files that only these manifests need.

    gone: manifests that index.json does not list any more, and where to add what was deleted.
    others: the manifests that it lists.  If one of them cannot be read, it is not known which blobs
    it needs.  Then only the manifests are deleted, and their blobs stay for `prune`.
    """
    if not gone:
        return
    others = list(others)
    if any(_is_unknown(s) for other in others for _, s in summaries.reached(other)):
        for manifest, removed in gone.items():
            removed.freed += _unlink_blobs(store.layout, [manifest])
            removed.deleted.append(manifest)
        return
    kept_blobs = {digest for h in leases for digest in h.digests}
    kept_chains: dict[Digest, LayerRow] = {}
    kept_diffs = {_diff_of(store.layout, digest) for digest in kept_blobs}
    for other in others:
        kept_blobs |= summaries.blobs(other)
        for _, summary in summaries.reached(other):
            kept_chains |= dict(zip(summary.chain, summary.layers, strict=True))
            kept_diffs |= {layer.diff_id.hex for layer in summary.layers}
            kept_diffs |= {_diff_of(store.layout, digest) for digest in summary.blobs}
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
        layerdb.remove_entries(store.layout, new)
        blobs = dict.fromkeys([*(d for d, _ in of_gone), *sorted(summaries.blobs(manifest))])
        away = {digest: None for digest in blobs if digest not in kept_blobs}  # manifests first
        layerdb.repoint(store.layout, staying, {digest.hex for digest in away})
        removed.deleted += [*(d for d in _shown(summaries, manifest) if d in away), *new]
        removed.freed += _unlink_blobs(store.layout, away)
        for _, summary in of_gone:
            for layer in summary.layers:
                if layer.diff_id.hex not in kept_diffs:
                    removed.freed += _forget(store.layout, layer.diff_id)


def _is_unknown(summary: Summary) -> bool:
    """Whether it is not known which blobs the image needs.

    If only its config is damaged, the manifest lists them.
    """
    return summary.what == "damaged" and not summary.blobs


def _shown(summaries: Summaries, manifest: Digest) -> list[Digest]:
    """The digests that a removal prints: the configs, then the manifest."""
    found: dict[Digest, None] = {}
    for _, summary in summaries.reached(manifest):
        found |= {summary.config: None} if summary.config is not None else {}
    return [*found, manifest]


def _unlink_blobs(layout: Layout, blobs: Iterable[Digest]) -> int:
    freed = 0
    with store_errors(layout.blobs):
        for digest in blobs:
            facts = facts_of(layout, layout.blob(digest))
            freed += unlink(layout.blob(digest)) + unlink(layout.diff_id(digest))
            freed += unlink(layout.children(digest))
            freed += unlink(facts) if facts is not None else 0
            for suffix in _POINTS:
                freed += unlink(layout.cache / "points" / f"{digest.hex}{suffix}")
    return freed


_POINTS = (".pts", ".zst", ".json")  # of layer/cache.py


def facts_of(layout: Layout, blob: Path) -> Path | None:
    """Where layer/cache.py keeps the facts of a blob; None if there is no such blob."""
    try:
        fd = open_file(blob)
    except OSError:
        return None
    try:
        return layout.cache / "facts" / f"{identity(fd, 0, os.fstat(fd).st_size)}.json"
    finally:
        os.close(fd)


def _forget(layout: Layout, diff_id: Digest) -> int:
    """Deletes what the cache has of a layer whose blob is deleted.  Returns the bytes freed."""
    freed = unlink(layout.cache / "layers" / f"{diff_id.hex}.tar")
    freed += unlink(layout.cache / "layers" / f"{diff_id.hex}.json")
    freed += unlink(layout.cache / "index" / f"{diff_id.hex}.idx")
    freed += unlink(layout.cache / "chunks" / f"{diff_id.hex}.sums")
    return freed + unlink(layout.metadata / diff_id.hex)


def unlink(path: Path) -> int:
    """Returns the bytes freed; 0 if there is no such file."""
    try:
        size = os.lstat(path).st_blocks * 512
        os.unlink(path)
    except FileNotFoundError:
        return 0
    return size


def collect(
    store: Store, catalog: Catalog, leases: Sequence[LiveLease], chunks: Path | None = None
) -> int:
    """Deletes all files that nothing leads to.  Returns the bytes freed.  chunks: as of `prune`.

    The caller has the exclusive lock.  If the manifest of one image cannot be read, it is not known
    which blobs it needs, and all blobs stay.
    """
    layout, summaries = store.layout, Summaries(store.layout, tolerant=True)
    blobs = {digest for h in leases for digest in h.digests}
    chains: dict[Digest, LayerRow] = {}
    listed: set[Digest] = set()
    freed = _sweep_parts(layout)
    for manifest, media_type in catalog.manifests.items():
        blobs |= summaries.blobs(manifest, media_type)
        for _, summary in summaries.reached(manifest, media_type):
            if _is_unknown(summary):
                return freed  # `verify` says which image is damaged
            chains |= dict(zip(summary.chain, summary.layers, strict=True))
            listed |= set(summary.blobs)
    hexes = {digest.hex for digest in blobs}
    unreached = [name for name in names_in(layout.blobs) if name not in hexes]
    diff_ids = {layer.diff_id.hex for layer in chains.values()}
    held = {digest for h in leases for digest in h.digests}
    diff_ids |= {_diff_of(layout, digest) for digest in held | listed}
    layerdb.sweep(layout)
    layerdb.remove_entries(layout, [c for c in layerdb.chains(layout) if c not in chains])
    layerdb.repoint(layout, chains, frozenset(unreached))
    for name in sorted(unreached, key=lambda name: not _leads_on(layout.blobs / name)):
        freed += unlink(layout.blobs / name)
    freed += _sweep(layout.diff_ids, hexes) + _sweep(layout.indexes, hexes)
    freed += _sweep(layout.metadata, diff_ids)
    freed += _sweep_tmp(layout.root) + _sweep_tmp(layout.cache)
    if chunks is not None:
        freed += chunkcache.keep_only(chunks, {f"{diff_id}.data" for diff_id in diff_ids})
    return freed + _sweep_cache(layout, diff_ids, blobs)


def _leads_on(path: Path) -> bool:
    """Whether the blob is a manifest or an index.

    These are deleted before the blobs that they list.  Otherwise a crash could leave a manifest
    without its layers, which an index that is pulled later would lead to.
    """
    try:
        with open(open_file(path), "rb") as file:
            data = file.read(DOCUMENT_BYTES_MAX) if file.read(1) == b"{" else b""
    except OSError:
        return False
    return b'"layers"' in data or b'"manifests"' in data


def _diff_of(layout: Layout, digest: Digest) -> str:
    """Hex digits of a blob's diff_id; an uncompressed layer's are those of its own digest."""
    known = diffids.known(layout, digest)
    return digest.hex if known is None else known.diff_id.hex


def _sweep(directory: Path, kept: set[str]) -> int:
    return sum(unlink(directory / name) for name in names_in(directory) if name not in kept)


def _sweep_tmp(directory: Path) -> int:
    return sum(unlink(directory / n) for n in names_in(directory) if n.startswith(TMP))


def _sweep_parts(layout: Layout) -> int:
    """Deletes parts that no process writes.  Returns the bytes freed."""
    freed = 0
    for name in names_in(layout.ingest):
        with _idle(layout.ingest / name) as idle:
            freed += unlink(layout.ingest / name) if idle else 0
    return freed


def drop_part(layout: Layout, digest: Digest) -> None:
    """Deletes the part of a blob, unless a process writes it."""
    path = layout.part(digest)
    with _idle(path) as idle:
        if idle:
            unlink(path)


@contextmanager
def _idle(part: Path) -> Iterator[bool]:
    """Whether no process writes this part.  None can begin to within the block."""
    try:
        fd = open_file(part, os.O_RDWR)
    except FileNotFoundError:
        yield False
        return
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        yield not stat.S_ISDIR(os.lstat(part).st_mode)  # a part that is written is a regular file
        return
    try:
        # if it became a blob meanwhile, another process's part may have the path
        yield lock_if_free(fd) and is_still(fd, part)
    finally:
        os.close(fd)


def is_at_work(part: Path) -> bool:
    """Whether a process writes this part."""
    with _idle(part) as idle:
        return not idle


def _sweep_cache(layout: Layout, diff_ids: set[str], blobs: Iterable[Digest]) -> int:
    facts = (facts_of(layout, layout.blob(digest)) for digest in blobs)
    known = {path.name for path in facts if path is not None}
    directory = layout.cache / "facts"
    known |= {name for name in names_in(directory) if name.startswith(TMP)}  # of a living mount
    freed = _sweep(directory, known)
    hexes = {digest.hex for digest in blobs}
    for name, stems, suffixes in (
        ("layers", diff_ids, (".tar", ".json")),
        ("index", diff_ids, (".idx",)),
        ("chunks", diff_ids, (".sums",)),
        ("points", hexes, _POINTS),
    ):
        directory = layout.cache / name
        kept = {stem + suffix for stem in stems for suffix in suffixes}
        kept |= {entry for entry in names_in(directory) if entry.startswith(TMP)}
        freed += _sweep(directory, kept)
    return freed
