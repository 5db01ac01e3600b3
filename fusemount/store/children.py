"""Law: remembers which of the manifests that an index lists came with it; only these are its own.

An index may list any digest, also that of a manifest which the store has of another image.  A push
would publish that image as a part of this one, although the maker of the index never had that
image.

ROOT/distribution/children-by-index has a file for each index that was pulled or loaded:

    sha256/<hex of the index>    {"version":1,"sha256":...}      (record.py)
                                 ["sha256:<manifest>",...]

Without a file, or with a damaged one, all blobs of the store that are manifests count: another
program brought the index.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence

from fusemount.dataclass import dataclass
from fusemount.digest import Digest
from fusemount.errors import MalformedImage
from fusemount.image.parse import parse_index_or_manifest
from fusemount.record import read_sealed, sealed
from fusemount.store.catalog import Catalog
from fusemount.store.layout import Layout, replace_file, store_errors
from fusemount.store.locks import locked

_VERSION = 1


def _key(index: Digest) -> str:
    return f"children of {index}"


def known(layout: Layout, index: Digest) -> set[str] | None:
    """None if there is no file for this index, or a damaged one."""
    data = read_sealed(layout.children(index), _VERSION, _key(index))
    return None if data is None else set(json.loads(data))


def own(layout: Layout, index: Digest, listed: Iterable[Digest]) -> tuple[Digest, ...]:
    """Those of the listed manifests that came with the index and are in the store, in order."""
    came = known(layout, index)
    if came is not None:
        return tuple(d for d in listed if d in came and layout.has_blob(d))
    in_order = tuple(listed)
    there = {d for d in set(in_order) if layout.has_blob(d) and _may_be_manifest(layout, d)}
    return tuple(d for d in in_order if d in there)


def _may_be_manifest(layout: Layout, digest: Digest) -> bool:
    """False for an undamaged blob that is no manifest: the index of another program may list the
    digest of any blob, and no layer may keep the store from knowing what the index needs."""
    try:
        data = layout.document(digest)
    except MalformedImage:
        return False  # too large for a manifest
    except OSError:
        return True
    try:
        parse_index_or_manifest(data, digest)
    except MalformedImage:
        return Digest.of(data) != digest
    return True


@dataclass(frozen=True)
class Came:
    """Manifests that came with an index now.  listed: all of the index."""

    index: Digest
    came: Collection[Digest]
    listed: Collection[Digest]


def remember(layout: Layout, new: Sequence[Came]) -> None:
    """Adds manifests that came now.  Raises NoSpace, ImgmountError.

    It must be called before the indexes get their names in the store.
    """
    if not new:
        return
    with locked(layout, exclusive=True), store_errors(layout.indexes):
        named = Catalog.read(layout).manifests
        for each in new:
            index, listed = each.index, each.listed
            before: set[str] | None = known(layout, index)
            if before is None and index in named:  # of another program, which says no more
                before = set(own(layout, index, listed))  # than index.json does
            after = (before or set()) | set(each.came)
            if after != before:
                data = json.dumps(sorted(after), separators=(",", ":")).encode()
                replace_file(layout.children(index), sealed(data, _VERSION, _key(index)))
