"""Law: remembers which of the manifests that an index lists came with it; only these are its own.

An index may list any digest, also that of a manifest which the store has of another image.  A push
would publish that image as a part of this one, although the maker of the index never had that
image.

ROOT/distribution/children-by-index has a file for each index that was pulled or loaded:

    sha256/<hex of the index>    {"version":1,"sha256":...}      (record.py)
                                 ["sha256:<manifest>",...]

Without a file, or with a damaged one, all manifests that are in the store count: another program
brought the index.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from fusemount.digest import Digest
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
    return tuple(d for d in listed if (came is None or d in came) and layout.has_blob(d))


def remember(
    layout: Layout, index: Digest, came: Iterable[Digest], listed: Iterable[Digest]
) -> None:
    """Adds manifests that came now.  listed: all of the index.  Raises NoSpace, ImgmountError.

    It must be called before the index gets its name in the store.
    """
    path = layout.children(index)
    with locked(layout, exclusive=True), store_errors(path):
        before: set[str] | None = known(layout, index)
        # Another program has added the index, and did not record which manifests came with it.
        if before is None and Catalog.read(layout).of(index):
            before = set(own(layout, index, listed))
        after = (before or set()) | set(came)
        if after != before:
            data = json.dumps(sorted(after), separators=(",", ":")).encode()
            replace_file(path, sealed(data, _VERSION, _key(index)))
